"""Diagnoses: the moments of the gradients of sampled groups, and the terms of the paper's theory."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from ...credit.scaling import has_spread
from ...regions import Region, RegionStatistics, region_sums, to_regions
from .gradients import HeadProjector, exact_gradients, head_gradients, in_evaluation, trainable
from .moments import Estimates, Moments, jackknife, measures, moments, of_sums, tables, tables_without_each
from .theory import TheoremTerms, theorem_terms
from .token_weights import (
    PER_COMPLETION,
    Group,
    Rule,
    TokenFacts,
    completion_logits,
    distinct_weights,
    observed_statistics,
    token_facts,
    token_weights,
)


GRADIENTS = ("auto", "exact", "head")
# Never negative, and with skewed distributions, so their intervals are computed for the logarithm.
_POSITIVE = ("trace", "trace_ratio", "trace_share")
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
    """What is known of the gradients of `N` groups under `A` rules in `R` regions."""

    rules: list[Rule]  # GRPO first
    moments: Moments  # of A * R kinds: for each rule the gradient of all tokens (region 0), then those of the regions
    # Of shape (N, 4, R), sums over each group's tokens of a region: their number, the squares of their scores, the
    # expectations and the bounds of Lemma 2.
    lemma: torch.Tensor
    violations: int  # tokens at which the bound is less than the expectation
    statistics: RegionStatistics
    theorem: TheoremTerms | None
    equal_groups: int  # whose completions all have the same reward, and so the same advantage, up to rounding
    gradients: str  # "exact" or "head"
    parameters: int  # components of a gradient
    file_bytes: int  # of all gradients together
    passes: int  # backward passes per group
    seconds: dict[str, float] = field(default_factory=dict)  # duration of each stage

    @property
    def reference(self) -> torch.Tensor:
        """For each kind of gradient, the index of GRPO's in the same region."""
        return torch.arange(len(Region)).repeat(len(self.rules))

    def gradient_estimates(self, minibatch: int) -> dict[str, Estimates]:
        """All measures of [`measures`], of shape `(A, R)` each, with `minibatch` groups in an optimiser step."""
        value = measures(tables(self.moments), self.reference, 0, minibatch)
        without_each = measures(tables_without_each(self.moments), self.reference, 0, minibatch)
        shape = len(self.rules), len(Region)
        found = {}
        for name in value:
            estimates = jackknife(value[name], without_each[name], positive=name in _POSITIVE)
            found[name] = Estimates(*(part.view(shape) for part in estimates))
        return found

    def lemma_estimates(self) -> dict[str, Estimates]:
        """
        Both sides of Lemma 2 as means over tokens: `squares`, `expected`, `bound` and `excess` (`squares` minus
        `expected`), of shape `(R,)`; region 0 is the whole completion.
        """
        sums = self.lemma.clone()
        sums[..., 0] = sums.sum(-1)
        found = {
            name: of_sums(sums, lambda mean, row=row: mean[..., row, :] / mean[..., 0, :])  # type: ignore[misc]
            for row, name in enumerate(("squares", "expected", "bound"), 1)
        }
        found["excess"] = of_sums(sums, lambda mean: (mean[..., 1, :] - mean[..., 2, :]) / mean[..., 0, :])
        return found


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
    Compare the gradients of at least two groups that the policy has just sampled, after `step` rollouts. Returns
    `None` if there is no gradient at all, because each group has equal rewards. The bar shows progress over an
    iterable under a name.
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
