"""
Values of calls written as Python, read from the tokens that also give the regions.

Python's `ast` cannot do this: it refuses LFM2's unescaped quotes, line breaks, padded integers and keywords, and any
text with a character cut in two. It takes quadratic time for f-strings and warns about every escape such as `\\d`.
"""

import json
import keyword
import math
import re
import sys
from typing import Any

from .json_calls import CONSTANTS
from .parsed import ToolCall


# The kind (`"string"`, `"name"`, `"number"`, `"other"`, or the mark itself), start and end in characters.
Token = tuple[str, int, int]


# This is far below Python's recursion limit, and deeper than the arguments of any tool.
_MAX_DEPTH = 100

_STRING = re.compile(r"(?P<prefix>\w*)(?P<quote>\"{3}|'{3}|[\"'])(?P<content>.*)(?P=quote)", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x(.{0,2})|u(.{0,4})|U(.{0,8})|(.))", re.DOTALL)
_CHARACTERS = {"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"} | {
    character: character for character in "\\\"'"
}
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")
_UNPRINTABLE = re.compile(r"(?:\\.|[^\\\n\r\x00])*+[\n\r\x00]", re.DOTALL)


def read_python_calls(text: str, tokens: list[Token], lenient: bool) -> list[ToolCall]:
    """
    Read a list of calls whose arguments are literals given by name.

    JSON's `true`, `false` and `null` count as literals; tuples and sets become lists, and dictionary keys strings.
    `lenient` accepts line breaks in strings, zero-padded integers, and Python's keywords as names.

    Raises:
        ValueError: if the tokens are not such a list.
    """
    return _Reader(text, tokens, lenient).calls()


def read_python_value(text: str, tokens: list[Token], lenient: bool) -> Any:
    """Read the value of the only argument of the only call in a list, `[f(x=value)]`."""
    return _Reader(text, tokens, lenient).only_value()


class _Reader:
    """Reads the tokens by recursive descent, which takes every token once."""

    def __init__(self, text: str, tokens: list[Token], lenient: bool) -> None:
        self.text = text
        self.tokens = [*tokens, ("end", len(text), len(text))]
        self.index = 0
        self.lenient = lenient

    @property
    def kind(self) -> str:
        return self.tokens[self.index][0]

    def take(self, kind: str) -> str:
        found, start, end = self.tokens[self.index]
        if found != kind:
            shown = "the end" if found == "end" else repr(self.text[start:end][:20])
            raise ValueError(f"character {start}: {kind} expected, not {shown}")
        self.index += 1
        return self.text[start:end]

    def comes(self, kind: str) -> bool:
        """Take the token if it is of that kind."""
        found = self.kind == kind
        self.index += found
        return found

    def calls(self) -> list[ToolCall]:
        self.take("[")
        calls = [self.call()]
        while self.comes(",") and self.kind != "]":
            calls.append(self.call())
        self.take("]")
        return calls

    def call(self) -> ToolCall:
        name = self.name()
        arguments: dict[str, Any] = {}
        self.take("(")
        while self.kind != ")":
            key = self.name()
            if "." in key:
                raise ValueError(f"{key!r} is not the name of a parameter")
            self.take("=")
            arguments[key] = self.value(0)
            if not self.comes(","):
                break
        self.take(")")
        return ToolCall(name, arguments)

    def only_value(self) -> Any:
        for kind in ("[", "name", "(", "name", "="):
            self.take(kind)
        value = self.value(0)
        for kind in (")", "]", "end"):
            self.take(kind)
        return value

    def name(self) -> str:
        name = self.take("name")
        if keyword.iskeyword(name) and not self.lenient:
            raise ValueError(f"{name!r} is a keyword of Python")
        return name

    def value(self, depth: int) -> Any:
        kind = self.kind
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if kind == "string":
            value = self.string()
            while self.kind == "string":
                value += self.string()
            return value
        if kind == "name":
            name = self.take(kind)
            if name not in CONSTANTS:
                raise ValueError(f"{name[:20]!r} is not a literal")
            return CONSTANTS[name]
        if kind == "[":
            return self.items("]", depth)[0]
        if kind == "(":
            items, has_comma = self.items(")", depth)
            return items if has_comma or not items else items[0]
        if kind == "{":
            return self.braces(depth)
        sign = -1 if self.comes("-") else 1
        if sign == 1:
            self.comes("+")
        return sign * self.number()

    def items(self, closer: str, depth: int) -> tuple[list[Any], bool]:
        """Take the values up to the closing bracket; returns them and whether there was a comma."""
        items: list[Any] = []
        has_comma = False
        self.index += 1
        while self.kind != closer:
            items.append(self.value(depth + 1))
            if not self.comes(","):
                break
            has_comma = True
        self.take(closer)
        return items, has_comma

    def braces(self, depth: int) -> dict[str, Any] | list[Any]:
        """Take a dictionary, or a set, which becomes a list as JSON has no sets."""
        dictionary: dict[str, Any] = {}
        items: list[Any] = []
        self.index += 1
        while self.kind != "}":
            item = self.value(depth + 1)
            if items or (not dictionary and self.kind != ":"):
                items.append(item)
            elif isinstance(item, list | dict):
                raise ValueError("the key of a dictionary is not a constant")
            else:
                self.take(":")
                key = item if isinstance(item, str) else json.dumps(item)
                dictionary[key] = self.value(depth + 1)
            if not self.comes(","):
                break
        self.take("}")
        return items or dictionary

    def number(self) -> int | float:
        number = self.take("number")
        try:
            integer = int(number, base=0)
        except ValueError:
            if self.lenient and number.isdecimal():
                return int(number)
            if not set(".eE") & set(number):
                raise
        else:
            if not number.isdecimal():
                str(integer)  # Python limits its decimals only, so one of `0x` may be too long to be shown or written
            return integer
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number[:20]} is not a JSON number")
        return value

    def string(self) -> str:
        literal = _STRING.fullmatch(self.take("string"))
        if literal is None:
            raise ValueError("a string is cut off")
        prefix, content = literal["prefix"].lower(), literal["content"]
        if len(prefix) == 2 and prefix not in ("br", "rb", "fr", "rf"):
            raise ValueError(f"{prefix!r} is not a prefix of a string")
        if "b" in prefix or ("f" in prefix and ("{" in content or "}" in content)):
            raise ValueError(f"{prefix!r} string: not a JSON value")
        if not self.lenient and _UNPRINTABLE.match(content) and (len(literal["quote"]) == 1 or "\0" in content):
            raise ValueError("a string has a line break or a NUL")
        if "r" in prefix or "\\" not in content:
            return content
        return _ESCAPE.sub(_unescape, content)


def _unescape(escape: re.Match[str]) -> str:
    octal, character = escape[1], escape[5]
    if octal:
        return chr(int(octal, base=8))
    if character is not None:
        if character == "N":
            raise ValueError(r"a character given by name (\N)")
        return _CHARACTERS.get(character, escape[0])
    digits = escape[2] or escape[3] or escape[4] or ""
    width = {"x": 2, "u": 4, "U": 8}[escape[0][1]]
    if len(digits) != width or not _HEXADECIMAL.fullmatch(digits):
        raise ValueError(f"{escape[0]!r} is not a character")
    code = int(digits, base=16)
    if code > sys.maxunicode:
        raise ValueError(f"{escape[0]!r} is not a character")
    return chr(code)
