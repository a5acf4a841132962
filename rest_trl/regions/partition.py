"""From sampled completion ids to regions, through the tokenizer's byte table: nothing is tokenised again."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from ..tool_calls import REGION_OF_PART, Part, Region, ToolCallSyntax, get_syntax
from .token_bytes import TokenBytes, byte_offsets


_REGIONS = torch.tensor(REGION_OF_PART, dtype=torch.int8)


class Partitioner:
    """
    Assigns a [`Part`] to every sampled token.

    A token that straddles parts gets the one of the highest precedence (the order of [`Part`]). Special tokens that
    are no markers of the syntax, such as the end of turn, are structure.

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
                Non-zero at the policy's own tokens. Every contiguous run is an assistant turn and parsed by itself.

        Returns:
            `torch.Tensor` of shape `(B, T)`, int8, on the device of `completion_ids`: [`Part`] per token.
        """
        ids, policy = completion_ids.cpu().numpy(), mask.cpu().numpy().astype(bool)
        self.token_bytes.cover(int(ids.max(initial=0)))
        token_ids = ids[policy]
        # Every turn is a run of the mask; turns lie behind each other both in `token_ids` and in their bytes.
        edges = np.nonzero(np.diff(np.pad(policy, ((0, 0), (1, 1))).astype(np.int8)))[1]
        token_bounds = np.concatenate([[0], np.cumsum(edges[1::2] - edges[::2])])
        byte_ends = np.cumsum(self.token_bytes.lengths[token_ids])
        byte_bounds = np.concatenate([[0], byte_ends])[token_bounds]
        data = self.token_bytes.bytes(token_ids)
        part_starts: list[int] = []
        part_values: list[int] = []
        part_counts: list[int] = []
        for start, end in pairwise(byte_bounds.tolist()):
            # surrogateescape: a character cut off by the sampler keeps its bytes, one surrogate each
            text = data[start:end].decode("utf-8", "surrogateescape")
            parts = self.tool_call_syntax.parse(text).parts
            if parts:
                turn_starts, _, turn_values = zip(*parts, strict=True)
                ascii_only = len(text) == end - start
                part_starts += turn_starts if ascii_only else byte_offsets(text)[list(turn_starts)].tolist()
                part_values += turn_values
            part_counts.append(len(parts))
        global_starts = np.array(part_starts, np.int64) + np.repeat(byte_bounds[:-1], part_counts)
        result = np.zeros(ids.shape, dtype=np.int8)
        result[policy] = self._assign(token_ids, byte_ends, global_starts, np.frombuffer(bytes(part_values), np.int8))
        return torch.from_numpy(result).to(completion_ids.device)

    def _assign(
        self, token_ids: np.ndarray, ends: np.ndarray, part_starts: np.ndarray, part_values: np.ndarray
    ) -> np.ndarray:
        """Parts of the tokens, of which the concatenated bytes end at `ends` and are covered by the parts."""
        lengths = self.token_bytes.lengths[token_ids]
        if not len(part_starts):  # nothing but special tokens
            return np.full(len(token_ids), Part.STRUCTURE, np.int8)
        # A part covers the tokens that start in it, and takes over a token that started before it if it outranks it.
        first = np.searchsorted(ends - lengths, part_starts)
        parts = np.repeat(part_values, np.diff(first, append=len(token_ids)))
        before = first - 1
        straddles = (before >= 0) & (ends[before] > part_starts)
        np.maximum.at(parts, before[straddles], part_values[straddles])
        parts[lengths == 0] = Part.STRUCTURE
        return parts


@lru_cache(maxsize=8)
def _partitioner(tokenizer: PreTrainedTokenizerBase, size: int, tool_call_syntax: str) -> Partitioner:
    return Partitioner(tokenizer, get_syntax(tool_call_syntax))


def _policy_mask(completion_ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """All but the trailing padding; where padding is the end-of-sequence token, its first one was sampled."""
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


def region_sums(region_ids: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
    """
    Number of tokens of every region, and the sums of `values` over them; NaN counts as 0.

    Args:
        region_ids (`torch.Tensor` of shape `(B, T)`):
            [`Region`] per token, `NONE` at tokens that are not the policy's.
        values (`torch.Tensor` of shape `(B, T)`):
            What to sum up; each is a row of the result.

    Returns:
        `torch.Tensor` of shape `(1 + len(values), R)`, float32: counts first; `NONE` is no region and has zeros.

    Example:

    ```python
    >>> region_sums(torch.tensor([[1, 1, 2, 0]], dtype=torch.int8), torch.tensor([[0.5, 1.0, 2.0, 4.0]]))
    tensor([[0.0000, 2.0000, 1.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 1.5000, 2.0000, 0.0000, 0.0000, 0.0000]])

    ```
    """
    sums = []
    # Region by region: a one-hot of shape (B, T, R) would be the largest tensor that ResT adds to a step, and sums by
    # index are not deterministic on a GPU.
    for region in list(Region)[1:]:
        inside = region_ids == region
        sums.append(inside.sum(dtype=torch.float32))
        sums += [value.where(inside, 0).nansum(dtype=torch.float32) for value in values]
    return pad(torch.stack(sums).view(-1, 1 + len(values)).T, (1, 0))


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
            Zero at tokens that come from tools or the template. Each run of ones is parsed as a turn of its own.

    Returns:
        `torch.Tensor` of shape `(B, T)`, int8: [`Region`] per token, `NONE` wherever a mask is zero.

    Raises:
        ValueError: if the syntax is unknown, the tokenizer has no byte table, or padding cannot be told.
    """
    mask = _policy_mask(completion_ids, tokenizer) if completion_mask is None else completion_mask.bool()
    if tool_mask is not None:
        mask = mask & tool_mask.bool()
    return to_regions(_partitioner(tokenizer, len(tokenizer), tool_call_syntax)(completion_ids, mask))
