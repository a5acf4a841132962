"""The parse of the last rollout, which its rewards and its loss share."""

from collections.abc import Collection, Sequence
from itertools import groupby

import torch
from torch.nn.functional import pad

from .partition import Partitioner, Turn


class RolloutReader:
    """
    Keeps the parse of the last rollout, so that rewards and regions share it.

    Args:
        partitioner ([`Partitioner`]):
            Parses the sampled tokens.
        end_ids (`Collection[int]`, *optional*, defaults to `()`):
            Tokens that end a turn. They are given if the turns come from a `rollout_func`, which may mark tokens of
            the template after them as the policy's: [`read`](RolloutReader.read) refuses that.
    """

    def __init__(self, partitioner: Partitioner, end_ids: Collection[int] = ()) -> None:
        self._partitioner, self._end_ids = partitioner, frozenset(end_ids)
        self._turns: dict[tuple[int, ...], list[Turn]] = {}

    def read(self, completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]] | None = None) -> None:
        """
        Parse a rollout.

        Args:
            completion_ids (`Sequence[Sequence[int]]` of length `B`):
                Sampled token ids.
            tool_mask (`Sequence[Sequence[int]]` of length `B`, *optional*):
                Zero at tokens that come from tools or the template.

        Raises:
            ValueError: if the mask does not fit the tokens, or a turn goes on after a token that ends it.
        """
        if tool_mask is not None:
            _check_lengths(completion_ids, tool_mask)
        if self._end_ids:
            self._check_ends(completion_ids, tool_mask)
        self._part_ids, turns = self._partitioner.read_lists(completion_ids, tool_mask)
        self._turns = dict(zip(map(tuple, completion_ids), turns, strict=True))

    def _check_ends(self, completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]] | None) -> None:
        for row, ids in enumerate(completion_ids):
            policy = [1] * len(ids) if tool_mask is None else tool_mask[row]
            for is_own, run in groupby(zip(policy, ids, strict=True), key=lambda pair: bool(pair[0])):
                tokens = [token for _, token in run]
                end = next((place for place, token in enumerate(tokens) if token in self._end_ids), len(tokens))
                # Padding and white space after the end do no harm, unlike a further turn read as part of this one.
                behind = self._partitioner.token_bytes.text(tokens[end + 1 :]).strip() if is_own else ""
                if behind:
                    raise ValueError(
                        f"completion {row} of rollout_func goes on behind the end of a turn with {behind!r:.80} as "
                        "the policy's: give `env_mask` 0 there, as at all tokens of the template and of tools, so "
                        "that each turn is read by itself"
                    )

    def turns(self, completion_ids: Sequence[Sequence[int]]) -> list[list[Turn]]:
        """
        The assistant turns of completions. One that is not of the last rollout is parsed as if all its tokens were the
        policy's.

        Args:
            completion_ids (`Sequence[Sequence[int]]` of length `B`):
                Sampled token ids.

        Returns:
            `list[list[Turn]]` of length `B`
        """
        found = [self._turns.get(tuple(ids)) for ids in completion_ids]
        return [
            self._partitioner.read_lists([ids]).turns[0] if turns is None else turns
            for ids, turns in zip(completion_ids, found, strict=True)
        ]

    def spans(self, completion_ids: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
        """
        Where the assistant turns of completions lie.

        Args:
            completion_ids (`Sequence[Sequence[int]]` of length `B`):
                Sampled token ids.

        Returns:
            `list[list[tuple[int, int]]]` of length `B`: the columns of each turn's first token and after its last.
        """
        return [
            [(turn.column, turn.column + len(turn.token_starts)) for turn in turns]
            for turns in self.turns(completion_ids)
        ]

    def part_ids(self, mask: torch.Tensor) -> torch.Tensor:
        """
        Parts of the rollout's tokens, as TRL has padded and masked them.

        Args:
            mask (`torch.Tensor` of shape `(B, T)`):
                Non-zero at the policy's tokens. `T` may be larger than the longest completion.

        Returns:
            `torch.Tensor` of shape `(B, T)`, int8, on the device of `mask`: [`Part`] per token.
        """
        part_ids = self._part_ids.to(mask.device)
        return pad(part_ids, (0, mask.size(1) - part_ids.size(1))) * mask.to(part_ids.dtype)


def _check_lengths(completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]]) -> None:
    cure = (
        "let rollout_func give one number per token, 1 for those of the policy and 0 for those of template and tools"
    )
    if len(tool_mask) != len(completion_ids):
        raise ValueError(f"`env_mask` has {len(tool_mask)} rows for {len(completion_ids)} completions: {cure}")
    for row, (ids, mask) in enumerate(zip(completion_ids, tool_mask, strict=True)):
        if len(ids) != len(mask):
            raise ValueError(
                f"`env_mask` of completion {row} has {len(mask)} numbers for {len(ids)} `completion_ids`: {cure}"
            )
