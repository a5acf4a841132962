"""JSON calls between tags: `rlla` (ToolRL, the paper's data), `hermes` (Qwen2.5, Qwen3, Hermes) and `granite4`."""

import re
from typing import ClassVar

from .json_calls import ARGUMENTS_KEYS, decode_value, read_call, skip_blank, write_call_parts, write_json_call
from .markers import CALL, END_CALL, END_THINK, THINK, MarkerSyntax
from .parsed import RESPONSE, STRUCTURE, TAG, Draft, ParsedCompletion, ToolCall
from .syntax import Evidence


OPEN_RESPONSE, END_RESPONSE = "<response>", "</response>"


class TaggedSyntax(MarkerSyntax):
    """JSON objects between `<tool_call>` tags; the subclasses decide which calls of which block count."""

    arguments_key: ClassVar[str]
    _call_ahead = re.compile(re.escape(CALL) + r"\s*\{")
    _broken_call_end: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A call that is not JSON ends at the next tag or where a line starts another object.
        cls._broken_call_end = re.compile(cls._any_marker.pattern + r"|\n\{")

    def _open(self, draft: Draft, marker: str) -> None:
        if marker == CALL:
            self._call_block(draft)
        else:
            super()._open(draft, marker)

    def _accept(self, calls: list[ToolCall], errors: list[str], parsed: ParsedCompletion) -> None:
        """Decide what counts of the `calls` and `errors` of one `<tool_call>` block."""
        raise NotImplementedError

    def _call_block(self, draft: Draft) -> None:
        text, position = draft.text, draft.position
        calls: list[ToolCall] = []
        errors: list[str] = []
        while True:
            position = skip_blank(text, position)
            closed = text.startswith(END_CALL, position)
            if closed or position == len(text):
                break
            if text[position] != "{" and self._any_marker.match(text, position):
                break
            stop = -1
            if not errors:  # one unreadable call voids the block, so the rest is only partitioned
                try:
                    value, stop = decode_value(text, position)
                    calls.append(read_call(value, self.arguments_key))
                except ValueError as error:
                    errors.append(f"character {position}: {error}")
            if stop == -1:
                broken = self._broken_call_end.search(text, position)
                stop = broken.start() if broken else len(text)
                draft.write(position, STRUCTURE)
                write_call_parts(draft, stop, ARGUMENTS_KEYS)
                draft.write(stop, STRUCTURE)
            else:
                write_json_call(draft, position, stop, ARGUMENTS_KEYS)
            position = stop
        draft.write(position, STRUCTURE)
        if closed:
            draft.write(position + len(END_CALL), TAG)
        draft.block("tool_call", closed)
        self._accept(calls, errors, draft.parsed)


class RLLASyntax(TaggedSyntax):
    """
    ToolRL's syntax, that of the paper's data: one block with a JSON object per line, key `"parameters"`.

    ```text
    <think> reasoning </think>
    <tool_call>
    {"name": "get_weather", "parameters": {"city": "Oslo"}}
    {"name": "get_time", "parameters": {}}
    </tool_call>
    <response> text for the user </response>
    ```

    A completion has one block: objects in a second one are not calls. One unreadable line voids the block.
    """

    name = "rlla"
    markers = (THINK, END_THINK, CALL, END_CALL, OPEN_RESPONSE, END_RESPONSE)
    # No chat template was available: these strings follow from the syntax.
    evidence = (Evidence(("<tool_call>", "<response>", '"parameters"'), without=('"arguments"',)),)
    arguments_key = "parameters"

    def _open(self, draft: Draft, marker: str) -> None:
        if marker == OPEN_RESPONSE:
            self._response(draft)
        else:
            super()._open(draft, marker)

    def _plain_text(self, draft: Draft, end: int) -> None:
        # Text outside all tags gets its region, but is no block: in this syntax a response stands between tags.
        blank = not draft.text[draft.position : end].strip()
        draft.write(end, STRUCTURE if blank else RESPONSE)

    def _response(self, draft: Draft) -> None:
        end = draft.text.find(END_RESPONSE, draft.position)
        draft.block("response", closed=end != -1)
        draft.write(len(draft.text) if end == -1 else end, RESPONSE)
        if end != -1:
            draft.write(end + len(END_RESPONSE), TAG)

    def _accept(self, calls: list[ToolCall], errors: list[str], parsed: ParsedCompletion) -> None:
        if parsed.calls or parsed.errors:  # there was a block before: each leaves calls or errors
            errors = [f"a second {CALL} block"]
        elif not calls and not errors:
            errors = [f"an empty {CALL} block"]
        if errors:
            parsed.errors += errors
        else:
            parsed.calls = calls

    def _finish(self, parsed: ParsedCompletion) -> None:
        # `_accept` has decided which calls count: a second block is an error, but does not void the first.
        pass


class HermesSyntax(TaggedSyntax):
    """
    Syntax of Hermes, Qwen2.5 and Qwen3 (vLLM parser `hermes`): a block per call, key `"arguments"`.

    ```text
    <think>
    reasoning
    </think>
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>
    ```

    Text outside the tags is the response.
    """

    name = "hermes"
    markers = (THINK, END_THINK, CALL, END_CALL)
    evidence = (Evidence(("<tool_call>", '"arguments"'), without=("<function=", "<arg_key>", "<|start_of_role|>")),)
    vllm_parser = "hermes"
    arguments_key = "arguments"

    def _accept(self, calls: list[ToolCall], errors: list[str], parsed: ParsedCompletion) -> None:
        if not errors and len(calls) != 1:
            errors = [f"a {CALL} block holds {len(calls)} calls instead of one"]
        parsed.errors += errors
        parsed.calls += calls


class Granite4Syntax(HermesSyntax):
    """
    Syntax of Granite 4 (vLLM parser `granite4`): that of `hermes`, but a block that is not closed is no call.

    ```text
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>
    <tool_call>
    {"name": "get_time", "arguments": {}}
    </tool_call>
    ```
    """

    name = "granite4"
    # No chat template was available: these strings follow from the syntax.
    evidence = (Evidence(("<|start_of_role|>", "<tool_call>", "</tool_call>"), without=("<|tool_call|>",)),)
    vllm_parser = "granite4"

    def _accept(self, calls: list[ToolCall], errors: list[str], parsed: ParsedCompletion) -> None:
        if not errors and not parsed.blocks[-1].closed:
            errors = [f"a {CALL} block that is not closed"]
        super()._accept(calls, errors, parsed)
