"""
Error bars of accuracies and differences.

Samples that share a dialogue are not independent. Everything here goes by clusters; where each sample is a cluster of
its own, the formulas are the usual ones.
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
    sums, sizes = cluster_sums(correct, clusters)
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


def cluster_sums(values: ArrayLike, clusters: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum and number of the values of every cluster."""
    array = np.asarray(values, dtype=float)
    if array.size == 0 or array.shape != (len(clusters),):
        raise ValueError(
            f"{array.size} answers and {len(clusters)} clusters: at least one of each, and as many, needed"
        )
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(index, array), np.bincount(index)


def cluster_variance(sums: NDArray[Any], sizes: NDArray[Any]) -> float:
    """Variance of the mean of all values, by clusters (linearised ratio estimator)."""
    n, k = sizes.sum(), len(sizes)
    if k == 1:
        return 0.0
    residuals = sums - sums.sum() / n * sizes
    return float((residuals**2).sum() / n**2 * k / (k - 1))


def _design_effect(sums: NDArray[Any], sizes: NDArray[Any]) -> float:
    n = sizes.sum()
    mean = sums.sum() / n
    clustered = cluster_variance(sums, sizes)
    if mean in (0, 1) or clustered == 0:
        return float((sizes**2).sum() / n)
    return float(clustered / (mean * (1 - mean) / n))


def bootstrap_interval(sums: NDArray[Any], sizes: NDArray[Any], level: float, seed: int) -> tuple[float, float]:
    """
    Percentile bootstrap over clusters of the mean of all values, its percentiles widened for the number of clusters
    (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 5.3).

    Args:
        sums, sizes (`np.ndarray` of shape `(k,)`):
            Sum and number of the values, differences of two models' 0 or 1, of every cluster.
        level (`float`):
            Nominal coverage.
        seed (`int`):
            Seed of the resampling.

    Returns:
        `tuple[float, float]`: in [-1, 1], which is all that one cluster alone can say.
    """
    k = len(sizes)
    if k == 1:
        return -1.0, 1.0
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
