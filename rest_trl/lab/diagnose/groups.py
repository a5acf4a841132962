"""Sampled groups, the units of a diagnosis."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch


class Group(NamedTuple):
    """
    One prompt with its `G` completions of at most `T` tokens.

    Args:
        prompt_ids, prompt_mask (`torch.Tensor` of shape `(G, P)`):
            Token ids of the prompt, padded on the left; the mask is zero at padding.
        completion_ids, completion_mask (`torch.Tensor` of shape `(G, T)`):
            Sampled ids, padded on the right; the mask is non-zero where the model attends to them.
        mask (`torch.Tensor` of shape `(G, T)`):
            Non-zero at the policy's tokens.
        part_ids (`torch.Tensor` of shape `(G, T)`):
            [`~rest_trl.tool_calls.Part`] per token.
        advantages (`dict[str, torch.Tensor]` of shapes `(G, T)`):
            Advantages per token by credit.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    mask: torch.Tensor
    part_ids: torch.Tensor
    advantages: dict[str, torch.Tensor]

    def rows(self, rows: slice) -> "Group":
        """Some of the completions."""
        return Group(
            self.prompt_ids[rows],
            self.prompt_mask[rows],
            self.completion_ids[rows],
            self.completion_mask[rows],
            self.mask[rows],
            self.part_ids[rows],
            {credit: values[rows] for credit, values in self.advantages.items()},
        )


def split_groups(
    rollout: Mapping[str, Any], mask: torch.Tensor, advantages: Mapping[str, torch.Tensor], num_generations: int
) -> list[Group]:
    """
    Split a rollout into its groups, each without the padding that only longer groups need.

    Args:
        rollout (`Mapping[str, Any]`):
            The batch of the loss: `prompt_ids`, `prompt_mask`, `completion_ids`, `completion_mask`, `part_ids`.
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens.
        advantages (`Mapping[str, torch.Tensor]` of shapes `(B, T)`):
            Advantages per token by credit.
        num_generations (`int`):
            `G`. The rows of a group are neighbours.

    Returns:
        `list[Group]` of length `B / G`
    """
    groups = []
    for start in range(0, len(mask), num_generations):
        rows = slice(start, start + num_generations)
        prompt = slice(int(rollout["prompt_mask"][rows].any(0).int().argmax()), None)
        end = max(1, int(rollout["completion_mask"][rows].sum(1).max()))
        groups.append(
            Group(
                rollout["prompt_ids"][rows, prompt],
                rollout["prompt_mask"][rows, prompt],
                rollout["completion_ids"][rows, :end],
                rollout["completion_mask"][rows, :end],
                mask[rows, :end],
                rollout["part_ids"][rows, :end],
                {credit: values[rows, :end] for credit, values in advantages.items()},
            )
        )
    return groups
