"""From sampled completion ids to regions, through the tokenizer's byte table: nothing is tokenised again."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..tool_calls import REGION_OF_PART, ParsedCompletion, Part, ToolCallSyntax, get_syntax
from .token_bytes import TokenBytes, byte_offsets


_REGIONS = torch.tensor(REGION_OF_PART, dtype=torch.int8)


class Turn(NamedTuple):
    """
    An assistant turn and where its tokens lie.

    Args:
        parsed ([`~rest_trl.tool_calls.ParsedCompletion`]):
            The parsed turn.
        text (`str`):
            Its text; each byte of a character that was cut off is a lone surrogate.
        column (`int`):
            Column of its first token.
        token_starts (`np.ndarray` of shape `(N,)`):
            Where each of its tokens starts, in bytes of the text.
    """

    parsed: ParsedCompletion
    text: str
    column: int
    token_starts: np.ndarray

    def columns(self, positions: Sequence[int]) -> list[int]:
        """The column of the first token that starts at or after each position, in characters of the text."""
        places = np.array(positions, np.int64)
        if not self.text.isascii():
            inside = np.minimum(places, len(self.text))
            places = byte_offsets(self.text)[inside] + places - inside
        return (self.column + np.searchsorted(self.token_starts, places)).tolist()


def find_turns(policy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The turns of a batch: every contiguous run of a mask is one.

    Args:
        policy (`np.ndarray` of shape `(B, T)`):
            True at the policy's tokens.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`, each of shape `(N,)`: the row of every turn, the column of its
        first token and the column after its last one, row by row.

    Example:

    ```python
    >>> [found.tolist() for found in find_turns(np.array([[True, True, False, True], [False, True, True, False]]))]
    [[0, 0, 1], [0, 3, 1], [2, 4, 3]]

    ```
    """
    count, length = policy.shape
    framed = np.zeros((count, length + 2), dtype=bool)
    framed[:, 1:-1] = policy
    rows, columns = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), length + 1)
    return rows[::2], columns[::2], columns[1::2]


class Reading(NamedTuple):
    """
    What one parse of a batch gives to rewards and to the loss.

    Args:
        part_ids (`torch.Tensor` of shape `(B, T)`):
            [`Part`] per token, int8; `NONE` at tokens that are not the policy's.
        turns (`list[list[Turn]]` of length `B`):
            The assistant turns of every completion.
    """

    part_ids: torch.Tensor
    turns: list[list[Turn]]


class Partitioner:
    """
    Parses sampled tokens and assigns a [`Part`] to each.

    A token that straddles parts gets the one of the highest precedence (the order of [`Part`]). Special tokens that
    are not markers of the syntax, such as the end of turn, are structure.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        tool_call_syntax ([`ToolCallSyntax`]):
            The wire syntax.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tool_call_syntax: ToolCallSyntax) -> None:
        self.tool_call_syntax = tool_call_syntax
        self.token_bytes = TokenBytes(tokenizer, tool_call_syntax.markers)

    def __call__(self, completion_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            completion_ids (`torch.Tensor` of shape `(B, T)`):
                Sampled token ids.
            mask (`torch.Tensor` of shape `(B, T)`):
                Non-zero at the policy's tokens. Every contiguous run is an assistant turn and parsed by itself.

        Returns:
            `torch.Tensor` of shape `(B, T)`, int8, on the device of `completion_ids`: [`Part`] per token.
        """
        return self.read(completion_ids, mask).part_ids

    def read(self, completion_ids: torch.Tensor, mask: torch.Tensor) -> Reading:
        """Parse every assistant turn once, for the rewards and for the regions; the arguments are those of a call."""
        ids, policy = completion_ids.cpu().numpy(), mask.cpu().numpy().astype(bool)
        self.token_bytes.cover(int(ids.max(initial=0)))
        token_ids = ids[policy]
        # Turns follow one another both in `token_ids` and in their bytes.
        rows, columns, stops = find_turns(policy)
        token_bounds = np.concatenate([[0], np.cumsum(stops - columns)])
        lengths = self.token_bytes.lengths[token_ids]
        byte_ends = np.cumsum(lengths)
        token_starts = byte_ends - lengths
        byte_bounds = np.concatenate([[0], byte_ends])[token_bounds]
        data = self.token_bytes.bytes(token_ids, lengths, token_starts)
        turns: list[list[Turn]] = [[] for _ in range(len(ids))]
        part_starts: list[int] = []
        part_values: list[int] = []
        part_counts: list[int] = []
        places = zip(rows.tolist(), columns.tolist(), pairwise(token_bounds.tolist()), strict=True)
        for (row, column, (first, last)), (start, end) in zip(places, pairwise(byte_bounds.tolist()), strict=True):
            # surrogateescape: a character cut off by the sampler keeps its bytes, one surrogate each
            text = data[start:end].decode("utf-8", "surrogateescape")
            parsed = self.tool_call_syntax.parse(text)
            turns[row].append(Turn(parsed, text, column, token_starts[first:last] - start))
            if parsed.parts:
                turn_starts, _, turn_values = zip(*parsed.parts, strict=True)
                ascii_only = len(text) == end - start
                part_starts += turn_starts if ascii_only else byte_offsets(text)[list(turn_starts)].tolist()
                part_values += turn_values
            part_counts.append(len(parsed.parts))
        global_starts = np.array(part_starts, np.int64) + np.repeat(byte_bounds[:-1], part_counts)
        result = np.zeros(ids.shape, dtype=np.int8)
        result[policy] = self._assign(
            token_starts, byte_ends, global_starts, np.frombuffer(bytes(part_values), np.int8)
        )
        return Reading(torch.from_numpy(result).to(completion_ids.device), turns)

    def read_lists(
        self, completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]] | None = None
    ) -> Reading:
        """
        [`read`](Partitioner.read) for completions as a sampler returns them, as lists of different lengths.

        `tool_mask` is zero at tokens that come from tools or the template; by default all tokens are the policy's.
        """
        shape = len(completion_ids), max(map(len, completion_ids), default=0)
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, completion in enumerate(completion_ids):
            ids[row, : len(completion)] = completion
            mask[row, : len(completion)] = 1 if tool_mask is None else tool_mask[row]
        return self.read(torch.from_numpy(ids), torch.from_numpy(mask))

    @staticmethod
    def _assign(starts: np.ndarray, ends: np.ndarray, part_starts: np.ndarray, part_values: np.ndarray) -> np.ndarray:
        """The part of each token, given where tokens and parts start in the concatenated bytes of all turns."""
        if not len(part_starts):  # nothing but special tokens
            return np.full(len(starts), Part.STRUCTURE, np.int8)
        # A part covers the tokens that start in it, and one that straddles its start if it outranks that token's part.
        first = np.searchsorted(starts, part_starts)
        parts = np.repeat(part_values, np.diff(first, append=len(starts)))
        before = first - 1
        straddles = (before >= 0) & (ends[before] > part_starts)
        np.maximum.at(parts, before[straddles], part_values[straddles])
        parts[starts == ends] = Part.STRUCTURE
        return parts


@lru_cache(maxsize=8)
def _partitioner(tokenizer: PreTrainedTokenizerBase, size: int, tool_call_syntax: str) -> Partitioner:
    return Partitioner(tokenizer, get_syntax(tool_call_syntax))


def _policy_mask(completion_ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """All but trailing padding, of which the first token counts as sampled where it is the end-of-sequence token."""
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token: give completion_mask, or set tokenizer.pad_token")
    is_pad = completion_ids == tokenizer.pad_token_id
    trailing = is_pad.flip(1).long().cumprod(1).flip(1).bool()
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        trailing &= trailing.long().cumsum(1) > 1
    return ~trailing


def to_regions(part_ids: torch.Tensor) -> torch.Tensor:
    """
    [`Region`] of every [`Part`].

    Args:
        part_ids (`torch.Tensor` of shape `(B, T)`):
            Values of [`Part`].

    Returns:
        `torch.Tensor` of shape `(B, T)`, int8.

    Example:

    ```python
    >>> to_regions(torch.tensor([[Part.TAG, Part.TOOL_NAME, Part.PARAMETER_NAME, Part.PARAMETER_VALUE]]))
    tensor([[1, 2, 3, 3]], dtype=torch.int8)

    ```
    """
    return _REGIONS.to(part_ids.device)[part_ids.long()]


def partition(
    completion_ids: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    tool_call_syntax: str,
    completion_mask: torch.Tensor | None = None,
    tool_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Region of every sampled token (paper, "region-aware partition").

    Args:
        completion_ids (`torch.Tensor` of shape `(B, T)`):
            Sampled token ids, padded on the right.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        tool_call_syntax (`str`):
            Name of the wire syntax, see [`~rest_trl.tool_calls.get_syntax`].
        completion_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
            Non-zero at sampled tokens. By default everything but trailing padding.
        tool_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
            Zero at tokens that come from tools or the template. Each run of ones is parsed as a turn.

    Returns:
        `torch.Tensor` of shape `(B, T)`, int8: [`Region`] per token, `NONE` wherever a mask is zero.

    Raises:
        ValueError: if the syntax is unknown, or the tokenizer lacks a byte table or, without a mask, a padding token.
    """
    mask = _policy_mask(completion_ids, tokenizer) if completion_mask is None else completion_mask.bool()
    if tool_mask is not None:
        mask = mask & tool_mask.bool()
    return to_regions(_partitioner(tokenizer, len(tokenizer), tool_call_syntax)(completion_ids, mask))
