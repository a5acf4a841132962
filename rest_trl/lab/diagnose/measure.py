"""Diagnoses: the moments of the gradients of sampled groups, and the terms of the paper's theory."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from ...credit.scaling import has_spread
from ...regions import Region, RegionStatistics, region_sums, to_regions
from .exact import exact_gradients, in_evaluation, trainable
from .groups import Group
from .head import HeadProjector, head_gradients
from .moments import Moments, moments
from .rules import PER_COMPLETION, Rule, distinct_weights, observed_statistics, token_weights
from .theory import TheoremTerms, theorem_terms
from .tokens import TokenFacts, completion_logits, token_facts


GRADIENTS = ("auto", "exact", "head")
# All gradients of a diagnosis lie in one file until they are compared; 64 groups of the tiny model take a third.
_LARGEST_FILE = 8 << 30  # bytes
_TOLERANCE = 1e-5  # for the rounding of float32 probabilities that are summed over a vocabulary


@dataclass(frozen=True)
class Settings:
    """
    How gradients are diagnosed.

    Args:
        gradients (`str`, *optional*, defaults to `"auto"`):
            `"exact"` for all trainable parameters, `"head"` for projected gradients of the LM head, `"auto"` for exact
            ones if they fit into 8 GiB.
        dimension (`int`, *optional*, defaults to `64`):
            Side of the square matrix that a projected gradient is.
        theory_groups (`int`, *optional*, defaults to `0`):
            Groups that Theorem 1 is measured with; only with exact gradients and a loss that divides the terms of a
            completion by its length.
        seed (`int`, *optional*, defaults to `0`):
            Of the projections and of the random signs.

    Raises:
        ValueError: if a value makes no sense.
    """

    gradients: str = "auto"
    dimension: int = 64
    theory_groups: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.gradients not in GRADIENTS:
            raise ValueError(f"unknown gradients={self.gradients!r}: choose one of {', '.join(GRADIENTS)}")
        if self.dimension < 1 or self.theory_groups < 0:
            raise ValueError(
                f"dimension={self.dimension} must be positive and theory_groups={self.theory_groups} not negative"
            )


@dataclass(frozen=True)
class Diagnosis:
    """
    What is known of the gradients of `N` groups under `A` rules in `R` regions.

    Args:
        rules (`list[Rule]`):
            The rules, GRPO first.
        moments ([`Moments`]):
            Of `A * R` kinds of gradients: for each rule that of all tokens (region 0), then those of the regions.
        lemma (`torch.Tensor` of shape `(N, 4, R)`):
            Sums over each group's tokens of a region: their number, the squares of their scores, the expectations and
            the bounds of Lemma 2.
        violations (`int`):
            Tokens at which the bound is less than the expectation.
        statistics ([`~rest_trl.regions.RegionStatistics`]):
            Entropies and shares of the regions.
        theorem ([`TheoremTerms`], *optional*):
            Terms of Theorem 1.
        equal_groups (`int`):
            Groups in which all completions have the same reward, and so the same advantage, up to rounding.
        gradients (`str`):
            `"exact"` or `"head"`.
        parameters (`int`):
            Number of components of a gradient.
        file_bytes (`int`):
            Size of all gradients together.
        passes (`int`):
            Backward passes per group.
        seconds (`dict[str, float]`):
            Duration of each stage.
    """

    rules: list[Rule]
    moments: Moments
    lemma: torch.Tensor
    violations: int
    statistics: RegionStatistics
    theorem: TheoremTerms | None
    equal_groups: int
    gradients: str
    parameters: int
    file_bytes: int
    passes: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def reference(self) -> torch.Tensor:
        """For each kind of gradient, the index of GRPO's in the same region."""
        return torch.arange(len(Region)).repeat(len(self.rules))


def diagnose(
    model: Any,
    groups: Sequence[Group],
    rules: Sequence[Rule],
    args: Any,
    progress: float,
    step: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    settings: Settings,
    bar: Callable[[Iterable[Any], str], Iterable[Any]] = lambda items, _: items,
) -> Diagnosis | None:
    """
    Compare the gradients of groups that the policy has just sampled.

    Args:
        model:
            The policy.
        groups (`Sequence[Group]` of length `N`):
            At least two.
        rules (`Sequence[Rule]`):
            The rules, GRPO first.
        args ([`~rest_trl.ResTGRPOConfig`]):
            Settings of rules, loss and sampling.
        progress (`float`):
            Progress of the curriculum in [0, 1].
        step (`int`):
            Rollouts done.
        autocast (`Callable`):
            Context of the forward passes.
        settings ([`Settings`]):
            Exact or projected gradients, and Theorem 1.
        bar (`Callable`, *optional*):
            Shows progress over an iterable under a name.

    Returns:
        [`Diagnosis`] or `None` if there is no gradient at all, because each group has equal rewards.

    Raises:
        ValueError: if the model cannot be diagnosed, or a rule returns invalid coefficients.
    """
    seconds, start = {}, time.perf_counter()
    facts = []
    with in_evaluation(model), torch.no_grad(), autocast():
        for group in bar(groups, "Entropies"):
            facts.append(token_facts(completion_logits(model, group, args.temperature), group.completion_ids))
    weights = token_weights(groups, facts, rules, args, progress, step)
    basis = distinct_weights(weights, groups)
    if not basis.weights:
        return None
    seconds["forward"] = time.perf_counter() - start
    start = time.perf_counter()
    numbers = sum(parameter.numel() for parameter in trainable(model))
    passes = len(basis.weights[0])
    kind = settings.gradients
    if kind == "auto":
        kind = "exact" if 4 * len(groups) * passes * numbers <= _LARGEST_FILE else "head"
    if kind == "exact":
        shown = bar(groups, "Gradients")
        with exact_gradients(model, shown, basis.weights, args.temperature, autocast) as vectors:
            numbers = vectors.shape[2]
            found = moments(vectors)
    else:
        projector, projected = HeadProjector(model, settings.dimension, settings.seed), []
        with in_evaluation(model), torch.no_grad(), autocast():
            for group, of_group in zip(bar(groups, "Gradients"), basis.weights, strict=True):
                projected.append(head_gradients(projector(group, args.temperature)[1], of_group).cpu())
        found, numbers = moments(torch.stack(projected)), projected[0].size(1)
    seconds["gradients"] = time.perf_counter() - start
    start = time.perf_counter()
    terms = None
    # The terms are those of a loss per completion. With another loss, the mean that the variance takes from them is of
    # another scale.
    if kind == "exact" and settings.theory_groups and args.loss_type in PER_COMPLETION:
        some = bar(groups[: settings.theory_groups], "Theorem 1")
        generator = torch.Generator().manual_seed(settings.seed)
        of_some = facts[: settings.theory_groups]
        terms = theorem_terms(model, some, of_some, args.temperature, autocast, generator)
        seconds["theorem"] = time.perf_counter() - start
    return Diagnosis(
        list(rules),
        found.combined(basis.combinations),
        torch.stack([_lemma_sums(group, fact) for group, fact in zip(groups, facts, strict=True)]),
        sum(_violations(group, fact) for group, fact in zip(groups, facts, strict=True)),
        observed_statistics(groups, facts),
        terms,
        sum(_is_equal(group) for group in groups),
        kind,
        numbers,
        4 * len(groups) * passes * numbers,
        passes if kind == "exact" else 0,
        seconds,
    )


def _lemma_sums(group: Group, fact: TokenFacts) -> torch.Tensor:
    sums = region_sums(to_regions(group.part_ids), fact.squares, fact.expected, fact.bound).double().cpu()
    return sums[[0, 2, 4, 6]]


def _violations(group: Group, fact: TokenFacts) -> int:
    return int(((fact.expected > fact.bound + _TOLERANCE) & group.mask.bool()).sum())


def _is_equal(group: Group) -> bool:
    # Equal rewards minus their mean in float32 need not be 0, but they are all the same.
    advantages = group.advantages["completion"][:, :1].cpu()
    return not bool(has_spread(advantages, torch.ones(1), len(advantages), "sum_then_normalize"))
