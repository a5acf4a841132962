r"""
Estimators of what a stochastic gradient is made of.

The independent units are groups: one prompt with its completions. Group \(g\) of \(N\) has the vectors \(G_g^x\), one
for each kind \(x\) of gradient (that of a rule on the tokens of a region). All that is estimated is a function of
two tables of inner products:

$$
D^{xy} = \mathbb{E} \langle G_g^x, G_g^y \rangle, \qquad
U^{xy} = \langle \mathbb{E} G^x, \mathbb{E} G^y \rangle .
$$

\(D\) is estimated by the mean over groups, \(U\) by the mean over ordered pairs of *distinct* groups, which is
unbiased because these are independent. The square of the mean gradient is no estimate of \(U^{xx}\): its expectation
is \(U^{xx} + (D^{xx} - U^{xx}) / N\), and where noise dominates the second term is most of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import stats

from ..intervals import LEVEL


class Moments(NamedTuple):
    """Inner products of `Y` kinds of gradients of `N` groups, float64, of shape `(N, Y, Y)`."""

    within: torch.Tensor  # of two vectors of the same group
    with_sum: torch.Tensor  # of a vector of the group (first) and the sum of a vector over all groups (second)

    def combined(self, combinations: torch.Tensor) -> "Moments":
        """Moments of `Z` linear combinations of the vectors, whose factors are of shape `(Z, Y)`."""
        factors = combinations.double()
        return Moments(*(factors @ products @ factors.T for products in self))


class Tables(NamedTuple):
    """Estimates of both tables, of shape `(..., Y, Y)`; any leading dimensions are repetitions."""

    second: torch.Tensor  # `D`, the mean inner product within a group
    pairs: torch.Tensor  # `U`, the inner product of the means, without bias


class Estimates(NamedTuple):
    """Estimates with their intervals, tensors of the same shape; NaN where there is no estimate or no interval."""

    value: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


def moments(vectors: torch.Tensor) -> Moments:
    """Inner products of gradients of shape `(N, Y, P)`, which may lie in a file: in two passes, without a copy."""
    total = torch.zeros(vectors.shape[1:], dtype=torch.float64)
    for group in vectors:
        total += group
    within, with_sum = [], []
    for group in vectors:
        exact = group.double()
        within.append(exact @ exact.T)
        with_sum.append(exact @ total.T)
    return Moments(torch.stack(within), torch.stack(with_sum))


def tables(moments: Moments) -> Tables:
    r"""
    Estimate both tables from all groups.

    $$ \hat D = \frac{1}{N} \sum_g \langle G_g^x, G_g^y \rangle, \qquad
    \hat U = \frac{1}{N (N - 1)} \sum_{g \ne h} \langle G_g^x, G_h^y \rangle $$

    Two groups with gradients 1 and 3: the square of the mean is 4, its unbiased estimate the product of the two.

    ```python
    >>> estimated = tables(moments(torch.tensor([[[1.0]], [[3.0]]])))
    >>> estimated.second.item(), estimated.pairs.item()
    (5.0, 3.0)

    ```
    """
    count = len(moments.within)
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 groups, got {count}: diagnose more prompts")
    within = moments.within.sum(0)
    pairs = moments.with_sum.sum(0) - within
    return Tables(within / count, pairs / (count * (count - 1)))


def tables_without_each(moments: Moments) -> Tables:
    """
    Estimate both tables as often as there are groups, each time without one of them, for a jackknife.

    ```python
    >>> tables_without_each(moments(torch.tensor([[[1.0]], [[3.0]], [[5.0]]]))).pairs.flatten()
    tensor([15.,  5.,  3.], dtype=torch.float64)

    ```
    """
    count = len(moments.within)
    if count < 3:
        raise ValueError(f"an interval needs at least 3 groups, got {count}: diagnose more prompts")
    within = moments.within.sum(0)
    with_others = moments.with_sum - moments.within
    pairs = moments.with_sum.sum(0) - within - with_others - with_others.mT
    return Tables((within - moments.within) / (count - 1), pairs / ((count - 1) * (count - 2)))


def measures(tables: Tables, reference: torch.Tensor, whole: int, minibatch: int) -> dict[str, torch.Tensor]:
    r"""
    What the two tables say of each kind of gradient, against a reference kind \(\rho(x)\) of mean \(\mu\) (GRPO's
    gradient on the same tokens).

    | name | formula |
    | --- | --- |
    | `trace` | \(\operatorname{tr} \operatorname{Cov} G^x = D^{xx} - U^{xx}\) |
    | `signal` | \(\lVert \mathbb{E} G^x \rVert^2 = U^{xx}\) |
    | `projection` | \(\langle \mathbb{E} G^x, \mu \rangle / \lVert \mu \rVert^2\): 1 if the mean along \(\mu\) is kept |
    | `esnr` | \(\langle \mathbb{E} G^x, \mu \rangle^2 / (\lVert \mu \rVert^2 \operatorname{tr} \operatorname{Cov} G^x)\) |
    | `alignment` | \(\langle \mathbb{E} G^x, \mu \rangle / (\lVert \mu \rVert \sqrt{\mathbb{E} \lVert \bar G_n^x \rVert^2})\), \(\bar G_n\) a mean of \(n\) groups |
    | `trace_ratio`, `esnr_ratio` | over those of the reference |
    | `trace_share` | trace over that of the whole reference gradient |
    | `signal_share` | projection onto the mean of the whole reference gradient: shares of the regions add up |

    The best step along \(\bar G_n\) improves an objective of gradient \(\mu\) and smoothness \(L\) on average by at
    least \(\langle \mathbb{E} G, \mu \rangle^2 / (2 L\, \mathbb{E} \lVert \bar G_n \rVert^2)\), which is proportional
    to `alignment` squared, and to `esnr` where noise dominates.

    `reference` has the index of each kind's reference, `whole` is that of the whole reference gradient, and `minibatch`
    is `n`, the groups of one optimiser step. Each measure is of shape `(..., Y)`, NaN where a denominator is not
    positive.

    The first kind is the reference. The second has the same mean and half of the deviation.

    ```python
    >>> vectors = torch.tensor([[[1.0], [1.5]], [[3.0], [2.5]], [[2.0], [2.0]]])
    >>> found = measures(tables(moments(vectors)), torch.tensor([0, 0]), 0, 1)
    >>> found["trace"], found["trace_ratio"]
    (tensor([1.0000, 0.2500], dtype=torch.float64), tensor([1.0000, 0.2500], dtype=torch.float64))

    ```
    """  # noqa: E501  (the formulas of a table stand on one line)
    kinds = torch.arange(len(reference))
    signal = tables.pairs[..., kinds, kinds]
    trace = tables.second[..., kinds, kinds] - signal
    along = tables.pairs[..., kinds, reference]
    target = _positive(tables.pairs[..., reference, reference])
    noise = _positive(trace)
    return {
        "trace": trace,
        "signal": signal,
        "projection": along / target,
        "esnr": along**2 / (target * noise),
        "alignment": along / (target * _positive(signal + trace / minibatch)).sqrt(),
        "trace_ratio": trace / noise[..., reference],
        "esnr_ratio": (along / target) ** 2 * noise[..., reference] / noise,
        "trace_share": trace / noise[..., whole : whole + 1],
        "signal_share": tables.pairs[..., whole] / _positive(tables.pairs[..., whole : whole + 1, whole]),
    }


def jackknife(value: torch.Tensor, without_each: torch.Tensor, positive: bool = False) -> Estimates:
    r"""
    Student's interval with the jackknife's standard error.

    $$ s^2 = \frac{N - 1}{N} \sum_g (\hat\theta_{(g)} - \bar\theta)^2, \qquad \hat\theta \pm t_{N - 1}\, s $$

    with \(\hat\theta_{(g)}\) the estimate without group \(g\) and \(\bar\theta\) their mean. Where only positive
    values make sense, as for variances and their ratios, the interval is computed for the logarithm, and is NaN where
    an estimate is not positive.

    Of a mean it is Student's interval, here of 1, 2 and 3:

    ```python
    >>> jackknife(torch.tensor(2.0), torch.tensor([2.5, 2.0, 1.5])).low
    tensor(-0.4841)

    ```
    """
    if positive:
        logarithms = jackknife(value.log(), without_each.log())
        return Estimates(value, logarithms.low.exp(), logarithms.high.exp())
    count = len(without_each)
    error = ((count - 1) * (without_each - without_each.mean(0)).square().mean(0)).sqrt()
    half_width = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Estimates(value, value - half_width, value + half_width)


def of_sums(sums: torch.Tensor, statistic: Callable[[torch.Tensor], torch.Tensor]) -> Estimates:
    """
    Estimate a function of means over groups, from sums, or means, over each group. The means that the function gets
    may have further leading dimensions.

    A mean over tokens, from groups of 1 and of 3 tokens; sums first, numbers second:

    ```python
    >>> sums = torch.tensor([[2.0, 1.0], [2.0, 3.0], [4.0, 2.0]])
    >>> of_sums(sums, lambda mean: mean[..., 0] / mean[..., 1]).value
    tensor(1.3333)

    ```
    """
    without_each = (sums.sum(0) - sums) / (len(sums) - 1)
    return jackknife(statistic(sums.mean(0)), statistic(without_each))


def _positive(values: torch.Tensor) -> torch.Tensor:
    return values.where(values > 0, torch.nan)
