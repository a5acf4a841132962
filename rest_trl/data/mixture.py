"""The paper's mixture of data sets: 2,000 steps of ToolACE, 1,000 of Hammer with masked names, 1,000 of xLAM."""

import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from .examples import read_steps
from .masking import check_masks, mask_step
from .messages import REASONING_KEYS, MalformedRowError, Message, Step, text
from .sources import open_sources


# What the file keeps of a message beside role, content and calls, where a message has it.
_KEPT = ("name", *REASONING_KEYS)
# [ours] A training question that shares this many consecutive words with a text of the tests counts as a leak.
SHARED_WORDS = 8
_WORD = re.compile(r"\w+")


class MixturePart(NamedTuple):
    """One part of a mixture."""

    name: str
    dataset_name: str
    number: int  # of steps
    masks: tuple[str, ...] = ()  # which names of the tools become random


class Dialogue(NamedTuple):
    """The steps of one row, the plain words of its first question, and the place of the row (`name#row`)."""

    words: tuple[str, ...]
    steps: list[Step]
    source: str


@dataclass
class PartReport:
    """What became of the rows of a part: each counts as malformed, as `same_query` or as a leak, or could be drawn."""

    name: str
    schema: str
    rows: int
    malformed: list[str]  # place and reason of each row that cannot be read
    same_query: int = 0  # rows whose first question is that of an earlier row, or is drawn for an earlier part
    leaks: int = 0  # rows with a question that the tests hold
    drawn: int = 0  # steps for training
    test: int = 0  # steps for the test


class TestQuestions:
    """The questions that training data must not hold: all texts in files of tests, with any columns."""

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
                    for question in _texts(raw):
                        words = plain_words(question)
                        self.short.add(words)
                        self.runs.update(_word_runs(words))

    def hold(self, words: tuple[str, ...]) -> bool:
        """Tell whether a question equals one of them word by word, or shares 8 consecutive words with one."""
        return words in self.short or not self.runs.isdisjoint(_word_runs(words))


def plain_words(question: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and blanks."""
    return tuple(_WORD.findall(question.casefold()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _word_runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[start : start + SHARED_WORDS] for start in range(len(words) - SHARED_WORDS + 1))


def build_mixture(
    parts: Sequence[MixturePart], seed: int = 0, tests: TestQuestions | None = None, test_number: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[PartReport]]:
    """
    Draw steps from several data sets.

    The steps of a dialogue are drawn together, all for training or all for the test. No first question is in two parts
    or on both sides, because Hammer's rows are those of xLAM with other names.

    Args:
        parts (`Sequence[MixturePart]`):
            The parts.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw, the masks and the order.
        tests ([`TestQuestions`], *optional*):
            Questions to keep out of both sides.
        test_number (`int`, *optional*, defaults to `0`):
            Number of further steps to hold out as a test, from all parts in proportion.

    Returns:
        `tuple[list[dict], list[dict], list[PartReport]]`: Rows of training and of the test, with the columns `prompt`,
        `completion`, `tools`, `part` and `source`, and one report per part.
    """
    for part in parts:
        check_masks(part.masks)
    tests = tests or TestQuestions()
    taken: set[tuple[str, ...]] = set()
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    reports = []
    for part, share in zip(parts, _shares(test_number, [part.number for part in parts]), strict=True):
        dialogues, report = _read_part(part, taken, tests)
        reports.append(report)
        random.Random(f"{seed} {part.name}").shuffle(dialogues)
        queue = iter(dialogues)
        report.test, report.drawn = share, part.number
        for number, side in ((report.test, sides[1]), (report.drawn, sides[0])):
            steps = list(_draw(queue, number, taken))
            if len(steps) < number:
                raise ValueError(
                    f"{part.name}: {part.dataset_name} has {sum(len(d.steps) for d in dialogues)} steps that can be "
                    f"drawn, and {report.test + report.drawn} are asked for: ask for fewer"
                )
            for step, source in steps:
                masked = mask_step(step, part.masks, f"{seed} {source}")
                side.append({**_columns(masked), "part": part.name, "source": source})
    for side in sides:
        random.Random(seed).shuffle(side)
    return sides[0], sides[1], reports


def write_mixture(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows to a Parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Dataset.from_list(rows).to_parquet(temporary)
    os.replace(temporary, path)


def _shares(number: int, weights: Sequence[int]) -> list[int]:
    """Divide a number in proportion to weights. What rounding down leaves goes to the largest remainders."""
    total = sum(weights)
    shares = [number * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(number * weights[index] % total))
    for index in by_remainder[: number - sum(shares)]:
        shares[index] += 1
    return shares


def _read_part(
    part: MixturePart, taken: set[tuple[str, ...]], tests: TestQuestions
) -> tuple[list[Dialogue], PartReport]:
    """The dialogues that can be drawn: one per first question that no earlier part has `taken`."""
    dialogues: list[Dialogue] = []
    seen = set(taken)
    report = PartReport(part.name, "", 0, [])
    for source in open_sources(part.dataset_name, "train", None):
        steps_of, found = read_steps(source)
        report.schema = found.schema
        report.rows += found.rows
        for index, raw in enumerate(source.rows):
            place = f"{source.name}#{index}"
            try:
                steps = steps_of(raw)
                questions = [plain_words(m["content"]) for m in _messages(steps[-1]) if m["role"] == "user"]
                if not questions:
                    raise MalformedRowError("nobody asks anything")
            except MalformedRowError as error:
                report.malformed.append(f"{place}: {error}")
                continue
            if questions[0] in seen:
                report.same_query += 1
            elif any(map(tests.hold, questions)):
                report.leaks += 1
            else:
                seen.add(questions[0])
                dialogues.append(Dialogue(questions[0], steps, place))
    return dialogues, report


def _draw(dialogues: Iterator[Dialogue], number: int, taken: set[tuple[str, ...]]) -> Iterator[tuple[Step, str]]:
    """The next `number` steps. The questions of their dialogues become `taken`; the last dialogue may be cut short."""
    while number > 0:
        dialogue = next(dialogues, None)
        if dialogue is None:
            return
        taken.add(dialogue.words)
        for step in dialogue.steps[:number]:
            yield step, dialogue.source
        number -= len(dialogue.steps)


def _messages(step: Step) -> list[Message]:
    """The history of a step, if all that the file keeps of it and of the turn can be written to columns."""
    if isinstance(step.history, str) or isinstance(step.turn, str):
        raise MalformedRowError("it holds text in a final form, which cannot be brought to the other parts' form")
    if step.alternatives is not None:
        raise MalformedRowError("its gold allows several values, which the file has no column for")
    for message in (*step.history, step.turn):
        for key in _KEPT:
            text(message.get(key, ""), f"{key} of a message")
    return step.history


def _columns(step: Step) -> dict[str, Any]:
    """Columns of the same types in all rows: arguments and tools, whose types differ, are JSON strings."""
    history, turn = _messages(step), step.turn
    assert isinstance(turn, dict)  # `_messages` has refused text
    return {
        "prompt": [_message(message) for message in history],
        "completion": [_message(turn)],
        "tools": json.dumps(step.tools or [], ensure_ascii=False),
    }


def _message(message: Message) -> dict[str, Any]:
    calls = [
        {
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in message.get("tool_calls", [])
    ]
    kept = {key: message[key] for key in _KEPT if key in message}
    return {"role": message["role"], "content": message["content"], "tool_calls": calls or None, **kept}
