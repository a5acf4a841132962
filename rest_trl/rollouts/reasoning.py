"""Finds where the reasoning of a completion ends, from its tokens as they are sampled."""

from collections.abc import Sequence

import torch
from transformers import StoppingCriteria

from ..regions.token_bytes import TokenBytes
from ..tool_calls import ToolCallSyntax


_PROMPT_TAIL = 32  # last tokens of a prompt that are read; a tag and the white space after it have fewer


class ReasoningEnd:
    """
    Finds the place where the reasoning of a completion ends.

    Where the completion starts with the opening tag, or the prompt ends with it, the place is after the token that
    completes the closing tag. Any other completion has no reasoning, and the place is after the first token that shows
    this. Either way, whether a place is the end is decided by the tokens before it alone.

    Args:
        token_bytes ([`~rest_trl.regions.token_bytes.TokenBytes`]):
            The bytes of the policy's tokens.
        tool_call_syntax ([`~rest_trl.tool_calls.ToolCallSyntax`]):
            Has the opening and the closing tag.

    Raises:
        ValueError: if the syntax has no tags around reasoning.
    """

    def __init__(self, token_bytes: TokenBytes, tool_call_syntax: ToolCallSyntax) -> None:
        if not tool_call_syntax.end_think:
            raise ValueError(
                "branch_size needs to know what closes reasoning, and tool_call_syntax="
                f"{tool_call_syntax.name!r} does not say it: set its attributes `think` and `end_think`, or leave out "
                "branch_size"
            )
        self.closing_tag = tool_call_syntax.end_think
        self._token_bytes = token_bytes
        self._think, self._end_think = tool_call_syntax.think.encode(), self.closing_tag.encode()

    def watch(self, prompt_ids: Sequence[int]) -> "ReasoningWatch":
        """Watch the completion of a prompt, which may be padded on the left, grow."""
        tail = self._token_bytes.text(prompt_ids[-_PROMPT_TAIL:]).encode("utf-8", "surrogateescape")
        return ReasoningWatch(self._token_bytes, self._think, self._end_think, tail.rstrip().endswith(self._think))

    def find(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int | None:
        """The number of tokens up to the end of the reasoning; `None` if it has no end."""
        watch = self.watch(prompt_ids)
        return next((count for count, token in enumerate(completion_ids, start=1) if watch.ends(token)), None)


class ReasoningWatch:
    """Watches one completion, see [`ReasoningEnd.watch`]; `inside` tells whether reasoning was opened."""

    def __init__(self, token_bytes: TokenBytes, think: bytes, end_think: bytes, inside: bool) -> None:
        self._token_bytes, self._think, self._end_think = token_bytes, think, end_think
        self.inside = inside
        self._text = b""

    def ends(self, token_id: int) -> bool:
        """Take the next token; whether the place that [`ReasoningEnd`] finds is right after it."""
        self._text += self._token_bytes.text([token_id]).encode("utf-8", "surrogateescape")
        if not self.inside:
            text = self._text.lstrip()
            if self._think.startswith(text):  # the opening tag may still come
                self.inside = text == self._think
                return False
            if not text.startswith(self._think):
                return True
            self.inside, self._text = True, text[len(self._think) :]
        found = self._end_think in self._text
        self._text = self._text[1 - len(self._end_think) :]  # a tag may lie across tokens
        return found


class EndOfReasoning(StoppingCriteria):
    """
    Ends the completions of a batch of prompts, of shape `(B, P)` and padded on the left, after their reasoning.
    """

    def __init__(self, reasoning_end: ReasoningEnd, prompt_ids: torch.Tensor) -> None:
        self._watches = [reasoning_end.watch(ids) for ids in prompt_ids.tolist()]
        self._done = torch.zeros(len(prompt_ids), dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: object) -> torch.Tensor:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if not self._done[row]:
                self._done[row] = self._watches[row].ends(token)
        return self._done.to(input_ids.device)
