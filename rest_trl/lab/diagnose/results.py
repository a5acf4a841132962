"""Estimates with intervals from a diagnosis; the groups are the independent units."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch

from ...regions import Region
from .intervals import Estimates, jackknife
from .measure import Diagnosis
from .moments import measures, tables, tables_without_each
from .theory import TheoremTerms


# Never negative, and with skewed distributions, so their intervals are computed for the logarithm.
_POSITIVE = ("trace", "trace_ratio", "trace_share")


def region_name(region: int) -> str:
    """Name of a region of a diagnosis, in which 0 is the whole completion."""
    return "whole" if region == Region.NONE else Region(region).name.lower()


def of_sums(sums: torch.Tensor, statistic: Callable[[torch.Tensor], torch.Tensor]) -> Estimates:
    """
    Estimate a function of means over groups.

    Args:
        sums (`torch.Tensor` of shape `(N, ...)`):
            Sums, or means, over each group.
        statistic (`Callable`):
            Function of their mean over groups, which may have further leading dimensions.

    Returns:
        [`Estimates`]

    Example:

    A mean over tokens, from groups of 1 and of 3 tokens: sums first, numbers second.

    ```python
    >>> sums = torch.tensor([[2.0, 1.0], [2.0, 3.0], [4.0, 2.0]])
    >>> of_sums(sums, lambda mean: mean[..., 0] / mean[..., 1]).value
    tensor(1.3333)

    ```
    """
    without_each = (sums.sum(0) - sums) / (len(sums) - 1)
    return jackknife(statistic(sums.mean(0)), statistic(without_each))


def gradient_estimates(diagnosis: Diagnosis, minibatch: int) -> dict[str, Estimates]:
    """
    All measures of all rules and regions.

    Args:
        diagnosis ([`Diagnosis`]):
            The diagnosis.
        minibatch (`int`):
            Groups of an optimiser step.

    Returns:
        `dict[str, Estimates]`: by measure (see [`~rest_trl.lab.diagnose.measures`]), of shape `(A, R)`.
    """
    value = measures(tables(diagnosis.moments), diagnosis.reference, 0, minibatch)
    without_each = measures(tables_without_each(diagnosis.moments), diagnosis.reference, 0, minibatch)
    shape = len(diagnosis.rules), len(Region)
    found = {}
    for name in value:
        estimates = jackknife(value[name], without_each[name], positive=name in _POSITIVE)
        found[name] = Estimates(*(part.view(shape) for part in estimates))
    return found


def lemma_estimates(diagnosis: Diagnosis) -> dict[str, Estimates]:
    """
    Both sides of Lemma 2 as means over tokens.

    Args:
        diagnosis ([`Diagnosis`]):
            The diagnosis.

    Returns:
        `dict[str, Estimates]`: `squares`, `expected`, `bound` and `excess` (`squares` minus `expected`), of shape
        `(R,)`; region 0 is the whole completion.
    """
    sums = diagnosis.lemma.clone()
    sums[..., 0] = sums.sum(-1)
    found = {
        name: of_sums(sums, lambda mean, row=row: mean[..., row, :] / mean[..., 0, :])  # type: ignore[misc]
        for row, name in enumerate(("squares", "expected", "bound"), 1)
    }
    found["excess"] = of_sums(sums, lambda mean: (mean[..., 1, :] - mean[..., 2, :]) / mean[..., 0, :])
    return found


class TheoremEstimates(NamedTuple):
    """
    Theorem 1, term by term.

    Args:
        steps ([`Estimates`] of shape `(4,)`):
            Variance of a completion's gradient, and the terms after steps 1, 2 and 3; the last one is the bound.
        betas ([`Estimates`] of shape `(R,)`):
            Mean `beta` of a token in each region, NaN where there is none.
    """

    steps: Estimates
    betas: Estimates


def theorem_estimates(terms: TheoremTerms, signal: float) -> TheoremEstimates:
    """
    Estimate the terms of Theorem 1.

    Args:
        terms ([`TheoremTerms`]):
            Means over the completions of each group.
        signal (`float`):
            Squared norm of the mean gradient, to be subtracted from the mean square for the variance.

    Returns:
        [`TheoremEstimates`]
    """
    columns = torch.stack([*terms[:4], terms.bounds.sum(1)], 1)

    def steps(mean: torch.Tensor) -> torch.Tensor:
        squares, orthogonal, advantages, scores, bound = mean.unbind(-1)
        return torch.stack([squares - signal, orthogonal, advantages * scores, advantages * bound], -1)

    of_regions = torch.stack([terms.bounds, terms.weights], 1)
    return TheoremEstimates(
        of_sums(columns, steps),
        of_sums(of_regions, lambda mean: mean[..., 0, :] / mean[..., 1, :].where(mean[..., 1, :] > 0, torch.nan)),
    )


def result_table(diagnosis: Diagnosis, minibatch: int) -> pd.DataFrame:
    """
    All estimates as rows.

    Args:
        diagnosis ([`Diagnosis`]):
            The diagnosis.
        minibatch (`int`):
            Groups of an optimiser step.

    Returns:
        `pd.DataFrame`: columns `rule`, `region`, `measure`, `value`, `low`, `high`; what is not defined has no row.
    """
    rows: list[tuple[str, str, str, float, float, float]] = []

    def add(rule: str, region: str, measure: str, estimates: Estimates, *place: int) -> None:
        value, low, high = (part[place].item() for part in estimates)
        if value == value:
            rows.append((rule, region, measure, value, low, high))

    for measure, estimates in gradient_estimates(diagnosis, minibatch).items():
        for index, rule in enumerate(diagnosis.rules):
            for region in Region:
                add(str(rule), region_name(region), measure, estimates, index, region)
    for measure, estimates in lemma_estimates(diagnosis).items():
        for region in Region:
            add("", region_name(region), f"lemma_2/{measure}", estimates, region)
    if diagnosis.theorem is not None:
        found = theorem_estimates(diagnosis.theorem, tables(diagnosis.moments).pairs[0, 0].item())
        for place, measure in enumerate(("variance", "orthogonal", "independent", "bound")):
            add("", "whole", f"theorem_1/{measure}", found.steps, place)
        for region in list(Region)[1:]:
            add("", region_name(region), "theorem_1/beta", found.betas, region)
    return pd.DataFrame(rows, columns=["rule", "region", "measure", "value", "low", "high"])
