import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_study import make_results

from rest_trl.lab.study.seeds import (
    collapse_step,
    curves,
    mean_over_seeds,
    paired_difference,
    price_of_level,
    window_means,
    window_size,
)


def table(rows):
    return pd.DataFrame(rows, columns=range(1, len(rows[0]) + 1), dtype=float)


def price(results, arm="better", unit="rollouts"):
    return price_of_level(
        curves(results, arm, "rest/reward/exact"),
        curves(results, arm, unit),
        curves(results, "base", "rest/reward/exact"),
        curves(results, "base", unit),
    )


class TestMeanOverSeeds:
    def test_is_the_interval_of_student(self):
        values = [0.31, 0.29, 0.35, 0.33, 0.30]
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        estimate = mean_over_seeds(values)
        assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
        assert estimate.value == pytest.approx(np.mean(values), rel=1e-12) and estimate.seeds == 5

    @pytest.mark.parametrize("values", [[0.5], [0.4, 0.6], [0.5, 0.5, 0.5, 0.5]])
    def test_has_no_interval_with_few_seeds_or_without_spread(self, values):
        estimate = mean_over_seeds(values)
        assert (estimate.value, estimate.low, estimate.high, estimate.seeds) == (0.5, None, None, len(values))

    def test_refuses_no_seed(self):
        with pytest.raises(ValueError, match="at least one seed"):
            mean_over_seeds([])


class TestPairedDifference:
    def test_pairs_by_seed_whatever_the_order(self):
        arm = pd.Series([0.5, 0.2, 0.4], index=[2, 0, 1])
        baseline = pd.Series([0.1, 0.4, 0.3, 0.9], index=[0, 1, 2, 7])
        paired = paired_difference(arm, baseline)
        interval = stats.ttest_rel([0.2, 0.4, 0.5], [0.1, 0.4, 0.3]).confidence_interval(0.95)
        assert paired.difference.value == pytest.approx(0.1)
        assert (paired.difference.low, paired.difference.high) == pytest.approx((interval.low, interval.high))
        assert (paired.won, paired.tied, paired.difference.seeds) == (2, 1, 3)

    def test_is_none_without_a_pair(self):
        assert paired_difference(pd.Series([0.5], index=[0]), pd.Series([0.5], index=[1])) is None


class TestCurves:
    def test_a_step_without_rollouts_lies_between_its_neighbours(self):
        results = pd.DataFrame({"arm": "a", "seed": 0, "step": [1, 2, 3], "exact": [0.2, np.nan, 0.4]})
        assert curves(results, "a", "exact").to_numpy().tolist() == [pytest.approx([0.2, 0.3, 0.4])]

    def test_end_with_the_shortest_run(self):
        results = pd.DataFrame({"arm": "a", "seed": [0, 0, 0, 1, 1], "step": [1, 2, 3, 1, 2], "exact": 0.5})
        assert curves(results, "a", "exact").shape == (2, 2)

    def test_are_empty_where_nothing_is_logged(self):
        results = pd.DataFrame({"arm": "a", "seed": 0, "step": [1, 2], "exact": np.nan})
        assert curves(results, "a", "other").empty and curves(results, "a", "exact").empty


class TestWindows:
    @pytest.mark.parametrize(("steps", "size"), [(1, 1), (9, 1), (20, 4), (50, 10), (1000, 10)])
    def test_are_10_steps_or_a_fifth(self, steps, size):
        assert window_size(steps) == size

    def test_are_whole(self):
        assert window_means([[1.0, 2.0, 3.0, 4.0]], 2).tolist() == [[1.5, 2.5, 3.5]]


class TestPriceOfLevel:
    def test_of_the_baseline_itself_is_one(self):
        found = price(make_results(noise=0.05), arm="base")
        assert (found.ratio.value, found.ratio.low, found.ratio.high) == (1.0, None, None)

    def test_of_an_arm_that_learns_twice_as_fast(self):
        # Without noise the baseline is at its level at step 45.5, the other at the half of it.
        found = price(make_results(noise=0.0, fast=2.0))
        assert found.ratio.value == pytest.approx(0.5) and found.reached == found.ratio.seeds == 8
        assert (found.ratio.low, found.ratio.high) == (None, None)  # all resamples agree

    def test_has_an_interval_that_holds_the_truth_under_noise(self):
        ratio = price(make_results(noise=0.005, fast=1.5)).ratio
        assert 0.5 < ratio.low < 2 / 3 < ratio.high < 0.85

    def test_is_interpolated_between_windows(self):
        # Windows of one step: the level .5 lies half way between the arm's first two steps.
        base, arm = table([[0.1, 0.3, 0.5]]), table([[0.4, 0.6, 0.6]])
        spent = table([[10.0, 20.0, 30.0]])
        assert price_of_level(arm, spent, base, spent).ratio.value == pytest.approx(15 / 30)

    def test_counts_what_each_has_spent(self):
        found = table([[0.1, 0.3, 0.5]])
        cheap, dear = table([[1.0, 2.0, 3.0]]), table([[10.0, 20.0, 30.0]])
        assert price_of_level(found, cheap, found, dear).ratio.value == pytest.approx(0.1)

    def test_is_infinite_for_an_arm_that_never_gets_there(self):
        found = price(make_results(noise=0.0, fast=0.5))
        assert (found.ratio.value, found.ratio.low, found.ratio.high) == (np.inf, None, None)
        assert found.reached == 0

    def test_has_no_interval_with_few_seeds(self):
        ratio = price(make_results(seeds=4, noise=0.0, fast=2.0)).ratio
        assert ratio.value == pytest.approx(0.5) and ratio.low is None and ratio.high is None

    def test_is_undefined_if_the_baseline_learns_nothing(self):
        flat = table([[0.5, 0.5, 0.5]])
        assert price_of_level(flat, flat, flat, flat) is None

    def test_is_undefined_without_a_pair(self):
        one, other = table([[0.1, 0.2]]), table([[0.1, 0.2]]).set_axis([5])
        assert price_of_level(one, one, other, other) is None


class TestCollapse:
    def test_is_a_smoothed_fall_under_half_of_the_best(self):
        rising, falling = np.linspace(0.1, 0.5, 40), np.linspace(0.5, 0.0, 40)
        step = collapse_step(np.concatenate([rising, falling]))
        # The accuracy itself is at half of the best at step 60; a window of 10 steps follows 4.5 steps later.
        assert 60 <= step <= 66

    def test_is_not_one_bad_step(self):
        accuracies = np.full(50, 0.5)
        accuracies[30] = 0.0
        assert collapse_step(accuracies) is None

    @pytest.mark.parametrize("steps", [2, 6, 9, 12, 20, 50])
    @pytest.mark.parametrize("completions", [8, 64])
    def test_is_none_for_level_curves_whatever_their_length(self, steps, completions):
        rng = np.random.default_rng(steps)
        for accuracy in (0.02, 0.1, 0.35, 0.6):
            runs = rng.binomial(completions, accuracy, size=(100, steps)) / completions
            # At most one of a hundred, so that four seeds of an arm next to never have one.
            assert sum(collapse_step(run) is not None for run in runs) <= 1

    @pytest.mark.parametrize(("steps", "completions"), [(20, 64), (50, 8), (200, 8)])
    def test_is_found_through_noise(self, steps, completions):
        rng, half = np.random.default_rng(steps), steps // 2
        accuracies = np.r_[np.full(half, 0.4), np.full(steps - half, 0.02)]
        found = [collapse_step(rng.binomial(completions, accuracies) / completions) for _ in range(100)]
        assert sum(step is not None and step > half for step in found) >= 95

    def test_is_none_for_a_run_that_learns(self):
        assert collapse_step(np.linspace(0.1, 0.5, 50)) is None
