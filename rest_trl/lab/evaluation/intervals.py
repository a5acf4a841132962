"""
Error bars of accuracies and differences.

Samples that share a dialogue are not independent. The independent units here are therefore clusters of samples. Where
each sample is a cluster of its own, the formulas reduce to the usual ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


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


def accuracy_interval(correct: ArrayLike, clusters: Sequence[str], level: float = LEVEL) -> Interval:
    """
    Accuracy with a confidence interval.

    This is Wilson's interval with two changes for clusters. The sample size is divided by the design effect, which is
    the variance of the accuracy by clusters over that of independent samples, and the normal quantile is replaced by
    Student's for the number of clusters. Where all clusters have the same accuracy, for instance because all answers
    agree, the design effect is that of clusters whose samples always agree.

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
    sums, sizes = cluster_sums(correct, clusters)
    n, k = int(sizes.sum()), len(sizes)
    estimate = float(sums.sum() / n)
    if k == n:
        wilson = stats.binomtest(int(sums.sum()), n).proportion_ci(level, method="wilson")
        return Interval(estimate, float(wilson.low), float(wilson.high), n, k)
    if k == 1:
        return Interval(estimate, 0.0, 1.0, n, k)
    effective = n / design_effect(sums, sizes, estimate * (1 - estimate))
    quantile = stats.t.ppf((1 + level) / 2, k - 1)
    shrink = 1 + quantile**2 / effective
    centre = (estimate + quantile**2 / (2 * effective)) / shrink
    half = quantile / shrink * np.sqrt(estimate * (1 - estimate) / effective + quantile**2 / (4 * effective**2))
    return Interval(estimate, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n, k)


def mean_interval(values: ArrayLike, clusters: Sequence[str], level: float = LEVEL) -> Interval:
    """
    Mean of any numbers with a confidence interval, by Student's t over clusters.

    Args:
        values (`ArrayLike` of shape `(n,)`):
            One value per sample.
        clusters (`Sequence[str]` of length `n`):
            Cluster of each sample.
        level (`float`, *optional*, defaults to `0.95`):
            Nominal coverage.

    Returns:
        [`Interval`]: of numbers, not of shares. It is unbounded for a single cluster.

    Raises:
        ValueError: if there is no sample, or there is not one cluster for each.

    Example:

    ```python
    >>> interval = mean_interval([1, 2, 3, 6], ["a", "b", "c", "d"])
    >>> print(f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    3.00 [-0.44, 6.44]

    ```
    """
    sums, sizes = cluster_sums(values, clusters)
    n, k = int(sizes.sum()), len(sizes)
    estimate = float(sums.sum() / n)
    half = float(stats.t.ppf((1 + level) / 2, k - 1) * np.sqrt(cluster_variance(sums, sizes))) if k > 1 else np.inf
    return Interval(estimate, estimate - half, estimate + half, n, k)


def cluster_sums(values: ArrayLike, clusters: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """
    Sum up the values of each cluster.

    Args:
        values (`ArrayLike` of shape `(n,)`):
            One value per sample.
        clusters (`Sequence[str]` of length `n`):
            Cluster of each sample.

    Returns:
        `tuple[np.ndarray, np.ndarray]`, each of shape `(k,)`: sum and number of the values of every cluster.

    Raises:
        ValueError: if there is no sample, or there is not one cluster for each.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0 or array.shape != (len(clusters),):
        raise ValueError(
            f"{array.size} answers and {len(clusters)} clusters: at least one of each, and as many, needed"
        )
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(index, array), np.bincount(index)


def cluster_variance(sums: NDArray[Any], sizes: NDArray[Any]) -> float:
    """
    Variance of the mean of all values where clusters, not samples, are independent (linearised ratio estimator).

    Args:
        sums, sizes (`np.ndarray` of shape `(k,)`):
            Sum and number of the values of every cluster, of [`cluster_sums`].

    Returns:
        `float`: 0 for a single cluster, whose variance cannot be estimated.
    """
    n, k = sizes.sum(), len(sizes)
    if k == 1:
        return 0.0
    residuals = sums - sums.sum() / n * sizes
    return float((residuals**2).sum() / n**2 * k / (k - 1))


def design_effect(sums: NDArray[Any], sizes: NDArray[Any], variance: float) -> float:
    """
    By how much clusters multiply the variance of the mean of all values, compared with as many independent samples.

    Args:
        sums, sizes (`np.ndarray` of shape `(k,)`):
            Sum and number of the values of every cluster, of [`cluster_sums`]. The values are whole numbers.
        variance (`float`):
            Variance of a single value.

    Returns:
        `float`: where all clusters have the same mean, or there is only one, no variance between them was seen. Then
        it is the design effect of clusters whose samples always agree, the worst case.
    """
    n = sizes.sum()
    if _have_one_mean(sums, sizes):
        return float((sizes**2).sum() / n)
    return cluster_variance(sums, sizes) / (variance / float(n))


def _have_one_mean(sums: NDArray[Any], sizes: NDArray[Any]) -> bool:
    """Whether all clusters have the same mean. Whole numbers are compared, because means may differ by rounding."""
    return bool(np.all(sums * sizes.sum() == sums.sum() * sizes))


def bootstrap_interval(sums: NDArray[Any], sizes: NDArray[Any], level: float, seed: int) -> tuple[float, float]:
    """
    Bootstrap interval of the mean of all values, by resampling clusters.

    The percentiles are widened for the number of clusters (Hesterberg, "What Teachers Should Know About the
    Bootstrap", 2015, section 5.3), because a plain percentile interval is too short for few of them.

    Args:
        sums, sizes (`np.ndarray` of shape `(k,)`):
            Sum and number of the values of every cluster. A value is the difference of two models' answers, in
            {-1, 0, 1}.
        level (`float`):
            Nominal coverage.
        seed (`int`):
            Seed of the resampling.

    Returns:
        `tuple[float, float]`: lower and upper bound. A single cluster says nothing about how clusters vary, so its
        interval is [-1, 1].
    """
    k = len(sizes)
    if k == 1:
        return -1.0, 1.0
    if _have_one_mean(sums, sizes):
        # All clusters have the same mean, so all resamples have it, and the bootstrap's interval would have width 0.
        # But there may be clusters with other means that were not drawn. If they make up a share q of all clusters, k
        # draws miss them with probability (1 - q) ** k. At this level, q can be as large as `unseen`.
        mean, unseen = float(sums.sum() / sizes.sum()), 1 - ((1 - level) / 2) ** (1 / k)
        return max(-1.0, mean - unseen), min(1.0, mean + unseen)
    tail = stats.norm.cdf(np.sqrt(k / (k - 1)) * stats.t.ppf((1 - level) / 2, k - 1))
    # Clusters with the same sum and size are interchangeable, so a resample is drawn as the number of clusters of each
    # kind. That is much faster than drawing the clusters one by one.
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(k, counts / k, size=RESAMPLES)
    means = drawn @ kinds[0] / (drawn @ kinds[1])
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))
