"""Questions of tests, which are kept out of training data."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .messages import MalformedRowError
from .sources import open_sources


# [ours] A training question that shares this many consecutive words with a text of the tests counts as a leak.
SHARED_WORDS = 8
_WORD = re.compile(r"\w+")


class TestQuestions:
    """
    The questions that training data must not hold.

    Args:
        dataset_names (`Iterable[str]`):
            Files or directories of tests, with any columns. Every text in them counts as a question.

    Raises:
        `ValueError`: If a row cannot be read, because its question could not be kept out.
    """

    __test__ = False  # pytest would collect the class because of its name

    def __init__(self, dataset_names: Iterable[str] = ()) -> None:
        self.short: set[tuple[str, ...]] = set()
        self.runs: set[tuple[str, ...]] = set()
        for name in dataset_names:
            for source in open_sources(name, "train", None):
                for index, raw in enumerate(source.rows):
                    if isinstance(raw, MalformedRowError):
                        raise ValueError(
                            f"{source.name}, row {index}: {raw}. Correct the row, or its question is not kept out."
                        ) from raw
                    for text in _texts(raw):
                        words = plain_words(text)
                        self.short.add(words)
                        self.runs.update(_runs(words))

    def hold(self, words: tuple[str, ...]) -> bool:
        """Tell whether a question equals one of them word by word, or shares 8 consecutive words with one."""
        return words in self.short or not self.runs.isdisjoint(_runs(words))


def plain_words(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and blanks."""
    return tuple(_WORD.findall(text.casefold()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[start : start + SHARED_WORDS] for start in range(len(words) - SHARED_WORDS + 1))
