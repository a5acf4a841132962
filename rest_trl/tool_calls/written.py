"""The calls of a turn as far as they were written, with the place of every parameter, readable or not."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from .parsed import Part
from .syntax import ToolCallSyntax


_NOWHERE = -1
# What stands around a name: white space, quotes, and what ends it.
_NAME = re.compile(r"""^(?:[\s"']|<\|"\|>)+|(?:[\s"']|<\|"\|>)*(?:[:=>]|</arg_key>)$""")


class WrittenParameter(NamedTuple):
    """
    A parameter of a written call, with its bounds in characters of the text.

    `start` is after the opening bracket or comma before its name; `middle` after what ends the name, such as the
    colon, or equal to `stop`; `stop` after the comma or bracket that ends the value, or past the end of the text.
    `name` is without quotes, and empty if it was not finished.
    """

    start: int
    middle: int
    stop: int
    name: str
    value: str


class WrittenCall(NamedTuple):
    """A call as far as it was written: the tool's name, empty if it comes after the arguments, and the parameters."""

    name: str
    parameters: list[WrittenParameter]


def written_calls(text: str, parts: Sequence[tuple[int, int, Part]], syntax: ToolCallSyntax) -> list[WrittenCall]:
    """
    The calls of a turn as far as they were written.

    `ParsedCompletion.calls` is empty if one call cannot be read; this list is not. Every bound lies just after the
    mark that sets it, so which parameter a position belongs to depends only on the text before that position, unless
    the parser looks ahead for the end of reasoning.

    `parts` are those that the syntax has found. Returns the calls whose arguments have started, in order.

    Example:

    ```python
    >>> from rest_trl.tool_calls import get_syntax
    >>> syntax = get_syntax("hermes")
    >>> text = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": [2'
    >>> [(call.name, [parameter[3:] for parameter in call.parameters]) for call in written_calls(
    ...     text, syntax.parse(text).parts, syntax
    ... )]
    [('f', [('a', ' 1'), ('b', ' [2')])]

    ```
    """
    calls: list[WrittenCall] = []
    reached = 0
    openings = list(_openings(text, parts, syntax))
    places = [opening for _, opening in openings]
    for name, opening in openings:
        if opening < reached:
            continue
        if syntax.argument_tags:
            parameters = list(_between_tags(text, opening, places, syntax.argument_tags))
        else:
            parameters = list(_between_marks(text, opening, syntax))
        reached = parameters[-1].stop if parameters else opening
        calls.append(WrittenCall(name, parameters))
    return calls


def _openings(text: str, parts: Sequence[tuple[int, int, Part]], syntax: ToolCallSyntax) -> Iterator[tuple[str, int]]:
    """Where the arguments of each call open, and the tool's name if it stands before them in the same call."""
    marks = _marks(syntax.argument_strings, syntax.name_end, syntax.markers)
    name, name_stop, depth = "", 0, 0
    for start, stop, part in parts:
        opening = None
        if part is Part.TOOL_NAME:
            name, name_stop, depth = text[start:stop], stop, 0
            opening = syntax.arguments_after_name(text, stop)
        elif part is Part.PARAMETER_VALUE and text[start] == "{":
            opening = start + 1
        elif name and part is Part.TAG and syntax.call and syntax.call in text[start:stop]:
            name = ""
        elif name and part is Part.STRUCTURE:
            # Where the name stands in the JSON object of its call, a brace that closes that object or opens another
            # one divides the name from arguments after it. The quote that closes the name opens no string.
            quoted = start == name_stop and text[start] == '"'
            for match in marks.finditer(text, start + quoted, stop):
                depth += (match.group() == "{") - (match.group() == "}")
                if depth < 0:
                    name = ""
        if opening is not None:
            yield name if depth == 0 else "", opening
            name, depth = "", 0


@lru_cache
def _marks(strings: str, name_end: str, markers: tuple[str, ...]) -> re.Pattern[str]:
    """The pattern of a string, a marker, or a character that divides arguments."""
    marker = "|".join(map(re.escape, markers))
    return re.compile(rf"(?:{strings})|(?P<marker>{marker})|[{{}}\[\](),{name_end}]", re.DOTALL)


def _between_marks(text: str, opening: int, syntax: ToolCallSyntax) -> Iterator[WrittenParameter]:
    """The parameters, divided by commas, up to the bracket that closes the arguments or a marker of the syntax."""
    marks = _marks(syntax.argument_strings, syntax.name_end, syntax.markers)
    depth, start, middle = 1, opening, _NOWHERE
    for match in marks.finditer(text, opening):
        mark = match.group()
        if mark in ("{", "[", "("):
            depth += 1
        elif mark in ("}", "]", ")"):
            depth -= 1
        elif match["marker"]:
            depth = 0
        if mark == syntax.name_end and depth == 1 and middle == _NOWHERE:
            middle = match.end()
        elif (mark == "," and depth == 1) or depth == 0:
            yield _parameter(text, start, middle, match.start(), match.end())
            start, middle = match.end(), _NOWHERE
        if depth == 0:
            return
    yield _parameter(text, start, middle, len(text), len(text) + 1)


@lru_cache
def _tags(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tags)))


def _between_tags(text: str, opening: int, openings: Sequence[int], tags: Sequence[str]) -> Iterator[WrittenParameter]:
    """The parameters. Of `tags`, the first opens a name, the second ends it, the third ends a value, others a call."""
    opens, ends_name, _, *ends_call = tags
    start = middle = _NOWHERE
    reached = opening
    for match in _tags(tuple(tags)).finditer(text, opening):
        tag, tag_start, tag_end = match.group(), match.start(), match.end()
        if start == _NOWHERE:
            # An unclosed call ends where the next one opens. What looks like an opening inside a value opens nothing.
            if bisect_right(openings, tag_start) > bisect_right(openings, reached):
                return
            start = tag_end if tag == opens else start
        elif tag == ends_name:
            middle = tag_end if middle == _NOWHERE else middle
        else:
            yield _parameter(text, start, middle, tag_start, tag_end)
            start, middle = tag_end if tag == opens else _NOWHERE, _NOWHERE
            reached = tag_end
        if tag in ends_call and start == _NOWHERE:
            return
    if start != _NOWHERE:
        yield _parameter(text, start, middle, len(text), len(text) + 1)


def _parameter(text: str, start: int, middle: int, value_end: int, stop: int) -> WrittenParameter:
    if middle == _NOWHERE:
        return WrittenParameter(start, stop, stop, "", "")
    return WrittenParameter(start, middle, stop, _NAME.sub("", text[start:middle]), text[middle:value_end])
