r"""
Sampled groups, the units of a diagnosis, and the weights of their tokens in the gradient of each rule: what a token is
credited with, times the coefficient of its region.

The score of a token with respect to the logits is \(s_t = e_{y_t} - p_t\), so its square is
\(\lVert s_t \rVert^2 = 1 - 2 p_{t, y_t} + \sum_v p_{t, v}^2\). Lemma 2 of the paper (arXiv 2509.21826):

$$ \mathbb{E} \lVert s_t \rVert^2 = 1 - \sum_v p_{t, v}^2 \le 1 - e^{-H_t} . $$
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ...regions import Region, RegionStatistics, region_sums, to_regions
from ...regions.rules import bind_rule, checked_coefficients, rule_name


# The loss divides a token's term by the length of its completion, by the longest length that is allowed, or by the
# number of tokens in the batch. Other losses weigh tokens differently, even right after sampling, with all ratios 1.
PER_COMPLETION, PER_ALLOWED, PER_BATCH = ("grpo", "sapo"), ("dr_grpo",), ("bnpo", "dapo")
LOSS_TYPES = PER_COMPLETION + PER_ALLOWED + PER_BATCH


class Group(NamedTuple):
    """One prompt of `P` tokens, padded on the left, with its `G` completions of at most `T`, padded on the right."""

    prompt_ids: torch.Tensor  # (G, P)
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor  # (G, T), as all below
    completion_mask: torch.Tensor  # non-zero where the model attends
    mask: torch.Tensor  # non-zero at the policy's tokens
    part_ids: torch.Tensor  # `Part` of each token
    advantages: dict[str, torch.Tensor]  # of the tokens, by credit

    def rows(self, rows: slice) -> "Group":
        """Some of the completions."""
        advantages = {credit: values[rows] for credit, values in self.advantages.items()}
        tensors = {name: values[rows] for name, values in self._asdict().items() if name != "advantages"}
        return Group(**tensors, advantages=advantages)


def split_groups(
    rollout: Mapping[str, Any], mask: torch.Tensor, advantages: Mapping[str, torch.Tensor], num_generations: int
) -> list[Group]:
    """
    Split a rollout, the batch of the loss, into its groups of `num_generations` neighbours, each without the padding
    that only longer groups need. The mask of the policy's tokens and the advantages by credit are of shape `(B, T)`.
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


class TokenFacts(NamedTuple):
    """Facts of the policy's distribution at each sampled token of a group; tensors of shape `(G, T)`."""

    entropies: torch.Tensor  # `H`, in nats
    log_probs: torch.Tensor  # of the sampled token
    squares: torch.Tensor  # of the sampled token's score
    expected: torch.Tensor  # expectation of this square over the policy's distribution
    bound: torch.Tensor  # that of Lemma 2 on the expectation


def completion_logits(model: Any, group: Group, temperature: float) -> torch.Tensor:
    """
    Logits that the completions' tokens were sampled from, without truncations such as `top_p`: of shape `(G, T, V)`,
    float32, divided by the temperature.
    """
    logits = model(
        input_ids=torch.cat([group.prompt_ids, group.completion_ids], 1),
        attention_mask=torch.cat([group.prompt_mask, group.completion_mask], 1),
        logits_to_keep=group.completion_ids.size(1) + 1,
        use_cache=False,
    ).logits
    return logits[:, :-1].float() / temperature


def token_facts(logits: torch.Tensor, completion_ids: torch.Tensor) -> TokenFacts:
    """
    Facts of sampled tokens, from the logits of shape `(G, T, V)` that they were sampled from.

    A fair coin attains the lemma's bound:

    ```python
    >>> [round(fact.item(), 4) for fact in token_facts(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long))]
    [0.6931, -0.6931, 0.5, 0.5, 0.5]

    ```
    """
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    entropies = -(probs * log_probs).sum(-1)
    concentration = probs.square().sum(-1)
    chosen = log_probs.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    squares = 1 - 2 * chosen.exp() + concentration
    return TokenFacts(entropies, chosen, squares, 1 - concentration, -torch.expm1(-entropies))


def observed_statistics(groups: Sequence[Group], facts: Sequence[TokenFacts]) -> RegionStatistics:
    """Entropies and shares of the regions in the groups themselves."""
    sums = torch.stack(
        [region_sums(to_regions(group.part_ids), fact.entropies) for group, fact in zip(groups, facts, strict=True)]
    ).sum(0)
    statistics = RegionStatistics(0.0)
    statistics.update(*sums.cpu())
    return statistics


class Rule(NamedTuple):
    """What determines a token's weight in the gradient, see `credit` and `coefficients` of [`ResTGRPOConfig`]."""

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
    """The rules that a diagnosis compares: GRPO, then this library's, then the recipe's if it is not among them."""
    of_recipe = Rule(args.credit, rule_name(args.coefficients))
    return [*_RULES, *([] if of_recipe in _RULES else [of_recipe])]


def check_loss(args: Any) -> None:
    """Refuse a loss whose gradient is not a sum of gradients of log-probabilities with constant weights."""
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

    They are float32 of shape `(A, G, T)` for each of the `N` groups. Right after sampling, the mean of `G` over groups
    is minus the gradient of the trainer's loss without its KL term; `bnpo` divides by the tokens of all groups, not of
    each micro-batch. Entropies of regions are those of the groups.
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
    """The `X` distinct token weights among all rules and regions: each needs one gradient."""

    weights: list[torch.Tensor]  # of each group, of shape (X, G, T)
    # Of shape (A * R, X): which of them add up to the gradient of each rule and region; region 0 is the whole.
    combinations: torch.Tensor


def distinct_weights(weights: Sequence[torch.Tensor], groups: Sequence[Group]) -> Basis:
    """
    Split the weights of every rule, of shape `(A, G, T)` for each group, by region, and keep those that differ: region
    credit changes only the parameters of a call, so two rules have most gradients in common.
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
