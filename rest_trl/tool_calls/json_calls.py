"""One tolerant scanner for JSON calls, shared by every JSON-based syntax."""

import json
import re
from collections.abc import Collection
from typing import Any

from .parsed import PARAMETER_NAME, PARAMETER_VALUE, STRUCTURE, TOOL_NAME, Draft, Part, ToolCall


# A token of JSON or of what resembles it: a string (possibly cut off), a punctuation mark, or a bare scalar.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
# A parameter with its value, or its name only where the value is nested.
_PARAMETER = re.compile(rf'({_STRING})\s*:\s*(?:({_STRING}|[^\s{{}}\[\]:,"]+)\s*(?:,\s*)?)?', re.DOTALL)
# The usual start of a call: the tool's name, then up to four parameters without escapes, empty names or nested values.
# Matching them all at once takes half the time of matching them one by one.
_PLAIN_PARAMETER = r'(?:"([^"\\]++)"\s*+:\s*+(?:"[^"\\]*+"|[^\s{}\[\]:,"]++)\s*+(?:,\s*+)?+)?+'
_HEAD = re.compile(
    r'\{\s*+"name"\s*+:\s*+"([^"\\]++)"\s*+,\s*+"(\w++)"\s*+:\s*+(\{)\s*+' + 4 * _PLAIN_PARAMETER, re.DOTALL
)
_BLANK = re.compile(r"\s*")
# Half-trained policies mix these two keys up. An object with the wrong one is no call in most syntaxes, but its
# arguments get their region under either key.
ARGUMENTS_KEYS = ("arguments", "parameters")

_DECODER = json.JSONDecoder()


def skip_blank(text: str, position: int) -> int:
    """The first position at or after `position` (characters) that is not white space."""
    return _BLANK.match(text, position).end()  # type: ignore[union-attr]  # the pattern matches the empty string


def decode_value(text: str, position: int) -> tuple[Any, int]:
    """
    Decode the JSON value that starts at `position`.

    Returns:
        `tuple[Any, int]`: the value and the position after it, in characters.

    Raises:
        ValueError: if no JSON value that Python can hold starts there.
    """
    try:
        # The decoder gets a slice, because an error counts the lines before it: in a text of thousands of broken calls
        # each error would count those of the whole text again.
        value, length = _DECODER.raw_decode(text[position:])
        return value, position + length
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_call(value: Any, *arguments_keys: str) -> ToolCall:
    """
    Read a call from a decoded JSON value.

    Args:
        value (`Any`):
            The decoded JSON value.
        arguments_keys (`str`):
            The keys that may hold the arguments in this syntax; the first one that is present counts.

    Returns:
        [`ToolCall`]

    Raises:
        ValueError: if the value is not an object with a string `name` and an object of arguments.
    """
    if not isinstance(value, dict):
        raise ValueError(f"a call must be a JSON object, not {type(value).__name__}")
    if not isinstance(value.get("name"), str):
        raise ValueError('the call has no string "name"')
    for key in arguments_keys:
        if key in value:
            if isinstance(value[key], dict):
                return ToolCall(value["name"], value[key])
            break
    keys = " or ".join(f'"{key}"' for key in arguments_keys)
    raise ValueError(f"the call of {value['name']!r} has no object {keys}")


def write_json_call(draft: Draft, start: int, end: int, arguments_keys: Collection[str]) -> None:
    """
    Mark tool name and parameters of a call object that is known to be JSON; see [`write_call_parts`].

    The usual layout, name first and arguments last, is read parameter by parameter instead of token by token.

    Args:
        draft ([`Draft`]):
            Stands at the start of the object or before it; what lies between is structure.
        start (`int`):
            Where the object starts, in characters.
        end (`int`):
            Where the object ends, in characters.
        arguments_keys (`Collection[str]`):
            Keys whose value holds the arguments.
    """
    head = _HEAD.match(draft.text, start, end)
    if head is None or head[2] not in arguments_keys:
        draft.write(start, STRUCTURE)
        write_call_parts(draft, end, arguments_keys)
        return
    name_start, name_end = head.span(1)
    draft.write(name_start, STRUCTURE)
    start = head.start(3)
    parts = [(name_start, name_end, TOOL_NAME), (name_end, start, STRUCTURE)]
    for group in range(4, head.lastindex + 1):  # type: ignore[operator]  # three groups always match
        parameter_start, parameter_end = head.span(group)
        parts += (start, parameter_start, PARAMETER_VALUE), (parameter_start, parameter_end, PARAMETER_NAME)
        start = parameter_end
    position = _append_parameters(draft.text, start, head.end(), parts)
    if position < end:
        parts.append((position, end, STRUCTURE))
    draft.write_all(parts)


def write_json_arguments(draft: Draft) -> None:
    """
    Mark the parameters of an arguments object that is known to be JSON; see [`write_arguments_parts`].

    Args:
        draft ([`Draft`]):
            Stands at the start of the object.
    """
    parts: list[tuple[int, int, Part]] = []
    _append_parameters(draft.text, draft.position, skip_blank(draft.text, draft.position + 1), parts)
    draft.write_all(parts)


def _append_parameters(text: str, start: int, position: int, parts: list[tuple[int, int, Part]]) -> int:
    """
    Append the parts of an arguments object from `start` on; returns the position after the object.

    `position` is where the next parameter or the closing brace stands. The object is known to be JSON.
    """
    while text[position] != "}":
        parameter: re.Match[str] = _PARAMETER.match(text, position)  # type: ignore[assignment]  # it is JSON
        name_start, name_end = parameter.span(1)
        if name_end - name_start > 2:  # else the name is empty and has no part
            parts.append((start, name_start + 1, PARAMETER_VALUE))
            start = name_end - 1
            parts.append((name_start + 1, start, PARAMETER_NAME))
        position = parameter.end()
        if parameter.lastindex == 1:  # the value is nested
            position = skip_blank(text, _DECODER.raw_decode(text, position)[1])
            if text[position] == ",":
                position = skip_blank(text, position + 1)
    position += 1  # the closing brace
    parts.append((start, position, PARAMETER_VALUE))
    return position


def write_call_parts(draft: Draft, end: int, arguments_keys: Collection[str]) -> None:
    """
    Mark tool name and parameters of the call object at the draft's position, well-formed or not.

    Stops after the object's closing brace, or at `end` when there is none. What is neither the name nor inside the
    arguments is structure.

    Args:
        draft ([`Draft`]):
            Stands at the start of the object.
        end (`int`):
            Where to stop at the latest, in characters.
        arguments_keys (`Collection[str]`):
            Keys whose value holds the arguments.
    """
    _write_parts(draft, end, arguments_keys, outer_depth=0)


def write_arguments_parts(draft: Draft, end: int) -> None:
    """
    Mark the parameters of the arguments object at the draft's position, for syntaxes that name the tool outside of it.

    Args:
        draft ([`Draft`]):
            Stands at the start of the object.
        end (`int`):
            Where to stop at the latest, in characters.
    """
    _write_parts(draft, end, ("",), outer_depth=1)  # as if it were the value of an empty key


def _write_parts(draft: Draft, end: int, arguments_keys: Collection[str], outer_depth: int) -> None:
    text, depth = draft.text, outer_depth
    expects_key = False
    key = ""
    in_arguments = False
    for match in _TOKEN.finditer(text, draft.position, end):
        start, stop = match.span()
        mark = text[start]
        outside = PARAMETER_VALUE if in_arguments else STRUCTURE
        if mark == '"':
            closed = stop - start > 1 and text[stop - 1] == '"'
            content_end = stop - closed
            if depth == 2 and in_arguments and expects_key:
                draft.write(start + 1, outside)
                draft.write(content_end, PARAMETER_NAME)
            elif depth == 1 and expects_key:
                key = text[start + 1 : content_end]
            elif depth == 1 and key == "name":
                draft.write(start + 1, outside)
                draft.write(content_end, TOOL_NAME)
            elif depth == 1 and key in arguments_keys:
                draft.write(start, outside)
                draft.write(stop, PARAMETER_VALUE)
        elif mark in "{[":
            depth += 1
            expects_key = mark == "{"
            if depth == 2 and key in arguments_keys:
                draft.write(start, outside)
                in_arguments = True
        elif mark in "}]":
            depth -= 1
            if depth <= 1 and in_arguments:
                draft.write(stop, PARAMETER_VALUE)
                in_arguments = False
            if depth <= outer_depth:
                draft.write(stop, STRUCTURE)
                return
            expects_key = False
        elif mark == ",":
            expects_key = True
        elif mark == ":":
            expects_key = False
        elif depth == 1 and not expects_key:
            if key == "name":
                draft.write(start, outside)
                draft.write(stop, TOOL_NAME)
            elif key in arguments_keys:
                draft.write(start, outside)
                draft.write(stop, PARAMETER_VALUE)
    draft.write(end, PARAMETER_VALUE if in_arguments else STRUCTURE)
