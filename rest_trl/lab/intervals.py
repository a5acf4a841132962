"""
Error bars of accuracies, means and differences, and tests of two models on the same samples.

Samples that share a dialogue are not independent. The independent units here are therefore clusters of samples. Where
each sample is a cluster of its own, the formulas reduce to the usual ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats


LEVEL = 0.95  # nominal coverage of all intervals
RESAMPLES = 9999
_POWER = 0.8  # probability with which the least detectable difference is found significant


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, and the number of samples and of clusters that they fall into."""

    estimate: float
    low: float
    high: float
    n: int
    clusters: int


def accuracy_interval(correct: ArrayLike, clusters: Sequence[str]) -> Interval:
    """
    Accuracy with a 95% interval.

    This is Wilson's interval with two changes for clusters. The sample size is divided by the design effect, which is
    the variance of the accuracy by clusters over that of independent samples, and the normal quantile is replaced by
    Student's for the number of clusters. Where all clusters have the same accuracy, for instance because all answers
    agree, the design effect is that of clusters whose samples always agree.

    Args:
        correct (`ArrayLike` of shape `(n,)`):
            0 or 1 per sample.
        clusters (`Sequence[str]` of length `n`):
            Cluster of each sample.

    Returns:
        [`Interval`]

    Raises:
        ValueError: if there is no sample, or there is not one cluster for each.

    Example:

    ```python
    >>> interval = accuracy_interval([1, 1, 0, 1], ["a", "b", "c", "d"])
    >>> print(f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    0.75 [0.30, 0.95]

    ```
    """
    sums, sizes = _cluster_sums(correct, clusters)
    n, k = int(sizes.sum()), len(sizes)
    estimate = float(sums.sum() / n)
    if k == n:
        wilson = stats.binomtest(int(sums.sum()), n).proportion_ci(LEVEL, method="wilson")
        return Interval(estimate, float(wilson.low), float(wilson.high), n, k)
    if k == 1:
        return Interval(estimate, 0.0, 1.0, n, k)
    effective = n / _design_effect(sums, sizes, estimate * (1 - estimate))
    quantile = stats.t.ppf((1 + LEVEL) / 2, k - 1)
    shrink = 1 + quantile**2 / effective
    centre = (estimate + quantile**2 / (2 * effective)) / shrink
    half = quantile / shrink * np.sqrt(estimate * (1 - estimate) / effective + quantile**2 / (4 * effective**2))
    return Interval(estimate, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n, k)


def mean_interval(values: ArrayLike, clusters: Sequence[str]) -> Interval:
    """
    Mean of any numbers with a 95% interval, by Student's t over clusters; unbounded for a single cluster.

    Example:

    ```python
    >>> interval = mean_interval([1, 2, 3, 6], ["a", "b", "c", "d"])
    >>> print(f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    3.00 [-0.44, 6.44]

    ```
    """
    sums, sizes = _cluster_sums(values, clusters)
    n, k = int(sizes.sum()), len(sizes)
    estimate = float(sums.sum() / n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, k - 1) * np.sqrt(_cluster_variance(sums, sizes))) if k > 1 else np.inf
    return Interval(estimate, estimate - half, estimate + half, n, k)


def _cluster_sums(values: ArrayLike, clusters: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum and number of the values of every cluster, each of shape `(k,)`."""
    array = np.asarray(values, dtype=float)
    if array.size == 0 or array.shape != (len(clusters),):
        raise ValueError(
            f"{array.size} answers and {len(clusters)} clusters: at least one of each, and as many, needed"
        )
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(index, array), np.bincount(index)


def _cluster_variance(sums: NDArray[Any], sizes: NDArray[Any]) -> float:
    """Variance of the mean of all values where clusters are independent (linearised ratio estimator); 0 for one."""
    n, k = sizes.sum(), len(sizes)
    if k == 1:
        return 0.0
    residuals = sums - sums.sum() / n * sizes
    return float((residuals**2).sum() / n**2 * k / (k - 1))


def _design_effect(sums: NDArray[Any], sizes: NDArray[Any], variance: float) -> float:
    """
    By how much clusters multiply the variance of the mean of whole numbers, compared with independent samples.

    Where all clusters have the same mean, no variance between them was seen. Then it is the design effect of clusters
    whose samples always agree, the worst case.
    """
    n = sizes.sum()
    if _have_one_mean(sums, sizes):
        return float((sizes**2).sum() / n)
    return _cluster_variance(sums, sizes) / (variance / float(n))


def _have_one_mean(sums: NDArray[Any], sizes: NDArray[Any]) -> bool:
    """Whether all clusters have the same mean. Whole numbers are compared, because means may differ by rounding."""
    return bool(np.all(sums * sizes.sum() == sums.sum() * sizes))


def widened_tail(count: int) -> float:
    """
    The share of resamples beyond each end of a 95% bootstrap interval over `count` independent units.

    A plain percentile interval is too short for few units, so it is widened (Hesterberg, "What Teachers Should Know
    About the Bootstrap", 2015, section 5.3).
    """
    return float(stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - LEVEL) / 2, count - 1)))


def _bootstrap_interval(sums: NDArray[Any], sizes: NDArray[Any], seed: int) -> tuple[float, float]:
    """
    Bootstrap interval of the mean of all values, each in {-1, 0, 1}, by resampling clusters.

    A single cluster says nothing about how clusters vary, so its interval is [-1, 1].
    """
    k = len(sizes)
    if k == 1:
        return -1.0, 1.0
    if _have_one_mean(sums, sizes):
        # All clusters have the same mean, so all resamples have it, and the bootstrap's interval would have width 0.
        # But there may be clusters with other means that were not drawn. If they make up a share q of all clusters, k
        # draws miss them with probability (1 - q) ** k. At this level, q can be as large as `unseen`.
        mean, unseen = float(sums.sum() / sizes.sum()), 1 - ((1 - LEVEL) / 2) ** (1 / k)
        return max(-1.0, mean - unseen), min(1.0, mean + unseen)
    # Clusters with the same sum and size are interchangeable, so a resample is drawn as the number of clusters of each
    # kind. That is much faster than drawing the clusters one by one.
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(k, counts / k, size=RESAMPLES)
    means = drawn @ kinds[0] / (drawn @ kinds[1])
    tail = widened_tail(k)
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


@dataclass(frozen=True)
class PairedComparison:
    """
    The difference of two models on the same samples.

    Args:
        difference ([`Interval`]):
            Accuracy of the second model minus that of the first, with a bootstrap interval over clusters.
        gained, lost (`int`):
            Number of samples that only the second model answers correctly, and number that only the first one does.
        mcnemar_p (`float`):
            P-value of the exact McNemar test, which assumes independent samples.
        cluster_p (`float`):
            P-value of an exact permutation test that swaps the two models' answers cluster by cluster. It makes no
            assumption about samples of the same cluster, so conclusions should rest on it. Where each sample is a
            cluster of its own, it is the exact McNemar test.
        detectable (`float` or `None`):
            See [`minimum_detectable_difference`], with the share of differing answers and the design effect of these
            samples. `None` also if the models do not differ on any sample.
    """

    difference: Interval
    gained: int
    lost: int
    mcnemar_p: float
    cluster_p: float
    detectable: float | None


def compare_paired(first: ArrayLike, second: ArrayLike, clusters: Sequence[str], seed: int = 0) -> PairedComparison:
    """
    Compare two models on the same samples: 0 or 1 per sample, in the same order, and the cluster of each.

    Example:

    ```python
    >>> comparison = compare_paired([0, 0, 1, 1] * 10, [1, 1, 1, 0] * 10, [str(i) for i in range(40)])
    >>> comparison.gained, comparison.lost, comparison.difference.estimate
    (20, 10, 0.25)

    ```
    """
    ones, twos = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if ones.shape != twos.shape:
        raise ValueError(f"{ones.size} answers of the first model and {twos.size} of the second cannot be paired")
    first_sums, sizes = _cluster_sums(ones, clusters)
    second_sums, _ = _cluster_sums(twos, clusters)
    differences, n, k = second_sums - first_sums, int(sizes.sum()), len(sizes)
    estimate = float(differences.sum() / n)
    gained, lost = int(((twos == 1) & (ones == 0)).sum()), int(((ones == 1) & (twos == 0)).sum())
    discordant = (gained + lost) / n
    effect = _design_effect(differences, sizes, discordant - estimate**2)
    return PairedComparison(
        Interval(estimate, *_bootstrap_interval(differences, sizes, seed), n, k),
        gained,
        lost,
        # McNemar's exact test. For equally good models, it is a coin toss which of them is right where they differ.
        float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        _exchange_p(differences),
        minimum_detectable_difference(n, discordant, effect) if discordant else None,
    )


def minimum_detectable_difference(n: int, discordant: float, design_effect: float = 1.0) -> float | None:
    """
    The smallest true difference of two accuracies that the exact two-sided McNemar test at 5% finds significant with a
    probability of 80%.

    Args:
        n (`int`):
            Number of samples.
        discordant (`float`):
            Share of samples that exactly one of the models answers correctly, in (0, 1].
        design_effect (`float`, *optional*, defaults to `1.0`):
            Factor by which clusters multiply the variance. `n / design_effect` independent samples are assumed.

    Returns:
        `float` or `None`: in (0, `discordant`]. `None` if not even the largest possible difference, `discordant`
        itself, would be found with that probability.

    Raises:
        ValueError: if there is no sample, or the share is not in (0, 1].

    Example:

    ```python
    >>> [round(minimum_detectable_difference(n, discordant=0.2), 3) for n in (67, 200, 597)]
    [0.154, 0.091, 0.053]

    ```
    """
    if n < 1 or not 0 < discordant <= 1:
        raise ValueError(f"there must be samples, and models that differ on a share of them: {n}, {discordant}")
    # The number of discordant samples is random. Each possible number has a probability and a critical value, which is
    # how many of those samples one model may win before the result is significant.
    pairs = np.arange(1, max(1, round(n / design_effect)) + 1)
    probability = stats.binom.pmf(pairs, pairs[-1], discordant)
    pairs, probability = pairs[probability > 1e-12], probability[probability > 1e-12]
    critical = stats.binom.isf((1 - LEVEL) / 2, pairs, 0.5)

    def excess(difference: float) -> float:
        wins = (1 + difference / discordant) / 2
        significant = stats.binom.sf(critical, pairs, wins) + stats.binom.cdf(pairs - critical - 1, pairs, wins)
        return float(probability @ significant) - _POWER

    if excess(discordant) < 0:
        return None
    return float(optimize.brentq(excess, 0.0, discordant))


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Adjust p-values for several comparisons by Holm's method.

    Example:

    ```python
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    ```
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    # The least p-value is multiplied by the number of comparisons, the next by one less, and so on. None of the
    # products may fall below the one before it.
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def _exchange_p(differences: NDArray[Any]) -> float:
    """
    Two-sided p-value of the sum of `differences`, one per cluster, if the sign of each is a fair coin toss.

    The distribution of the sum is computed exactly, by convolving the distributions of equally large differences.
    """
    values, counts = np.unique(np.abs(differences[differences != 0]).astype(int), return_counts=True)
    distribution = np.ones(1)
    for value, count in zip(values, counts, strict=True):
        tosses = np.zeros(2 * value * count + 1)
        tosses[:: 2 * value] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, tosses)
    sums = np.arange(len(distribution)) - len(distribution) // 2
    return min(1.0, float(distribution[np.abs(sums) >= abs(differences.sum())].sum()))
