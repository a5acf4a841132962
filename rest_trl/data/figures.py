"""Figures that describe a data set as training sees it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..tool_calls import ToolCallSyntax
from .examples import Example
from .loading import Prepared


@dataclass(frozen=True)
class Summary:
    """Figures of a prepared data set."""

    prompt_lengths: list[int]  # tokens, also of the prompts dropped for their length
    solution_lengths: list[int]  # tokens of the golds that are kept
    tools: Counter[int]  # rows with a kept example, by the number of tools that they declare
    with_calls: int  # golds with calls that can all be read
    without_calls: int
    unreadable: list[str]  # place and first error of each gold with something unreadable in the place of a call


def summarize(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, syntax: ToolCallSyntax) -> Summary:
    """Count what a data set holds."""
    parsed = [syntax.parse(example.solution) for example in prepared.examples]
    unreadable = [
        f"{example.source}, step {example.step}: {found.errors[0]}"
        for example, found in zip(prepared.examples, parsed, strict=True)
        if found.errors
    ]
    with_calls = sum(bool(found.calls) and not found.errors for found in parsed)
    rows: dict[str, Example] = {example.source: example for example in prepared.examples}
    return Summary(
        prompt_lengths=_lengths([e.prompt for e in (*prepared.examples, *prepared.too_long)], tokenizer),
        solution_lengths=_lengths([e.solution for e in prepared.examples], tokenizer),
        tools=Counter(len(example.given.tools or []) for example in rows.values()),
        with_calls=with_calls,
        without_calls=len(parsed) - with_calls - len(unreadable),
        unreadable=unreadable,
    )


def bins(values: list[int], number: int = 10) -> list[tuple[int, int, int]]:
    """
    Sort whole numbers into bins of equal width.

    Example:

    ```python
    >>> bins([1, 2, 2, 7], number=3)
    [(1, 3, 3), (4, 6, 0), (7, 9, 1)]

    ```
    """
    if not values:
        return []
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // number)
    counts = Counter((value - low) // width for value in values)
    return [(low + i * width, low + (i + 1) * width - 1, counts[i]) for i in range((high - low) // width + 1)]


def _lengths(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    encoded: Any = tokenizer(texts) if texts else {"input_ids": []}
    return [len(ids) for ids in encoded["input_ids"]]
