"""
Error bars: accuracies, paired differences, and what a benchmark of a given size can show at all.

Samples that share a dialogue are not independent. Everything here goes by clusters; where each sample is a cluster of
its own, the formulas are the usual ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests


LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """
    An estimate with its confidence interval.

    Args:
        estimate, low, high (`float`):
            Shares in [0, 1], or differences of such.
        n, clusters (`int`):
            Number of samples and of clusters that they fall into.
    """

    estimate: float
    low: float
    high: float
    n: int
    clusters: int


@dataclass(frozen=True)
class PairedComparison:
    """
    What the paired answers of two models say about their difference.

    Args:
        difference ([`Interval`]):
            Accuracy of the second minus that of the first.
        gained, lost (`int`):
            Samples that only the second, only the first answers rightly.
        mcnemar_p (`float`):
            Exact McNemar test. It takes the samples as independent.
        cluster_p (`float`):
            Exact permutation test that exchanges the models' answers in whole clusters; the one to go by. Without
            clusters it is the exact McNemar test.
        detectable (`float` or `None`):
            See [`minimum_detectable_difference`], at the share of differing answers and the design effect seen here.
    """

    difference: Interval
    gained: int
    lost: int
    mcnemar_p: float
    cluster_p: float
    detectable: float | None


def accuracy_interval(correct: ArrayLike, clusters: Sequence[str], level: float = LEVEL) -> Interval:
    """
    Accuracy with a confidence interval.

    Wilson's interval, with the sample size divided by the design effect (the variance of the accuracy by clusters over
    that of independent samples) and Student's quantile for the number of clusters. Where all answers agree there is no
    variance, and samples of a cluster are taken as one observation.

    Args:
        correct (`ArrayLike` of shape `(n,)`):
            0 or 1 per sample.
        clusters (`Sequence[str]` of length `n`):
            Cluster of each sample.
        level (`float`, *optional*, defaults to `0.95`):
            Nominal coverage.

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
    sums, sizes = _by_cluster(correct, clusters)
    n, k = int(sizes.sum()), len(sizes)
    estimate = float(sums.sum() / n)
    if k == n:
        wilson = stats.binomtest(int(sums.sum()), n).proportion_ci(level, method="wilson")
        return Interval(estimate, float(wilson.low), float(wilson.high), n, k)
    if k == 1:
        return Interval(estimate, 0.0, 1.0, n, k)
    effective = n / _design_effect(sums, sizes)
    quantile = stats.t.ppf((1 + level) / 2, k - 1)
    shrink = 1 + quantile**2 / effective
    centre = (estimate + quantile**2 / (2 * effective)) / shrink
    half = quantile / shrink * np.sqrt(estimate * (1 - estimate) / effective + quantile**2 / (4 * effective**2))
    return Interval(estimate, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n, k)


def compare_paired(
    first: ArrayLike, second: ArrayLike, clusters: Sequence[str], level: float = LEVEL, seed: int = 0
) -> PairedComparison:
    """
    Compare two models on the same samples.

    The interval of the difference is a percentile bootstrap over clusters, its percentiles widened for the number of
    clusters (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 5.3).

    Args:
        first, second (`ArrayLike` of shape `(n,)`):
            0 or 1 per sample, in the same order.
        clusters (`Sequence[str]` of length `n`):
            Cluster of each sample.
        level (`float`, *optional*, defaults to `0.95`):
            Nominal coverage.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        [`PairedComparison`]

    Raises:
        ValueError: if there is no sample, or the lengths differ.

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
    first_sums, sizes = _by_cluster(ones, clusters)
    second_sums, _ = _by_cluster(twos, clusters)
    differences, n, k = second_sums - first_sums, int(sizes.sum()), len(sizes)
    estimate = float(differences.sum() / n)
    gained, lost = int(((twos == 1) & (ones == 0)).sum()), int(((ones == 1) & (twos == 0)).sum())
    low, high = _bootstrap(differences, sizes, level, seed) if k > 1 else (-1.0, 1.0)
    discordant = (gained + lost) / n
    # The variance of a paired difference by clusters, over that of independent samples.
    independent = (discordant - estimate**2) / n
    clustered = _cluster_variance(differences, sizes)
    design_effect = clustered / independent if independent > 0 and k > 1 else 1.0
    return PairedComparison(
        Interval(estimate, low, high, n, k),
        gained,
        lost,
        float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue) if gained + lost else 1.0,
        _exchange_p(differences),
        minimum_detectable_difference(n, discordant, design_effect) if discordant else None,
    )


def minimum_detectable_difference(
    n: int, discordant: float, design_effect: float = 1.0, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """
    The least true difference of two accuracies that `n` paired samples show with the given power (normal approximation
    of McNemar's test: Connor, Biometrics 43, 1987).

    Args:
        n (`int`):
            Number of samples.
        discordant (`float`):
            Share of samples on which the models differ in being right.
        design_effect (`float`, *optional*, defaults to `1.0`):
            By how much clusters multiply the variance.
        power (`float`, *optional*, defaults to `0.8`):
            Probability of a significant result.
        alpha (`float`, *optional*, defaults to `0.05`):
            Level of the two-sided test.

    Returns:
        `float` or `None`: `None` if no difference that such a share allows would be detected.

    Example:

    ```python
    >>> [round(minimum_detectable_difference(n, discordant=0.2), 3) for n in (67, 200, 597)]
    [0.15, 0.088, 0.051]

    ```
    """
    effective = n / design_effect
    upper, lower = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)

    def excess(difference: float) -> float:
        spread = upper * np.sqrt(discordant) + lower * np.sqrt(discordant - difference**2)
        return float(difference * np.sqrt(effective) - spread)

    if excess(discordant) < 0:
        return None
    return float(optimize.brentq(excess, 0.0, discordant))


def holm(p_values: Sequence[float]) -> list[float]:
    """
    P-values adjusted for several comparisons by Holm's method.

    Args:
        p_values (`Sequence[float]`):
            The p-values.

    Returns:
        `list[float]`

    Example:

    ```python
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    ```
    """
    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def _by_cluster(values: ArrayLike, clusters: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum and number of the values of every cluster."""
    array = np.asarray(values, dtype=float)
    if array.size == 0 or array.shape != (len(clusters),):
        raise ValueError(
            f"{array.size} answers and {len(clusters)} clusters: at least one of each, and as many, needed"
        )
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(index, array), np.bincount(index)


def _cluster_variance(sums: NDArray[Any], sizes: NDArray[Any]) -> float:
    """Variance of the mean of all values, by clusters (linearised ratio estimator)."""
    n, k = sizes.sum(), len(sizes)
    if k == 1:
        return 0.0
    residuals = sums - sums.sum() / n * sizes
    return float((residuals**2).sum() / n**2 * k / (k - 1))


def _design_effect(sums: NDArray[Any], sizes: NDArray[Any]) -> float:
    n = sizes.sum()
    mean = sums.sum() / n
    clustered = _cluster_variance(sums, sizes)
    if mean in (0, 1) or clustered == 0:
        return float((sizes**2).sum() / n)
    return float(clustered / (mean * (1 - mean) / n))


def _bootstrap(sums: NDArray[Any], sizes: NDArray[Any], level: float, seed: int) -> tuple[float, float]:
    k = len(sizes)
    if np.all(sums * sizes.sum() == sums.sum() * sizes):
        # Every resample is the same. What was seen in no cluster is, at that level, in less than this share of them.
        mean, unseen = float(sums.sum() / sizes.sum()), 1 - ((1 - level) / 2) ** (1 / k)
        return max(-1.0, mean - unseen), min(1.0, mean + unseen)
    tail = stats.norm.cdf(np.sqrt(k / (k - 1)) * stats.t.ppf((1 - level) / 2, k - 1))
    # Clusters of the same sum and size are interchangeable: it is enough to draw how many there are of each kind.
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(k, counts / k, size=RESAMPLES)
    means = drawn @ kinds[0] / (drawn @ kinds[1])
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


def _exchange_p(differences: NDArray[Any]) -> float:
    """Two-sided p-value of the sum of `differences` if the sign of each is a coin toss: the whole distribution."""
    values, counts = np.unique(np.abs(differences[differences != 0]).astype(int), return_counts=True)
    distribution = np.ones(1)
    for value, count in zip(values, counts, strict=True):
        tosses = np.zeros(2 * value * count + 1)
        tosses[:: 2 * value] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, tosses)
    sums = np.arange(len(distribution)) - len(distribution) // 2
    return min(1.0, float(distribution[np.abs(sums) >= abs(differences.sum())].sum()))
