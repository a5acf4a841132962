"""What was parsed of the last rollout, for its rewards and for its loss."""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from .partition import Partitioner, Turn


class RolloutReader:
    """
    Keeps the parse of the last rollout, so that rewards and regions share it.

    Args:
        partitioner ([`Partitioner`]):
            Parses the sampled tokens.
    """

    def __init__(self, partitioner: Partitioner) -> None:
        self._partitioner = partitioner
        self._turns: dict[tuple[int, ...], list[Turn]] = {}

    def read(self, completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]] | None = None) -> None:
        """
        Parse a rollout.

        Args:
            completion_ids (`Sequence[Sequence[int]]` of length `B`):
                Sampled token ids.
            tool_mask (`Sequence[Sequence[int]]` of length `B`, *optional*):
                Zero at tokens that come from tools or the template.
        """
        self._part_ids, turns = self._partitioner.read_lists(completion_ids, tool_mask)
        self._turns = dict(zip(map(tuple, completion_ids), turns, strict=True))

    def turns(self, completion_ids: Sequence[Sequence[int]]) -> list[list[Turn]]:
        """
        The assistant turns of completions, from the rollout; what is none of it is parsed, all tokens the policy's.

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
