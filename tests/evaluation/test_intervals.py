import numpy as np
import pytest
from scipy import stats
from simulation import (
    CLUSTERS,
    CORRELATIONS,
    SHARES,
    SIZES,
    accuracy_coverage,
    cluster_sizes,
    exact_coverage,
    paired_coverage,
    power,
)

from rest_trl.lab.intervals import RESAMPLES, accuracy_interval, compare_paired, holm, minimum_detectable_difference


def within(coverage, low, high, simulations):
    """Whether a simulated share is in [low, high], give or take four standard errors of the simulation."""
    margin = 4 * np.sqrt(low * (1 - low) / simulations)
    return low - margin <= coverage <= high + margin


class TestAccuracyInterval:
    @pytest.mark.parametrize(
        ("right", "expected"),
        [  # of statsmodels 0.15.0, `proportion_confint(right, 67, method="wilson")`
            (0, (0.0, 0.05422613939130181)),
            (1, (0.0026395717340788882, 0.07981862319778107)),
            (33, (0.3765217187108694, 0.6093622535188515)),
            (66, (0.9201813768022187, 0.997360428265921)),
            (67, (0.9457738606086981, 0.9999999999999998)),
        ],
    )
    def test_is_wilson_without_clusters(self, right, expected):
        interval = accuracy_interval(np.arange(67) < right, [str(i) for i in range(67)])
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
        assert interval.estimate == right / 67 and interval.clusters == interval.n == 67

    def test_copies_of_a_sample_add_nothing(self):
        right = np.arange(50) < 20
        alone = accuracy_interval(right, np.arange(50))
        copied = accuracy_interval(np.repeat(right, 4), np.repeat(np.arange(50), 4))
        # The variance by clusters has 49 degrees of freedom, and Student's quantile is the greater.
        assert copied.low == pytest.approx(alone.low, abs=0.01) and copied.high == pytest.approx(alone.high, abs=0.01)
        assert copied.high - copied.low > alone.high - alone.low

    @pytest.mark.parametrize(
        ("right", "clusters"),
        [([1], ["a"]), ([0], ["a"]), ([1, 1], ["a", "a"]), ([1, 0], ["a", "a"]), ([1, 1, 1], ["a", "a", "b"])],
    )
    def test_is_finite_and_holds_the_estimate_at_the_edge(self, right, clusters):
        interval = accuracy_interval(right, clusters)
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
        assert interval.high - interval.low > 0.5

    def test_is_not_narrow_because_all_clusters_have_the_same_mean(self):
        # The mean of one in 49 is rounded, so the variance of these clusters is tiny and not 0.
        interval = accuracy_interval(([1] + [0] * 48) * 40, np.repeat(np.arange(40), 49))
        alone = accuracy_interval([1] + [0] * 39, np.arange(40))
        assert interval.estimate == pytest.approx(1 / 49)
        assert interval.high - interval.low == pytest.approx(alone.high - alone.low, abs=0.02)

    def test_refuses_what_is_no_sample(self):
        with pytest.raises(ValueError, match="at least one of each"):
            accuracy_interval([], [])
        with pytest.raises(ValueError, match="2 answers and 1 clusters"):
            accuracy_interval([0, 1], ["a"])

    @pytest.mark.parametrize("n", SIZES)
    def test_covers_independent_samples_at_the_nominal_rate(self, n):
        assert all(0.93 <= exact_coverage(n, share) <= 0.97 for share in SHARES)

    @pytest.mark.parametrize("name", CLUSTERS)
    @pytest.mark.parametrize("correlation", CORRELATIONS)
    def test_covers_clustered_samples_at_the_nominal_rate(self, name, correlation):
        coverage = [accuracy_coverage(cluster_sizes(name), share, correlation, 250) for share in SHARES]
        assert all(within(value, 0.93, 0.97, 250) for value in coverage)

    def test_clusters_ignored_would_cover_too_rarely(self):
        # That the simulation can fail.
        sizes, covered, rng = cluster_sizes("bfcl multi_turn"), 0, np.random.default_rng(0)
        for _ in range(300):
            own = np.repeat(rng.beta(0.7 * 2 / 3, 0.3 * 2 / 3, size=200), sizes)
            right = rng.random(800) < own
            interval = accuracy_interval(right, np.arange(800))
            covered += interval.low <= 0.7 <= interval.high
        assert covered / 300 < 0.85


class TestComparePaired:
    def test_is_mcnemar_without_clusters(self):
        rng = np.random.default_rng(0)
        for n, gained, lost in [(20, 0.3, 0.1), (67, 0.05, 0.05), (597, 0.1, 0.06)]:
            kinds = rng.choice(3, size=n, p=(gained, lost, 1 - gained - lost))
            comparison = compare_paired(kinds == 1, kinds == 0, np.arange(n))
            found = int((kinds == 0).sum()), int((kinds == 1).sum())
            assert (comparison.gained, comparison.lost) == found
            expected = stats.binomtest(found[0], sum(found)).pvalue
            assert comparison.mcnemar_p == pytest.approx(expected)
            assert comparison.cluster_p == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("gained", "lost", "p"),  # of statsmodels 0.15.0, `mcnemar(table, exact=True)`
        [(10, 2, 0.03857421875), (20, 40, 0.01348929373119186), (3, 3, 1.0), (0, 7, 0.015625)],
    )
    def test_mcnemar_p_is_the_exact_one(self, gained, lost, p):
        first, second = [0] * gained + [1] * lost + [1] * 5, [1] * gained + [0] * lost + [1] * 5
        assert compare_paired(first, second, np.arange(len(first))).mcnemar_p == pytest.approx(p, rel=1e-12)

    def test_exchanges_whole_clusters(self):
        rng = np.random.default_rng(1)
        clusters = np.repeat(np.arange(9), 4)
        first, second = rng.random(36) < 0.4, rng.random(36) < 0.7
        sums = [np.bincount(clusters, values) for values in (first, second)]
        expected = stats.permutation_test(
            sums, lambda x, y: (x - y).sum(), permutation_type="samples", n_resamples=np.inf
        )
        assert compare_paired(first, second, clusters).cluster_p == pytest.approx(expected.pvalue)

    def test_bootstrap_is_the_one_over_clusters(self):
        rng = np.random.default_rng(2)
        sizes = cluster_sizes("api_bank level 1")
        clusters = np.repeat(np.arange(len(sizes)), sizes)
        first, second = rng.random(399) < 0.5, rng.random(399) < 0.6
        differences = np.bincount(clusters, second.astype(float) - first)
        k = len(sizes)
        tail = stats.norm.cdf(np.sqrt(k / (k - 1)) * stats.t.ppf(0.025, k - 1))
        expected = stats.bootstrap(
            (differences, sizes),
            lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
            paired=True,
            n_resamples=RESAMPLES,
            batch=1000,
            confidence_level=1 - 2 * tail,
            method="percentile",
            rng=rng,
        ).confidence_interval
        found = compare_paired(first, second, clusters).difference
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)

    def test_is_the_same_at_every_call_and_turns_its_sign(self):
        first, second, clusters = [0, 1] * 30, [1, 1, 0] * 20, [str(i // 3) for i in range(60)]
        there, again = (compare_paired(first, second, clusters) for _ in range(2))
        back = compare_paired(second, first, clusters)
        assert there == again
        assert (back.gained, back.lost, back.cluster_p) == (there.lost, there.gained, there.cluster_p)
        assert back.difference.estimate == -there.difference.estimate

    @pytest.mark.parametrize(
        ("first", "second", "clusters"),
        [
            ([1], [0], "a"),
            ([1, 1, 1], [1, 1, 1], "abc"),
            ([0, 0, 0], [1, 1, 1], "abc"),
            ([0, 1, 0], [1, 0, 1], "aaa"),
            ([1, 1, 0, 0], [1, 1, 0, 0], "aabb"),
        ],
        ids=["one sample", "all right", "all gained", "one cluster", "the same"],
    )
    def test_is_finite_at_the_edge(self, first, second, clusters):
        comparison = compare_paired(first, second, list(clusters))
        difference = comparison.difference
        assert -1 <= difference.low <= difference.estimate <= difference.high <= 1
        assert difference.low < difference.high
        assert 0.05 < comparison.cluster_p <= 1 and 0.05 < comparison.mcnemar_p <= 1
        assert comparison.detectable is None

    @pytest.mark.parametrize("size", [2, 49])
    def test_takes_clusters_of_the_same_mean_for_one_sample_each(self, size):
        # No variance by clusters is seen, or with 49 samples a tiny one, because their mean is rounded.
        n = 40 * size
        comparison = compare_paired([0] * n, ([1] + [0] * (size - 1)) * 40, np.repeat(np.arange(40), size))
        assert comparison.difference.estimate == pytest.approx(1 / size) and comparison.gained == 40
        assert comparison.detectable == minimum_detectable_difference(40, 1 / size)

    def test_a_single_cluster_shows_no_difference(self):
        assert compare_paired([0, 0, 1, 1] * 50, [0, 1, 0, 1] * 50, ["a"] * 200).detectable is None

    @pytest.mark.parametrize("name", ["api_bank", "api_bank level 2", "bfcl multi_turn"])
    @pytest.mark.parametrize("correlation", CORRELATIONS)
    def test_covers_and_errs_at_the_nominal_rate(self, name, correlation):
        covered, significant = paired_coverage(cluster_sizes(name), 0.15, 0.15, correlation, 200)
        assert within(covered, 0.93, 0.97, 200)
        assert within(significant, 0.02, 0.05, 200)

    def test_refuses_answers_of_different_samples(self):
        with pytest.raises(ValueError, match="2 answers of the first model and 3 of the second cannot be paired"):
            compare_paired([1, 0], [1, 0, 1], ["a", "b"])


class TestMinimumDetectableDifference:
    @pytest.mark.parametrize(("n", "discordant"), [(67, 0.3), (200, 0.2), (597, 0.2)])
    def test_is_found_in_80_percent_of_runs(self, n, discordant):
        assert within(power(n, discordant, 300), 0.8, 0.8, 300)

    def test_grows_as_samples_or_their_independence_dwindle(self):
        values = [minimum_detectable_difference(n, 0.2) for n in (1053, 597, 200, 67)]
        assert values == sorted(values)
        assert minimum_detectable_difference(597, 0.2, design_effect=2) == minimum_detectable_difference(298, 0.2)

    def test_there_may_be_none(self):
        assert minimum_detectable_difference(1, 0.5) is None and minimum_detectable_difference(20, 0.1) is None

    @pytest.mark.parametrize(("n", "discordant"), [(0, 0.2), (10, 0), (10, 1.1)])
    def test_refuses_what_cannot_be(self, n, discordant):
        with pytest.raises(ValueError, match="there must be samples"):
            minimum_detectable_difference(n, discordant)


class TestHolm:
    def test_by_hand(self):
        # In ascending order times 4, 3, 2, 1, and never below the one before.
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.9, 0.8]) == [1, 1] and holm([0.2]) == [0.2] and holm([]) == []

    def test_is_that_of_a_statistics_package(self):
        # Of statsmodels 0.15.0, `multipletests(p_values, method="holm")`.
        expected = [0.0024, 0.6, 0.06, 0.06, 0.9, 0.12]
        assert holm([0.0004, 0.3, 0.012, 0.012, 0.9, 0.04]) == pytest.approx(expected, rel=1e-12)
