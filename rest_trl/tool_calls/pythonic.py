"""Calls written as Python: `pythonic` (Llama 4, ToolACE) and `lfm2` (LFM2)."""

import re
from typing import Any, ClassVar

from .json_calls import skip_blank
from .markers import END_THINK, THINK, MarkerSyntax
from .parsed import PARAMETER_NAME, PARAMETER_VALUE, STRUCTURE, TAG, TOOL_NAME, Draft, ParsedCompletion, Part
from .python_literals import Token, read_python_calls, read_python_value
from .syntax import Evidence


PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
CALLS, END_CALLS = "<|tool_call_start|>", "<|tool_call_end|>"


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


def write_python_calls(draft: Draft, end: int, lenient: bool) -> tuple[list[Token], bool]:
    """
    Mark tool names and parameters of the list of calls at the draft's position, well-formed or not.

    Stops after the list's closing bracket, where the text cannot go on as a list, or at `end`. Everything between a
    call's parentheses belongs to its parameters; all but that and the tool names is structure. Returns the tokens, and
    whether the list was closed.
    """
    text, position = draft.text, draft.position
    tokens: list[Token] = []
    stack: list[str] = []  # open brackets: that of the list, that of a call, those of its values
    depth = 0
    ends: list[tuple[int, Part]] = []  # of the names of the call's parameters, and of what lies between them
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
                    draft.write_all(ends)
                    draft.write(start, PARAMETER_VALUE)
                    ends.clear()
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
                ends += (start, PARAMETER_VALUE), (stop, PARAMETER_NAME)
            expects_name = False
        elif kind == ",":
            expects_name = depth == 2
        tokens.append((kind, start, stop))
    draft.write_all(ends)
    draft.write(end, STRUCTURE if depth < 2 else PARAMETER_VALUE)
    return tokens, False


class PythonCallsSyntax(MarkerSyntax):
    """A completion holds one list of calls. A second list is an error, but does not void the calls of the first."""

    lenient: ClassVar[bool]
    name_end = "="

    def arguments_after_name(self, text: str, position: int) -> int | None:
        opening = skip_blank(text, position)
        return opening + 1 if text.startswith("(", opening) else None

    def read_value(self, text: str, schema: Any = None) -> Any:
        draft = Draft(f"[f(x={text})]")
        tokens, _ = write_python_calls(draft, len(draft.text), self.lenient)
        if draft.position < len(draft.text):
            raise ValueError("text after the value")
        return read_python_value(draft.text, tokens, self.lenient)

    def _list(self, draft: Draft, end: int) -> bool:
        """Parse the list of calls at the draft's position; returns whether it was closed."""
        parsed = draft.parsed
        tokens, closed = write_python_calls(draft, end, self.lenient)
        if parsed.calls or parsed.errors:
            parsed.errors.append("a second list of calls")
            return closed
        if not closed:
            parsed.errors.append(f"the list of calls breaks off at character {draft.position}")
            return False
        try:
            parsed.calls = read_python_calls(draft.text, tokens, self.lenient)
        except ValueError as error:
            parsed.errors.append(str(error))
        return closed

    def _finish(self, parsed: ParsedCompletion) -> None:
        # `_list` has decided which calls count: a second list is an error, but does not void the first.
        pass


class PythonicSyntax(PythonCallsSyntax):
    """
    A bare list of Python calls (vLLM parsers `pythonic` and `llama4_pythonic`). Llama 4 may put tags around it.

    ```text
    [get_weather(city="Oslo", days=3), get_time()]
    ```

    ```text
    <|python_start|>[get_weather(city="Oslo", days=3)]<|python_end|>
    ```

    Only reasoning may stand beside the list. With text before or after it, vLLM takes it for text and not for calls.
    """

    name = "pythonic"
    markers = (THINK, END_THINK, PYTHON_START, PYTHON_END)
    evidence = (Evidence(("[func_name1(", "func_name2(")),)
    vllm_parser = "pythonic"
    lenient = False
    argument_strings = STRING
    _list_start = re.compile(r"\[(?=\s*[^\W\d][\w.]*\s*\()")
    _call_ahead = re.compile(re.escape(PYTHON_START) + rf"\s*{_list_start.pattern}")

    def _reasoning_opened_by_prompt(self, draft: Draft) -> None:
        if not self._list_start.match(draft.text, skip_blank(draft.text, 0)):  # a call may hold </think>
            super()._reasoning_opened_by_prompt(draft)

    def _plain_text(self, draft: Draft, end: int) -> None:
        # A list counts only at the start of a line, because prose may hold code such as `a[f(x)]`.
        text, checked, in_margin = draft.text, draft.position, True
        while opening := self._list_start.search(text, checked, end):
            _, line_break, margin = text[checked : opening.start()].rpartition("\n")
            in_margin = not margin.strip() and (bool(line_break) or in_margin)
            checked = opening.end()
            if in_margin:
                super()._plain_text(draft, opening.start())
                # The list may go on after the next marker, because a string can hold one. Only the closing marker
                # certainly ends the list: it is a special token.
                closed = self._list(draft, end if text.startswith(PYTHON_END, end) else len(text))
                draft.block("tool_call", closed)
                checked = draft.position
                if checked >= end:
                    return
            in_margin = False
        super()._plain_text(draft, end)

    def _finish(self, parsed: ParsedCompletion) -> None:
        if parsed.calls and any(block.kind == "response" for block in parsed.blocks):
            parsed.errors.append("text beside the list of calls")
            parsed.calls = []


class LFM2Syntax(PythonCallsSyntax):
    """
    Syntax of LFM2 (vLLM parser `lfm2`): one list of Python calls between tags; text outside of them is the response.

    ```text
    <|tool_call_start|>[get_weather(city='Oslo', days=3), get_time()]<|tool_call_end|>
    ```

    The model's chat template quotes without escaping. Like vLLM, this accepts quotes within a string where they cannot
    close it, line breaks in strings, zero-padded integers and parameters named like Python's keywords. Strings side by
    side are therefore one string with quotes in it.
    """

    name = "lfm2"
    markers = (THINK, END_THINK, CALLS, END_CALLS)
    evidence = (
        Evidence(("<|tool_call_start|>",), tokens=("<|tool_call_start|>",)),
        Evidence(("<|tool_list_start|>",)),
    )
    vllm_parser = "lfm2"
    lenient = True
    argument_strings = LENIENT_STRING
    _call_ahead = re.compile(re.escape(CALLS) + r"\s*\[")

    def _open(self, draft: Draft, marker: str) -> None:
        if marker != CALLS:
            super()._open(draft, marker)
            return
        text = draft.text
        end = text.find(END_CALLS, draft.position)
        closed = end != -1
        end = end if closed else len(text)
        draft.write(skip_blank(text, draft.position), STRUCTURE)
        is_first = not draft.parsed.calls and not draft.parsed.errors
        self._list(draft, end)
        if is_first and text[draft.position : end].strip():
            draft.parsed.errors.append(f"character {draft.position}: more than a list of calls")
            draft.parsed.calls = []
        draft.write(end, STRUCTURE)
        if closed:
            draft.write(end + len(END_CALLS), TAG)
        draft.block("tool_call", closed)
