"""Reads calls in the text of a turn, such as `[Get Time(zone="CET")]`, whose names no wire syntax allows."""

import re
from typing import Any

from ..tool_calls import get_syntax


# A piece of a call: a string, a bracket, a comma or equals sign, or anything else.
_PIECE = re.compile(
    r"\"[^\"\\]*(?:\\.[^\"\\]*)*\"|'[^'\\]*(?:\\.[^'\\]*)*'|[\[\](){},=]|[^\[\](){},=\"']+|.", re.DOTALL
)
_CLOSER = {"(": ")", "[": "]", "{": "}"}
_NAME_AHEAD = re.compile(r"([^()\[\]{}=\"',][^()\[\]{}=\"']*?)\s*\(")


def is_call_text(value: str, names: list[str]) -> bool:
    """Tell whether a turn is meant as a list of calls, even if the list cannot be read."""
    value = value.strip()
    if not value.startswith("["):
        return False
    inside = value[1:].lstrip()
    begins = any(inside.startswith(name) and inside[len(name) :].lstrip().startswith("(") for name in names)
    return begins or (re.search(r"\)\s*\]$", value) is not None and _NAME_AHEAD.match(inside) is not None)


def read_calls(value: str, names: list[str]) -> list[dict[str, Any]]:
    """
    Read a list of calls whose names may hold spaces and other characters that the wire syntaxes forbid.

    Example:

    ```python
    >>> read_calls('[Get Time(zone="CET", days=[1, 2]), f()]', ["Get Time"])
    [{'name': 'Get Time', 'arguments': {'zone': 'CET', 'days': [1, 2]}}, {'name': 'f', 'arguments': {}}]

    ```
    """
    value = value.strip()
    calls: list[dict[str, Any]] = []
    position = 1
    while True:
        position += len(value) - position - len(value[position:].lstrip())
        name, opening = _name(value, position, names)
        arguments, position = _arguments(value, opening)
        calls.append({"name": name, "arguments": arguments})
        rest = value[position:].lstrip()
        if rest == "]":
            return calls
        if not rest.startswith(","):
            raise ValueError(f"{rest[:20]!r} follows the call of {name!r}")
        position = len(value) - len(rest) + 1


def _name(value: str, position: int, names: list[str]) -> tuple[str, int]:
    """The name of the call at a position, and where its opening parenthesis stands."""
    for name in sorted(names, key=len, reverse=True):
        if value.startswith(name, position):
            opening = position + len(name)
            opening += len(value) - opening - len(value[opening:].lstrip())
            if value.startswith("(", opening):
                return name, opening
    match = _NAME_AHEAD.match(value, position)
    if match is None:
        raise ValueError(f"no call stands at character {position}")
    return match[1], match.end() - 1


def _arguments(value: str, opening: int) -> tuple[dict[str, Any], int]:
    """The arguments after an opening parenthesis, and the end of the call."""
    stack = [")"]
    arguments: dict[str, Any] = {}
    start, equals = opening + 1, -1
    read_value = get_syntax("pythonic").read_value
    for piece in _PIECE.finditer(value, opening + 1):
        token = piece[0]
        if token in _CLOSER:
            stack.append(_CLOSER[token])
        elif token in (")", "]", "}"):
            if stack.pop() != token:
                raise ValueError(f"a bracket at character {piece.start()} does not match")
        elif token == "=" and len(stack) == 1 and equals < 0:
            equals = piece.start()
        if not stack or (token == "," and len(stack) == 1):
            written = value[start : piece.start()]
            if equals >= 0:
                name = value[start:equals].strip()
                if not name or name in arguments:
                    raise ValueError(f"the argument {name!r} {'comes twice' if name else 'has no name'}")
                arguments[name] = read_value(value[equals + 1 : piece.start()])
            elif written.strip():
                raise ValueError(f"the argument {written.strip()[:20]!r} has no name")
            start, equals = piece.end(), -1
        if not stack:
            return arguments, piece.end()
    raise ValueError("a call is cut off")
