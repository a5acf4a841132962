"""Two models on the same samples: their difference, its tests, and the least difference that the tests can detect."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from .intervals import LEVEL, Interval, bootstrap_interval, cluster_sums, design_effect


@dataclass(frozen=True)
class PairedComparison:
    """
    The difference of two models on the same samples.

    Args:
        difference ([`Interval`]):
            Accuracy of the second model minus that of the first.
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


def compare_paired(
    first: ArrayLike, second: ArrayLike, clusters: Sequence[str], level: float = LEVEL, seed: int = 0
) -> PairedComparison:
    """
    Compare two models on the same samples.

    The interval of the difference is that of [`~rest_trl.lab.evaluation.intervals.bootstrap_interval`].

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
    first_sums, sizes = cluster_sums(ones, clusters)
    second_sums, _ = cluster_sums(twos, clusters)
    differences, n, k = second_sums - first_sums, int(sizes.sum()), len(sizes)
    estimate = float(differences.sum() / n)
    gained, lost = int(((twos == 1) & (ones == 0)).sum()), int(((ones == 1) & (twos == 0)).sum())
    low, high = bootstrap_interval(differences, sizes, level, seed)
    discordant = (gained + lost) / n
    effect = design_effect(differences, sizes, discordant - estimate**2)
    return PairedComparison(
        Interval(estimate, low, high, n, k),
        gained,
        lost,
        # McNemar's exact test. For equally good models, it is a coin toss which of them is right where they differ.
        float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        _exchange_p(differences),
        minimum_detectable_difference(n, discordant, effect) if discordant else None,
    )


def minimum_detectable_difference(
    n: int, discordant: float, design_effect: float = 1.0, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """
    The smallest true difference of two accuracies that the exact McNemar test is likely to find significant.

    Args:
        n (`int`):
            Number of samples.
        discordant (`float`):
            Share of samples that exactly one of the models answers correctly, in (0, 1].
        design_effect (`float`, *optional*, defaults to `1.0`):
            Factor by which clusters multiply the variance. `n / design_effect` independent samples are assumed.
        power (`float`, *optional*, defaults to `0.8`):
            Probability of a significant result at that difference.
        alpha (`float`, *optional*, defaults to `0.05`):
            Level of the two-sided test.

    Returns:
        `float` or `None`: in (0, `discordant`]. `None` if not even the largest possible difference, `discordant`
        itself, would be found with that power.

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
    critical = stats.binom.isf(alpha / 2, pairs, 0.5)

    def excess(difference: float) -> float:
        wins = (1 + difference / discordant) / 2
        significant = stats.binom.sf(critical, pairs, wins) + stats.binom.cdf(pairs - critical - 1, pairs, wins)
        return float(probability @ significant) - power

    if excess(discordant) < 0:
        return None
    return float(optimize.brentq(excess, 0.0, discordant))


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Adjust p-values for several comparisons by Holm's method.

    Args:
        p_values (`Sequence[float]`):
            The p-values.

    Returns:
        `list[float]`: the adjusted p-values, in the same order.

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
