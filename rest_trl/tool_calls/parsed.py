"""What a parsed completion is: calls, spans and the reasons why something was no call."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple


class Region(IntEnum):
    """
    Region of a completion token (paper, "region-aware partition").

    `NONE` is for tokens that are not the policy's: padding, tool results, template glue.
    """

    NONE = 0
    FORMAT = 1
    TOOL_NAME = 2
    PARAMETERS = 3
    REASONING = 4
    RESPONSE = 5


class Part(IntEnum):
    """
    A finer [`Region`], which tells tags from the JSON around a call, and parameter names from their values.

    The released code weighs tags and leaves the JSON around the arguments at zero, although the paper counts both as
    format: a rule that follows the code needs the distinction. A token that holds several parts counts as the one with
    the highest value: any byte of a tool name, for example, makes a token part of the choice of the tool.
    """

    NONE = 0
    RESPONSE = 1
    REASONING = 2
    STRUCTURE = 3
    TAG = 4
    PARAMETER_VALUE = 5
    PARAMETER_NAME = 6
    TOOL_NAME = 7

    @property
    def region(self) -> Region:
        """The [`Region`] that this part belongs to."""
        return REGION_OF_PART[self]


# The scanners use these names, because reading a member off its class takes 0.1 us in Python 3.11, which adds up to a
# tenth of a parse.
TAG, STRUCTURE, TOOL_NAME = Part.TAG, Part.STRUCTURE, Part.TOOL_NAME
PARAMETER_NAME, PARAMETER_VALUE = Part.PARAMETER_NAME, Part.PARAMETER_VALUE
REASONING, RESPONSE = Part.REASONING, Part.RESPONSE

REGION_OF_PART: tuple[Region, ...] = (
    Region.NONE,
    Region.RESPONSE,
    Region.REASONING,
    Region.FORMAT,
    Region.FORMAT,
    Region.PARAMETERS,
    Region.PARAMETERS,
    Region.TOOL_NAME,
)


class ToolCall(NamedTuple):
    """A call: the tool's name and its arguments as JSON values."""

    name: str
    arguments: dict[str, Any]


class Block(NamedTuple):
    """A top-level piece of a completion: `"reasoning"`, `"tool_call"` or `"response"`, and whether it was closed."""

    kind: str
    closed: bool


@dataclass
class ParsedCompletion:
    """
    What [`~rest_trl.tool_calls.ToolCallSyntax.parse`] finds in a text.

    The sequence of `parts` also tells the calls apart: a part `TOOL_NAME` starts a call and a part `PARAMETER_NAME`
    one of its parameters, unless a JSON object holds its arguments before its name.

    Args:
        calls (`list[ToolCall]`):
            The calls, in order. Empty when a call could not be read: a runtime would execute nothing.
        errors (`list[str]`):
            Why something that looks like a call is not one.
        parts (`list[tuple[int, int, Part]]`):
            `(start, end, part)` in characters: sorted, disjoint, covering the text.
        blocks (`list[Block]`):
            The top-level blocks in order, from which the format score is read.
        texts (`list[dict[str, Any]]`):
            The arguments of each call before `3` is read as a number; only where the syntax is untyped.
        is_cut (`bool`):
            Whether the text was cut off at a limit, which a parser cannot know: who samples says so, see [`was_cut`].
    """

    calls: list[ToolCall] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    parts: list[tuple[int, int, Part]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    is_cut: bool = False

    @property
    def spans(self) -> list[tuple[int, int, Region]]:
        """`(start, end, region)` in characters: sorted, disjoint, covering the text; neighbours differ in region."""
        spans: list[tuple[int, int, Region]] = []
        for start, end, part in self.parts:
            if spans and spans[-1][2] is part.region:
                spans[-1] = (spans[-1][0], end, part.region)
            else:
                spans.append((start, end, part.region))
        return spans


def was_cut(completion_ids: Sequence[int], end_ids: Collection[int]) -> bool:
    """
    Whether a completion was cut off, as it ends with none of the tokens that end one. Without them nobody knows.

    ```python
    >>> was_cut([5, 6], end_ids=[2]), was_cut([5, 2], end_ids=[2]), was_cut([5, 6], end_ids=[])
    (True, False, False)

    ```
    """
    return len(end_ids) > 0 and len(completion_ids) > 0 and completion_ids[-1] not in end_ids


_block = cache(Block)


class Draft:
    """A parse in progress. Parts are written from left to right, so they are sorted, disjoint and cover the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.parsed = ParsedCompletion()
        self._last: Part | None = None
        # Whether reasoning was found that nothing closes. No later reasoning is closed either, and searching the rest
        # of the text for a closing tag again at every opening one would take quadratic time.
        self.has_unclosed_reasoning = False
        self._found: dict[re.Pattern[str], int] = {}

    def write(self, until: int, part: Part) -> None:
        """Give everything from the current position up to `until` (characters, exclusive) to `part`."""
        start = self.position
        if until > start:
            parts = self.parsed.parts
            if part is self._last:
                start = parts.pop()[0]
            parts.append((start, until, part))
            self.position, self._last = until, part

    def write_all(self, ends: Iterable[tuple[int, Part]]) -> None:
        """[`write`](Draft.write) for many parts. A call for each takes as long as the rest of a parse."""
        parts, position, last = self.parsed.parts, self.position, self._last
        for until, part in ends:
            if until > position:
                if part is last:
                    position = parts.pop()[0]
                parts.append((position, until, part))
                position, last = until, part
        self.position, self._last = position, last

    def find(self, pattern: re.Pattern[str], position: int) -> int:
        """
        Where the first match at or after `position` (characters) starts, or the end of the text.

        A match that is far ahead is remembered, so that asking for it again on the way there takes no time.
        """
        found = self._found.get(pattern, -1)
        if found < position:
            match = pattern.search(self.text, position)
            found = self._found[pattern] = match.start() if match else len(self.text)
        return found

    def block(self, kind: str, closed: bool) -> None:
        """Append a top-level [`Block`]."""
        self.parsed.blocks.append(_block(kind, closed))
