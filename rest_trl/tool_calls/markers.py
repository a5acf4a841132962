"""
Syntaxes whose blocks open with a literal marker: the base class of most, and those with JSON calls between tags,
`rlla` (ToolRL, the paper's data), `hermes` (Qwen2.5, Qwen3, Hermes) and `granite4`.
"""

import re
from typing import ClassVar

from .json_calls import ARGUMENTS_KEYS, decode_value, read_call, skip_blank, write_call_parts, write_json_call
from .parsed import REASONING, RESPONSE, STRUCTURE, TAG, Draft, ParsedCompletion, ToolCall
from .syntax import Evidence, ToolCallSyntax


THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
OPEN_RESPONSE, END_RESPONSE = "<response>", "</response>"


class MarkerSyntax(ToolCallSyntax):
    """
    Reasoning between two tags, calls after markers, and plain text, which is the response.

    A subclass parses in `_open` what follows each of its markers. One unreadable call voids all calls of a
    completion: a runtime would not execute half of them.
    """

    markers: ClassVar[tuple[str, ...]] = (THINK, END_THINK)
    think: ClassVar[str] = THINK
    end_think: ClassVar[str] = END_THINK
    # The start of a call, which ends reasoning that is never closed. The marker alone does not end it, because
    # reasoning may mention the marker.
    _call_ahead: ClassVar[re.Pattern[str]]
    _any_marker: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "_any_marker" not in cls.__dict__:  # a class may define it, if a literal is a marker only in some places
            longest_first = sorted(cls.markers, key=len, reverse=True)
            cls._any_marker = re.compile("|".join(map(re.escape, longest_first)))

    def parse(self, text: str) -> ParsedCompletion:
        draft = Draft(text)
        self._reasoning_opened_by_prompt(draft)
        while draft.position < len(text):
            marker = self._any_marker.search(text, draft.position)
            start = marker.start() if marker else len(text)
            if draft.position < start:
                self._plain_text(draft, start)
            if marker and draft.position <= start:  # otherwise the plain text held a call with the marker in it
                draft.write(marker.end(), TAG)
                self._open(draft, marker.group())
        self._finish(draft.parsed)
        return draft.parsed

    def _open(self, draft: Draft, marker: str) -> None:
        """Parse what `marker` opens; the draft stands after it."""
        if marker == self.think:
            self._reasoning(draft)

    def _finish(self, parsed: ParsedCompletion) -> None:
        if parsed.errors:
            parsed.calls, parsed.texts = [], []

    def _plain_text(self, draft: Draft, end: int) -> None:
        """Write text outside all markers: white space separates blocks, anything else is for the user."""
        if not draft.text[draft.position : end].strip():
            draft.write(end, STRUCTURE)
        else:
            draft.write(end, RESPONSE)
            draft.block("response", closed=True)

    def _reasoning_opened_by_prompt(self, draft: Draft) -> None:
        opening = self._any_marker.match(draft.text, skip_blank(draft.text, 0))
        if opening and opening.group() != self.end_think:
            return  # a later closing tag does not end the prompt's reasoning: a call may hold it in a string
        end = draft.text.find(self.end_think)
        if end != -1 and draft.text.find(self.think, 0, end) == -1:
            self._close_reasoning(draft, end)

    def _reasoning(self, draft: Draft) -> None:
        end = -1 if draft.has_unclosed_reasoning else draft.text.find(self.end_think, draft.position)
        if end != -1:
            self._close_reasoning(draft, end)
            return
        draft.has_unclosed_reasoning = True
        call = self._call_ahead.search(draft.text, draft.position)
        draft.write(call.start() if call else len(draft.text), REASONING)
        draft.block("reasoning", closed=False)

    def _close_reasoning(self, draft: Draft, end: int) -> None:
        draft.write(end, REASONING)
        draft.write(end + len(self.end_think), TAG)
        draft.block("reasoning", closed=True)


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
