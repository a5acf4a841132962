"""The rules that are compared: what a token is credited with, times the coefficient of its region."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ...regions import Region, RegionStatistics, region_sums, to_regions
from ...regions.rules import bind_rule, checked_coefficients, rule_name
from .groups import Group
from .tokens import TokenFacts


# The loss divides a token's term by the length of its completion, by the longest length that is allowed, or by the
# number of tokens in the batch. Other losses weigh tokens differently, even right after sampling, with all ratios 1.
PER_COMPLETION, PER_ALLOWED, PER_BATCH = ("grpo", "sapo"), ("dr_grpo",), ("bnpo", "dapo")
LOSS_TYPES = PER_COMPLETION + PER_ALLOWED + PER_BATCH


class Rule(NamedTuple):
    """
    What determines a token's weight in the gradient.

    Args:
        credit (`str`):
            `"completion"`, `"region"` or `"local"`, see [`~rest_trl.ResTGRPOConfig`].
        coefficients (`str`):
            Preset or dotted path, see [`~rest_trl.ResTGRPOConfig`].
    """

    credit: str
    coefficients: str

    def __str__(self) -> str:
        return f"{self.credit}/{self.coefficients}"


GRPO = Rule("completion", "uniform")
_RULES = (
    GRPO,
    Rule("completion", "entropy"),
    Rule("completion", "released"),
    Rule("region", "uniform"),
    Rule("region", "entropy"),
    Rule("local", "uniform"),
)


def rules_of(args: Any) -> list[Rule]:
    """
    The rules that a diagnosis compares: GRPO, then this library's, then the recipe's if it is not among them.

    Args:
        args ([`~rest_trl.ResTGRPOConfig`]):
            The arguments of the recipe.

    Returns:
        `list[Rule]`
    """
    of_recipe = Rule(args.credit, rule_name(args.coefficients))
    return [*_RULES, *([] if of_recipe in _RULES else [of_recipe])]


def check_loss(args: Any) -> None:
    """
    Refuse a loss whose gradient is not a sum of gradients of log-probabilities with constant weights.

    Args:
        args ([`~rest_trl.ResTGRPOConfig`]):
            The arguments of the recipe.

    Raises:
        ValueError: if the loss cannot be diagnosed; the message says what to set.
    """
    if args.loss_type not in LOSS_TYPES:
        raise ValueError(
            f"a diagnosis knows the gradients of loss_type {', '.join(LOSS_TYPES)}, not of {args.loss_type!r}: "
            "diagnose with one of them"
        )
    if args.branch_size is not None:
        raise ValueError(
            f"a diagnosis compares whole completions, and branch_size={args.branch_size} gives them shared "
            "beginnings: leave branch_size out"
        )
    if args.importance_sampling_level != "token" or args.top_entropy_quantile < 1.0:
        raise ValueError(
            "a diagnosis needs importance_sampling_level='token' and top_entropy_quantile=1.0: its rules weigh single "
            "tokens, and all of them"
        )


def observed_statistics(groups: Sequence[Group], facts: Sequence[TokenFacts]) -> RegionStatistics:
    """
    Entropies and shares of the regions in the groups themselves.

    Args:
        groups, facts (`Sequence` of length `N`):
            The groups, and the facts of their tokens.

    Returns:
        [`~rest_trl.regions.RegionStatistics`]
    """
    sums = torch.stack(
        [region_sums(to_regions(group.part_ids), fact.entropies) for group, fact in zip(groups, facts, strict=True)]
    ).sum(0)
    statistics = RegionStatistics(0.0)
    statistics.update(*sums.cpu())
    return statistics


def token_weights(
    groups: Sequence[Group],
    facts: Sequence[TokenFacts],
    rules: Sequence[Rule],
    args: Any,
    progress: float,
    step: int,
) -> list[torch.Tensor]:
    r"""
    Weights of the log-probabilities' gradients: \(G_g = \sum_{i, t} c_{i, t} \nabla \log \pi(y_{i, t})\).

    Right after sampling, the mean of `G` over groups is minus the gradient of the trainer's loss without its KL term;
    `bnpo` divides by the tokens of all groups, not of each micro-batch. Entropies of regions are those of the groups.

    Args:
        groups, facts (`Sequence` of length `N`):
            The groups, and the facts of their tokens.
        rules (`Sequence` of length `A`):
            The rules.
        args ([`~rest_trl.ResTGRPOConfig`]):
            Settings of the rules and of the loss.
        progress (`float`):
            Progress of the curriculum in [0, 1].
        step (`int`):
            Rollouts done.

    Returns:
        `list[torch.Tensor]` of length `N`: of shape `(A, G, T)`, float32.

    Raises:
        ValueError: if a user's rule returns invalid coefficients.
    """
    entropies, shares = observed_statistics(groups, facts).tensors(groups[0].mask.device)
    tokens = sum(int(group.mask.count_nonzero()) for group in groups)
    names = dict.fromkeys(rule.coefficients for rule in rules)
    # The arguments of the recipe's rule belong to that rule alone.
    of_recipe = {rule_name(args.coefficients): args.coefficients}
    functions = {name: bind_rule(of_recipe.get(name, name)) for name in names}
    weights = []
    for group, fact in zip(groups, facts, strict=True):
        mask = group.mask.float()
        count = len(mask)
        if args.loss_type in PER_COMPLETION:
            scale = mask / mask.sum(1, keepdim=True).clamp(min=1) / count
        elif args.loss_type in PER_ALLOWED:
            scale = mask / (count * args.max_completion_length)
        else:
            scale = mask * (len(groups) / max(1, tokens))
        known = {
            "completion_ids": group.completion_ids,
            "region_ids": to_regions(group.part_ids),
            "part_ids": group.part_ids,
            "region_entropies": entropies,
            "region_shares": shares,
            "progress": progress,
            "step": step,
            "global_step": int(step * args.steps_per_rollout),
            "entropies": fact.entropies,
            "per_token_logps": fact.log_probs,
        }
        of_rules = []
        for rule in rules:
            advantages = group.advantages[rule.credit]
            arguments = {**known, "advantages": advantages}
            coefficients = checked_coefficients(functions[rule.coefficients], group.mask, arguments)
            of_rules.append(scale * advantages * coefficients)
        weights.append(torch.stack(of_rules))
    return weights


class Basis(NamedTuple):
    """
    The distinct token weights among all rules and regions: each needs one gradient.

    Args:
        weights (`list[torch.Tensor]` of length `N`):
            Weights of `X` distinct gradients, of shape `(X, G, T)`.
        combinations (`torch.Tensor` of shape `(A * R, X)`):
            Which of them add up to the gradient of each rule and region; region 0 is the whole completion.
    """

    weights: list[torch.Tensor]
    combinations: torch.Tensor


def distinct_weights(weights: Sequence[torch.Tensor], groups: Sequence[Group]) -> Basis:
    """
    Split the weights by region, and keep those that differ: region credit changes only the parameters of a call, so
    two rules have most gradients in common.

    Args:
        weights (`Sequence[torch.Tensor]` of length `N`):
            Weights of every rule, of shape `(A, G, T)`.
        groups (`Sequence[Group]` of length `N`):
            The groups.

    Returns:
        [`Basis`]
    """
    regions = [to_regions(group.part_ids) for group in groups]
    found: list[list[torch.Tensor]] = []
    places: dict[tuple[int, Region], int] = {}
    for rule in range(len(weights[0])):
        for region in list(Region)[1:]:
            parts = [weight[rule] * (ids == region) for weight, ids in zip(weights, regions, strict=True)]
            if not any(bool(part.any()) for part in parts):
                continue
            same = (
                place
                for place, other in enumerate(found)
                if all(torch.equal(part, earlier) for part, earlier in zip(parts, other, strict=True))
            )
            places[rule, region] = next(same, len(found))
            if places[rule, region] == len(found):
                found.append(parts)
    combinations = torch.zeros(len(weights[0]), len(Region), len(found))
    for (rule, region), place in places.items():
        combinations[rule, region, place] = combinations[rule, 0, place] = 1.0
    # The whole is the sum over regions. No gradient occurs twice in it, because regions share no token.
    return Basis([torch.stack(parts) for parts in zip(*found, strict=True)], combinations.flatten(0, 1))
