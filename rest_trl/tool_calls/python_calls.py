"""One tolerant scanner for calls written as Python, shared by every such syntax."""

import re

from .json_calls import skip_blank
from .parsed import PARAMETER_NAME, PARAMETER_VALUE, STRUCTURE, TOOL_NAME, Draft


_OPENER = {")": "(", "]": "[", "}": "{"}

# Strings in triple quotes, possibly cut off. No alternative fails after its first character, so that a scan takes
# linear time.
_LONG = "|".join(rf"{q * 3}[^{q}\\]*(?:(?:\\.?|{q}(?!{q * 2}))[^{q}\\]*)*(?:{q * 3})?" for q in "\"'")
_SHORT = "|".join(rf"{q}[^{q}\\]*(?:\\.?[^{q}\\]*)*{q}?" for q in "\"'")
# In lenient strings a quote that cannot close the string belongs to it: `cmd='sed -n '1,9p' x.py'`.
_NESTED = "|".join(rf"{q}[^{q}\\]*(?:(?:\\.?|{q}(?!\s*[,)\]}}:]))[^{q}\\]*)*{q}?" for q in "\"'")
STRING, LENIENT_STRING = f"{_LONG}|{_SHORT}", f"{_LONG}|{_NESTED}"
_TOKEN = r"""
    (?P<string>[rRbBuUfF]{{0,2}}(?:{strings}))
    | (?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)
    | (?P<number>\.?[0-9](?:[\w.]|(?<=[eE])[+-])*)
    | (?P<mark>[\[\](){{}}:,=+-])
    | (?P<other>[^\s\w\[\](){{}}:,=+\-"']+|\S)
"""
_PYTHON, _LENIENT = (
    re.compile(_TOKEN.format(strings=strings), re.DOTALL | re.VERBOSE) for strings in (STRING, LENIENT_STRING)
)


# The kind (`"string"`, `"name"`, `"number"`, `"other"`, or the mark itself), start and end in characters.
Token = tuple[str, int, int]


def write_python_calls(draft: Draft, end: int, lenient: bool) -> tuple[list[Token], bool]:
    """
    Mark tool names and parameters of the list of calls at the draft's position, well-formed or not.

    Stops after the list's closing bracket, where the text cannot go on as a list, or at `end`. Everything between a
    call's parentheses belongs to its parameters; all but that and the tool names is structure.

    Args:
        draft ([`Draft`]):
            Stands at the opening bracket of the list.
        end (`int`):
            Where to stop at the latest, in characters.
        lenient (`bool`):
            Whether strings may hold the quote that delimits them.

    Returns:
        `tuple[list[Token], bool]`: the tokens for [`read_python_calls`], and whether the list was closed.
    """
    text, position = draft.text, draft.position
    tokens: list[Token] = []
    stack: list[str] = []  # open brackets: that of the list, that of a call, those of its values
    depth = 0
    names: list[tuple[int, int]] = []  # of the call's parameters, except one right after `(`, which is written at once
    is_open = {"[": 0, "(": 0, "{": 0}
    named = expects_name = False
    for match in (_LENIENT if lenient else _PYTHON).finditer(text, position, end):
        kind: str = match.lastgroup  # type: ignore[assignment]  # every alternative is a group
        start, stop = match.span()
        if kind == "mark":
            kind = text[start]
        if depth < 2:
            if kind == "name" and stack and text.startswith("(", skip_blank(text, stop), end):
                draft.write(start, STRUCTURE)
                draft.write(stop, TOOL_NAME)
                named = True
            elif (kind == "[" and not stack) or (kind == "(" and named):
                if named:
                    draft.write(stop, STRUCTURE)
                stack.append(kind)
                depth += 1
                is_open[kind] += 1
                named, expects_name = False, True
            elif kind != ",":
                if kind == "]":
                    tokens.append((kind, start, stop))
                    position = stop
                draft.write(position, STRUCTURE)
                return tokens, kind == "]"
            position = stop
        elif kind in _OPENER:
            opening = _OPENER[kind]
            if is_open[opening]:
                while True:  # a closing bracket also closes all that was opened since its partner
                    opener = stack.pop()
                    is_open[opener] -= 1
                    if opener == opening:
                        break
                depth = len(stack)
                if depth < 2:
                    draft.alternate(names, PARAMETER_NAME, PARAMETER_VALUE)
                    draft.write(start, PARAMETER_VALUE)
                    names.clear()
                    position = stop
                if not stack:
                    draft.write(stop, STRUCTURE)
                    return tokens, False
        elif kind in is_open:
            stack.append(kind)
            depth += 1
            is_open[kind] += 1
            expects_name = False
        elif expects_name:
            if kind == "name" and (text.startswith("=", skip_blank(text, stop), end) or stop == end):
                if names or draft.position < start:
                    names.append((start, stop))
                else:
                    draft.write(stop, PARAMETER_NAME)
            expects_name = False
        elif kind == ",":
            expects_name = depth == 2
        tokens.append((kind, start, stop))
    draft.alternate(names, PARAMETER_NAME, PARAMETER_VALUE)
    draft.write(end, STRUCTURE if depth < 2 else PARAMETER_VALUE)
    return tokens, False
