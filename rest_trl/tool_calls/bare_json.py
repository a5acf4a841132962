"""
JSON calls that no tag closes: bare objects (`llama3_json`) and lists after a marker (`granite`, `phi4_mini_json`,
`mistral`).
"""

import re
from typing import ClassVar

from .json_calls import ARGUMENTS_KEYS, decode_value, read_call, skip_blank, write_call_parts, write_json_call
from .markers import END_THINK, THINK, MarkerSyntax
from .named_calls import NamedCallSyntax
from .parsed import RESPONSE, STRUCTURE, Draft, ParsedCompletion
from .syntax import Evidence


_START = re.compile(r"\[\s*(?=\{)")
_NEXT = re.compile(r"\s*(?:,\s*(?=\{)|(\]))")
_BETWEEN = re.compile(r"[\s,}]*")


class Llama3JsonSyntax(MarkerSyntax):
    """
    Syntax of Llama 3 (vLLM parser `llama3_json`): bare JSON objects, key `"parameters"` or `"arguments"`.

    ```text
    {"name": "get_weather", "parameters": {"city": "Oslo"}}; {"name": "get_time", "parameters": {}}
    <|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}
    ```

    An object is taken for a call, readable or not, at the start of a turn, after `<|python_tag|>`, reasoning or
    another call, and wherever its first key is one of a call. Any other brace belongs to the text for the user. As in
    vLLM, such a brace voids all calls of the turn.
    """

    name = "llama3_json"
    markers = (THINK, END_THINK, "<|python_tag|>")
    evidence = (
        Evidence(("<|start_header_id|>", '"parameters": dictionary of argument name'), tokens=("<|python_tag|>",)),
        Evidence(("<|header_start|>", '"parameters": dictionary of argument name')),
    )
    vllm_parser = "llama3_json"
    _call_ahead = re.compile(r"""\{\s*["']?(?:name|type|function|parameters|arguments)\b""")
    _broken_call_end = re.compile(r"""</?think>|<\|python_tag\|>|(?:\n|; ?)\{(?=\s*["'])""")
    _following = re.compile(r"""\s*+(?:;\s*+)?(?=\{\s*+(?:["']|\Z))""")

    def parse(self, text: str) -> ParsedCompletion:
        parsed = super().parse(text)
        if parsed.calls and any("{" in text[start:end] for start, end, part in parsed.parts if part is RESPONSE):
            parsed.errors.append("the text for the user holds a brace, which voids the calls")
            parsed.calls = []
        return parsed

    def _reasoning_opened_by_prompt(self, draft: Draft) -> None:
        if not draft.text.startswith("{", skip_blank(draft.text, 0)):  # a call may hold the closing tag in a string
            super()._reasoning_opened_by_prompt(draft)
        self._objects(draft)

    def _plain_text(self, draft: Draft, end: int) -> None:
        while draft.position < end:
            call = self._call_ahead.search(draft.text, draft.position, end)
            super()._plain_text(draft, call.start() if call else end)
            self._objects(draft)

    def _open(self, draft: Draft, marker: str) -> None:
        super()._open(draft, marker)
        found = self._objects(draft)
        if marker == "<|python_tag|>" and not found:
            draft.parsed.errors.append(f"character {draft.position}: no JSON object after {marker}")

    def _objects(self, draft: Draft) -> bool:
        """Parse the objects that follow one another from the draft's position on; returns whether there are any."""
        text = draft.text
        position = skip_blank(text, draft.position)
        if not text.startswith("{", position):
            return False
        draft.write(position, STRUCTURE)
        self._object(draft)
        while following := self._following.match(text, draft.position):
            draft.write(following.end(), STRUCTURE)
            self._object(draft)
        return True

    def _object(self, draft: Draft) -> None:
        text, parsed, start = draft.text, draft.parsed, draft.position
        if not parsed.errors:  # one unreadable call voids all, so the rest is only partitioned
            try:
                value, stop = decode_value(text, start)
                parsed.calls.append(read_call(value, *ARGUMENTS_KEYS))
            except ValueError as error:
                parsed.errors.append(f"character {start}: {error}")
            else:
                write_json_call(draft, draft.position, stop, ARGUMENTS_KEYS)
                draft.block("tool_call", closed=True)
                return
        write_call_parts(draft, draft.find(self._broken_call_end, start + 1), ARGUMENTS_KEYS)
        draft.block("tool_call", closed=text.endswith("}", start, draft.position))


class CallListSyntax(MarkerSyntax):
    """Calls in a JSON list."""

    arguments_keys: ClassVar[tuple[str, ...]] = ("arguments",)

    def _call_list(self, draft: Draft) -> None:
        """Parse the list of calls at the draft's position, or the single object that stands there instead."""
        text, parsed = draft.text, draft.parsed
        start = skip_blank(text, draft.position)
        if not text.startswith(("[", "{"), start):
            parsed.errors.append(f"character {start}: a list of calls must stand here")
            return
        draft.write(start, STRUCTURE)
        is_list, closed = text.startswith("[", draft.position), False
        if not parsed.errors:  # one unreadable call voids all, so the rest is only partitioned
            try:
                self._read_list(draft)
                closed = True
            except ValueError as error:
                parsed.errors.append(f"character {draft.position}: {error}")
        if not closed:
            marker = self._any_marker.search(text, draft.position)
            end = marker.start() if marker else len(text)
            if is_list:
                closed = self._write_broken_list(draft, end)
            else:
                write_call_parts(draft, end, ARGUMENTS_KEYS)
        draft.block("tool_call", closed)

    def _read_list(self, draft: Draft) -> None:
        text = draft.text
        following = _START.match(text, draft.position)
        if not following:
            raise ValueError("no list of call objects")
        while following.lastindex is None:
            draft.write(following.end(), STRUCTURE)
            value, stop = decode_value(text, draft.position)
            call = read_call(value, *self.arguments_keys)
            following = _NEXT.match(text, stop)
            if not following:
                raise ValueError(f"neither another call nor the end of the list after the call of {call.name!r}")
            write_json_call(draft, draft.position, stop, ARGUMENTS_KEYS)
            draft.parsed.calls.append(call)
        draft.write(following.end(), STRUCTURE)

    def _write_broken_list(self, draft: Draft, end: int) -> bool:
        """Write a list that is not JSON, from its start or one of its objects on; returns whether it is closed."""
        text = draft.text
        if text.startswith("[", draft.position):
            draft.write(draft.position + 1, STRUCTURE)
        while True:
            draft.write(_BETWEEN.match(text, draft.position, end).end(), STRUCTURE)  # type: ignore[union-attr]
            if draft.position >= end:
                return False
            if text[draft.position] == "]":
                draft.write(draft.position + 1, STRUCTURE)
                return True
            write_call_parts(draft, end, ARGUMENTS_KEYS)


class GraniteSyntax(CallListSyntax):
    """
    Syntax of Granite 3 (vLLM parser `granite`): a JSON list after a marker that has no closing counterpart.

    ```text
    <think>reasoning</think><response>text for the user</response>
    <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": "get_time", "arguments": {}}]
    ```

    Granite 3.0 and 3.3 write `<|tool_call|>`, a special token; 3.1 and 3.2 write `<tool_call>`. Text outside of
    the list is the response.
    """

    name = "granite"
    markers = (THINK, END_THINK, "<response>", "</response>", "<|tool_call|>", "<tool_call>")
    evidence = (Evidence(("<|start_of_role|>", "<|tool_call|>")),)
    vllm_parser = "granite"
    _call_ahead = re.compile(r"<\|?tool_call\|?>\s*\[\s*\{")

    def _open(self, draft: Draft, marker: str) -> None:
        if "tool_call" in marker:
            self._call_list(draft)
        else:
            super()._open(draft, marker)


class Phi4MiniSyntax(CallListSyntax):
    """
    Syntax of Phi-4-mini (vLLM parser `phi4_mini_json`): one JSON list after the word `functools`.

    ```text
    functools[{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": "get_time", "arguments": {}}]
    ```

    The key may also be `"parameters"`. The word is a marker only if a list or an object follows: it is also the
    name of a Python module. A second list is an error.
    """

    name = "phi4_mini_json"
    markers = (THINK, END_THINK, "functools")
    evidence = (
        Evidence(("functools[",)),
        Evidence(("<|tool|>", "<|/tool|>"), without=("<|tool_call|>",), tokens=("<|tool|>", "<|/tool|>")),
    )
    vllm_parser = "phi4_mini_json"
    arguments_keys = ARGUMENTS_KEYS
    _any_marker = re.compile(r"</?think>|functools(?=\[|\s*\[\s*\{|\s*\{\s*[\"'])")
    _call_ahead = re.compile(r"functools\s*\[\s*\{")

    def _open(self, draft: Draft, marker: str) -> None:
        if marker != "functools":
            super()._open(draft, marker)
            return
        if draft.parsed.calls:
            draft.parsed.errors.append(f"character {draft.position}: a second list of calls")
        elif not draft.text.startswith("[", draft.position):
            draft.parsed.errors.append(f"character {draft.position}: no [ after functools")
        self._call_list(draft)


class MistralSyntax(NamedCallSyntax, CallListSyntax):
    """
    Syntax of Mistral (vLLM parser `mistral`): a marker per call or, with tokenizers before v11, one JSON list.

    ```text
    [THINK]reasoning[/THINK]text for the user[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]get_time[ARGS]{}
    [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": "get_time", "arguments": {}}]
    ```

    As in vLLM, `[ARGS]` may be missing. Some versions write `[CALL_ID]` and an id before it. A list after other calls
    is an error.
    """

    name = "mistral"
    think, end_think = "[THINK]", "[/THINK]"
    call = "[TOOL_CALLS]"
    markers = (think, end_think, call, "[CALL_ID]", "[ARGS]")
    evidence = (Evidence((call,), tokens=(call,)),)
    vllm_parser = "mistral"
    _call_ahead = re.compile(r"\[TOOL_CALLS\]\s*(?:\[\s*\{|[^\s\[{]+\s*(?:\[CALL_ID\][^\s\[{]*)?(?:\[ARGS\]|\{))")
    _header = re.compile(
        r"(?P<blank>\s*)(?P<name>[^\s\[{]*)(?P<gap>\s*)(?:(?P<tag_call_id>\[CALL_ID\])(?P<call_id>[^\s\[{]*))?"
        r"(?P<tag>\[ARGS\])?(?P<ready>(?<=\[ARGS\])|(?=\{))?"
    )
    _is_list = re.compile(r"\s*(?:\{|\[(?![A-Z/]))")

    def _open(self, draft: Draft, marker: str) -> None:
        if marker != self.call:
            super()._open(draft, marker)
        elif not self._is_list.match(draft.text, draft.position):
            self._call(draft)
        else:
            if draft.parsed.calls:
                draft.parsed.errors.append(f"character {draft.position}: a list of calls after other calls")
            self._call_list(draft)
