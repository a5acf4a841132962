"""
What the seeds of a study say of its arms: means, paired differences, the price of the baseline's level, collapses.

The seeds are the independent units. Runs of one seed share their start, prompts and random numbers, so arms are
compared seed by seed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..intervals import RESAMPLES, mean_interval, widened_tail


TRAINING = "rest/reward/exact"
HELD_OUT = "held_out/exact"
KINDS = {"_with_calls": "golds with calls", "_without_calls": "golds without"}  # that accuracies are split by

_ROUNDING = 1e-9  # values that are closer are equal
_LEAST_SEEDS = 3  # fewer say too little of their spread for an interval
_BOOTSTRAP_SEEDS = 5  # fewer can be resampled in too few ways for percentiles to mean anything
_LONGEST_WINDOW = 10  # steps that one smoothed accuracy is the mean of at most
_WINDOWS = 5  # a short run is divided into at least this many
_COLLAPSE_WINDOW = 5  # steps, at least, whose mean accuracy may tell a collapse
_COLLAPSE_ERRORS = 5  # a fall of as many standard errors is no noise, even if it is the largest of many


@dataclass(frozen=True)
class Estimate:
    """
    An estimate over seeds with its 95% interval. `low` and `high` are `None` where there are too few seeds for one, or
    where all are equal, so that nothing is known of their spread.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Paired:
    """The mean of an arm minus that of the baseline, and in how many seeds the arm is better, or equal."""

    difference: Estimate
    won: int
    tied: int


@dataclass(frozen=True)
class Price:
    """What an arm spends to reach the baseline's final accuracy, over what the baseline spends to reach it."""

    ratio: Estimate  # infinite if the mean curve of the arm never reaches it
    reached: int  # seeds whose curve reaches it
    window: int  # steps that a smoothed accuracy is the mean of


def mean_over_seeds(values: ArrayLike) -> Estimate:
    """
    Mean of one value per seed, with Student's t interval where three or more differ.

    ```python
    >>> mean = mean_over_seeds([1.0, 2.0, 3.0])
    >>> print(f"{mean.value} [{mean.low:.2f}, {mean.high:.2f}]")
    2.0 [-0.48, 4.48]

    ```
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("a mean over seeds needs at least one seed")
    found = mean_interval(array, [str(seed) for seed in range(array.size)])
    if array.size < _LEAST_SEEDS or np.ptp(array) < _ROUNDING:
        return Estimate(found.estimate, None, None, array.size)
    return Estimate(found.estimate, found.low, found.high, array.size)


def paired_difference(arm: pd.Series, baseline: pd.Series) -> Paired | None:
    """Compare two arms by their values, indexed by seed, over the seeds that both have; `None` if there is none."""
    differences = (arm - baseline).dropna()
    if differences.empty:
        return None
    return Paired(mean_over_seeds(differences), int((differences > 0).sum()), int((differences == 0).sum()))


def curves(results: pd.DataFrame, arm: str, metric: str) -> pd.DataFrame:
    """
    A metric of all runs of an arm: a row per seed, and a column per step that all these runs have made. A step that
    logs nothing, such as one that trains on rollouts of an earlier step, is interpolated linearly between its
    neighbours. Empty if no run logs the metric.
    """
    if metric not in results:
        return pd.DataFrame()
    of_arm = results[results["arm"] == arm]
    common = of_arm.groupby("seed")["step"].max().min()
    table = of_arm[of_arm["step"] <= common].pivot(index="seed", columns="step", values=metric).astype(float)
    return table.interpolate(axis=1, limit_direction="both").dropna()


def window_size(steps: int) -> int:
    """Number of steps that a smoothed accuracy is the mean of: 10, or a fifth of the run if that is less."""
    return max(1, min(_LONGEST_WINDOW, steps // _WINDOWS))


def window_means(values: ArrayLike, size: int) -> NDArray[Any]:
    """Running means over whole windows of `size` steps: of shape `(..., T)` become `(..., T - size + 1)`."""
    return np.lib.stride_tricks.sliding_window_view(np.asarray(values, dtype=float), size, axis=-1).mean(-1)


def price_of_level(
    arm: pd.DataFrame,
    arm_spent: pd.DataFrame,
    baseline: pd.DataFrame,
    baseline_spent: pd.DataFrame,
    window: int | None = None,
) -> Price | None:
    """
    What an arm spends until it reaches the baseline's final level.

    The curves are means over seeds, smoothed over windows. The level is the baseline's mean in its last window.
    Spending is averaged over the same windows, and read where a curve first reaches the level, by linear interpolation
    between two windows. The interval is a bootstrap over seeds that draws the level, too, with percentiles that are
    widened for few seeds.

    Args:
        arm, baseline (`pd.DataFrame`):
            Accuracies, of [`curves`].
        arm_spent, baseline_spent (`pd.DataFrame`):
            Rollouts, tokens or seconds up to each step, of [`curves`].
        window (`int`, *optional*):
            Columns in a window, by default [`window_size`] of the shorter curve.

    Returns:
        [`Price`] or `None`: over the seeds that both have; without an interval for fewer than 5, or if all resamples
        agree. `None` if there is no such seed, or if the baseline has learnt nothing, so that its last window is not
        above its first.
    """
    seeds = arm.index.intersection(baseline.index)
    count = len(seeds)
    if count == 0:
        return None
    size = window or window_size(min(arm.shape[1], baseline.shape[1]))
    accuracies, spent, base_accuracies, base_spent = (
        window_means(table.loc[seeds], size) for table in (arm, arm_spent, baseline, baseline_spent)
    )
    level = base_accuracies[:, -1].mean()
    if level <= base_accuracies[:, 0].mean():
        return None

    def ratios(shares: NDArray[Any]) -> NDArray[Any]:
        means = shares @ base_accuracies
        levels = means[:, -1]
        of_baseline = _spent_at(means, shares @ base_spent, levels)
        return _spent_at(shares @ accuracies, shares @ spent, levels) / of_baseline

    value = float(ratios(np.full((1, count), 1 / count))[0])
    reached = int((accuracies.max(1) >= level).sum())
    if count < _BOOTSTRAP_SEEDS:
        return Price(Estimate(value, None, None, count), reached, size)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    tail = widened_tail(count)
    # Infinite ratios have an order but no mean, so the quantiles are not interpolated.
    low, high = np.quantile(ratios(drawn), [tail, 1 - tail], method="nearest")
    if np.isclose(low, high, rtol=_ROUNDING, atol=0.0):  # also where both are infinite
        return Price(Estimate(value, None, None, count), reached, size)
    return Price(Estimate(value, float(low), float(high), count), reached, size)


def _spent_at(accuracies: NDArray[Any], spent: NDArray[Any], levels: NDArray[Any]) -> NDArray[Any]:
    """What each curve, of shape `(R, W)`, has spent where it first reaches its level; infinite where it never does."""
    reaches = accuracies >= levels[:, None]
    rows, after = np.arange(len(levels)), reaches.argmax(1)
    before = np.maximum(after - 1, 0)
    low, high = accuracies[rows, before], accuracies[rows, after]
    rise = np.where(high > low, high - low, 1.0)  # a level reached in the first window is not interpolated
    share = np.where(after > before, (levels - low) / rise, 0.0)
    where = spent[rows, before] + share * (spent[rows, after] - spent[rows, before])
    return np.where(reaches.any(1), where, np.inf)


def collapse_step(accuracies: ArrayLike) -> int | None:
    """
    Find the step at which a run collapses: the mean accuracy of a window of at least 5 steps falls under half of the
    best one before it, and by more than five standard errors, so that a level curve never does by its noise. It is the
    last step, counted from 1, of that window.

    ```python
    >>> collapse_step([0.2, 0.4, 0.5, 0.4, 0.5, 0.5, 0.4, 0.3, 0.1, 0.0, 0.1, 0.0])
    11

    ```
    """
    array = np.asarray(accuracies, dtype=float)
    size = max(_COLLAPSE_WINDOW, window_size(len(array)))
    if len(array) <= size:
        return None
    means = window_means(array, size)
    noise = np.diff(array).std() / np.sqrt(2)  # of one step, whatever the trend
    best = np.maximum.accumulate(means)
    (fallen,) = np.nonzero((means < best / 2) & (best - means > _COLLAPSE_ERRORS * noise * np.sqrt(2 / size)))
    return int(fallen[0]) + size if len(fallen) else None
