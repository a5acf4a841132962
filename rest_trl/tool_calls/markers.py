"""Left-to-right parse of syntaxes whose blocks open with a literal marker."""

import re
from typing import ClassVar

from .json_calls import skip_blank
from .parsed import REASONING, RESPONSE, STRUCTURE, TAG, Draft, ParsedCompletion
from .syntax import ToolCallSyntax


THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"


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
            parsed.calls = []

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
