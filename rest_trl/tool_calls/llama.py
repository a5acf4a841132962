"""Bare JSON calls: `llama3_json`."""

import re

from .json_calls import ARGUMENTS_KEYS, decode_value, read_call, skip_blank, write_call_parts, write_json_call
from .markers import END_THINK, THINK, MarkerSyntax
from .parsed import RESPONSE, STRUCTURE, Draft, ParsedCompletion
from .syntax import Evidence


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
            draft.parsed.errors.append(f"character {draft.position}: no JSON object behind {marker}")

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
