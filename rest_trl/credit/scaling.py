"""How TRL scales rewards to advantages."""

from typing import Any

import torch

from ..trl_seam import nanstd


_EPSILON = 1e-4  # TRL's, which keeps groups of equal rewards from a division by zero
_ROUNDING = 1e-5  # relative; far above the rounding of float32 sums, far below any difference of two rewards


def affine(
    rewards: torch.Tensor, weights: torch.Tensor, num_generations: int, scale_rewards: str, aggregation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The factors by which TRL multiplies centred rewards, and the offsets that it then subtracts.

    Groups without spread have factor 0. TRL divides their centred rewards, which are all zero, by its epsilon; but
    parts of rewards may differ where their sums do not.

    Arguments as in [`~rest_trl.credit.credited_advantages`]; returns tensors of shapes `(N, K)` and `(N,)`.
    """
    grouped = rewards.view(-1, num_generations, rewards.size(1))
    if aggregation == "normalize_then_sum":
        spread = nanstd(grouped, dim=1).repeat_interleave(num_generations, 0) if num_generations > 1 else 0 * rewards
        factors = weights * _inverse(spread, rewards.abs().nan_to_num(0.0).max())
        means = torch.nanmean(grouped, dim=1).repeat_interleave(num_generations, 0)
        sums = ((rewards - means) * factors).nansum(1)
        sums[rewards.isnan().all(1)] = torch.nan
        # Of fewer than two scorable completions, TRL's deviation and mean are NaN, which would spread to the loss.
        deviation, offset = nanstd(sums).nan_to_num(0.0), torch.nanmean(sums).nan_to_num(0.0)
        return factors / (deviation + _EPSILON), offset.expand(len(rewards)) / (deviation + _EPSILON)
    sums = (rewards * weights).nansum(1)
    sums[rewards.isnan().all(1)] = torch.nan
    size = (rewards * weights).abs().nan_to_num(0.0).max()
    if scale_rewards == "none":
        factors = torch.ones(len(sums))
    elif scale_rewards == "batch":
        factors = _inverse(nanstd(sums), size).expand(len(sums))
    else:
        factors = _inverse(nanstd(sums.view(-1, num_generations), dim=1), size).repeat_interleave(num_generations)
    return factors.unsqueeze(1) * weights, torch.zeros(len(sums))


def counted_rewards(rewards: torch.Tensor, aggregation: str) -> torch.Tensor:
    """
    What TRL counts for a reward that a function did not give.

    It is 0 in a sum of rewards. Where each is normalised by itself it is left out, as are completions without any.
    Returns a `torch.Tensor` of shape `(N, K)`, NaN where a reward is left out.
    """
    if aggregation == "normalize_then_sum":
        return rewards
    return rewards.nan_to_num(0.0).masked_fill(rewards.isnan().all(1, keepdim=True), torch.nan)


def has_spread(rewards: torch.Tensor, weights: torch.Tensor, num_generations: int, aggregation: str) -> torch.Tensor:
    """
    Which groups have rewards that differ by more than rounding: in their sum, or in any where each is normalised by
    itself. Arguments as in [`affine`]; returns a `torch.Tensor` of shape `(N / G,)`, bool.
    """
    scale = "group" if aggregation == "sum_then_normalize" else "none"
    factors, _ = affine(rewards, weights, num_generations, scale, aggregation)
    return factors.view(-1, num_generations * rewards.size(1)).ne(0).any(1)


def wasted_groups(rewards: torch.Tensor, trainer: Any) -> list[int]:
    """The groups of a rollout without spread, given its rewards of shape `(N, K)` and the trainer that weighs them."""
    weights, size = trainer.reward_weights.float().cpu(), trainer.num_generations
    spread = has_spread(rewards.float().cpu(), weights, size, trainer.multi_objective_aggregation)
    return torch.nonzero(~spread).flatten().tolist()


def _inverse(spread: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Inverse of a spread, zero where it is no more than the rounding of sums of rewards that are at most `size`."""
    is_zero = spread.isnan() | (spread <= _ROUNDING * size)
    return torch.where(is_zero, 0.0, 1 / (spread + _EPSILON))
