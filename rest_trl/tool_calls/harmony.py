"""Calls in channels: `openai` (GPT-OSS)."""

import re
from typing import NamedTuple

from .json_calls import decode_value, skip_blank, write_arguments_parts, write_json_arguments
from .parsed import (
    PARAMETER_VALUE,
    REASONING,
    RESPONSE,
    STRUCTURE,
    TAG,
    TOOL_NAME,
    Draft,
    ParsedCompletion,
    Part,
    ToolCall,
)
from .syntax import Evidence, ToolCallSyntax


START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")

# The model's built-in tools take text instead of JSON, and the server runs them itself: messages to them are no calls.
_BUILT_IN_TOOLS = ("browser", "container", "python")


def _any_of(*literals: str) -> str:
    return "|".join(map(re.escape, literals))


class _Header(NamedTuple):
    is_assistant: bool
    channel: str
    recipient: str
    is_built_in: bool
    complete: bool


class OpenAISyntax(ToolCallSyntax):
    """
    Harmony, the syntax of GPT-OSS (vLLM parser `openai`): messages in channels, of which `analysis` is reasoning. A
    message with a recipient is a call, whose JSON object holds the arguments.

    ```text
    <|channel|>analysis<|message|>reasoning<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>
    <|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}<|call|>
    <|start|>assistant<|channel|>final<|message|>text for the user<|return|>
    ```

    (One line per message, for legibility: there are no line breaks between them.) A completion starts inside the first
    header: the prompt ends in `<|start|>assistant`. As in OpenAI's parser, other markers inside a message are its
    text, so reasoning may quote them; an end marker counts only where a message could follow or the turn ends.
    """

    name = "openai"
    markers = (START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS)
    evidence = (Evidence(("<|channel|>", "commentary", "functions."), tokens=("<|channel|>", "<|constrain|>")),)
    vllm_parser = "openai"
    think, end_think = f"{CHANNEL}analysis{MESSAGE}", "<|end|>"

    _any_marker = re.compile(_any_of(START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS))
    _header_start = re.compile(rf"\s*(?:to=|{_any_of(START, CHANNEL, CONSTRAIN, MESSAGE)})")
    _header_piece = re.compile(
        rf"(?P<marker>{_any_of(CHANNEL, CONSTRAIN)})|(?<![^\s>])to=(?P<prefix>functions\.)?(?P<recipient>[^\s<]+)"
    )
    _header_end = re.compile(_any_of(START, MESSAGE, *ENDS))
    _word = re.compile(r"\s*(\w*)")
    _end = re.compile(_any_of(*ENDS))
    _message_end = re.compile(rf"(?:{_any_of(*ENDS)})(?=\s*(?:{_any_of(START, CHANNEL)}|\Z))")

    def parse(self, text: str) -> ParsedCompletion:
        draft = Draft(text)
        while draft.position < len(text):
            if self._header_start.match(text, draft.position):
                self._message(draft)
            else:
                self._plain_text(draft)
        if draft.parsed.errors:  # a runtime would execute nothing
            draft.parsed.calls = []
        return draft.parsed

    def _message(self, draft: Draft) -> None:
        follows_another = draft.position > 0
        draft.write(skip_blank(draft.text, draft.position), STRUCTURE)
        if follows_another and not draft.text.startswith(START, draft.position):
            draft.parsed.errors.append(f"character {draft.position}: a message without {START}assistant")
        header = self._header(draft)
        if header.recipient:
            kind, part = "tool_call", PARAMETER_VALUE
        elif header.channel == "analysis":
            kind, part = "reasoning", REASONING
        else:
            kind, part = "response", RESPONSE
        if header.recipient and not header.is_built_in:
            self._call(draft, header)
        elif header.complete:
            self._body(draft, part)
        end = self._end.match(draft.text, draft.position)
        if end:
            draft.write(end.end(), TAG)
        if header.is_assistant:
            draft.block(kind, closed=end is not None)

    def _header(self, draft: Draft) -> _Header:
        text, role, channel, recipient, is_built_in = draft.text, "assistant", "", "", False
        if text.startswith(START, draft.position):
            draft.write(draft.position + len(START), TAG)
            role = self._word.match(text, draft.position).group(1)  # type: ignore[union-attr]  # matches ""
        end = self._header_end.search(text, draft.position)
        stop = end.start() if end else len(text)
        for piece in self._header_piece.finditer(text, draft.position, stop):
            if piece["marker"]:
                draft.write(piece.start(), STRUCTURE)
                draft.write(piece.end(), TAG)
                if piece["marker"] == CHANNEL and not channel:
                    channel = self._word.match(text, piece.end()).group(1)  # type: ignore[union-attr]
            elif role == "assistant" and not recipient:
                recipient = piece["recipient"]
                is_built_in = not piece["prefix"] and recipient.partition(".")[0] in _BUILT_IN_TOOLS
                draft.write(piece.start("recipient"), STRUCTURE)
                draft.write(piece.end(), TOOL_NAME)
        draft.write(stop, STRUCTURE)
        complete = end is not None and end.group() == MESSAGE
        if complete:
            draft.write(stop + len(MESSAGE), TAG)
        return _Header(role == "assistant", channel, recipient, is_built_in, complete)

    def _body(self, draft: Draft, part: Part) -> None:
        end = self._message_end.search(draft.text, draft.position)
        draft.write(end.start() if end else len(draft.text), part)

    def _call(self, draft: Draft, header: _Header) -> None:
        text = draft.text
        start = skip_blank(text, draft.position)
        try:
            if not header.complete:
                raise ValueError(f"the header has no {MESSAGE}")
            arguments, stop = decode_value(text, start)
            stop = skip_blank(text, stop)
            if not isinstance(arguments, dict):
                raise ValueError(f"the arguments must be a JSON object, not {type(arguments).__name__}")
            if stop < len(text) and not self._message_end.match(text, stop):
                raise ValueError("text after the arguments")
        except ValueError as error:
            draft.parsed.errors.append(f"character {start}: the call of {header.recipient!r}: {error}")
            if not header.complete:
                return
            end = self._message_end.search(text, start)
            stop = end.start() if end else len(text)
            draft.write(start, STRUCTURE)
            write_arguments_parts(draft, stop)
        else:
            draft.parsed.calls.append(ToolCall(header.recipient, arguments))
            draft.write(start, STRUCTURE)
            write_json_arguments(draft)
        draft.write(stop, STRUCTURE)

    def _plain_text(self, draft: Draft) -> None:
        """Text outside all messages, which a server shows to the user, and end markers that end nothing."""
        text = draft.text
        end = self._end.match(text, draft.position)
        if end:
            draft.write(end.end(), TAG)
            return
        marker = self._any_marker.search(text, draft.position)
        stop = marker.start() if marker else len(text)
        if text[draft.position : stop].strip():
            draft.write(stop, RESPONSE)
            draft.block("response", closed=True)
        else:
            draft.write(stop, STRUCTURE)
