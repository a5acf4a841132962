import math

import pytest
import torch

from rest_trl.lab.diagnose.moments import jackknife, measures, moments, tables, tables_without_each


SEEDS, GROUPS, SIZE = 300, 24, 40
MEAN = torch.full((SIZE,), 0.1, dtype=torch.float64)
# The second kind has the same mean, and its deviation is half of the first one's plus as much of its own.
TRUTH = {
    "trace": [SIZE * 1.0, SIZE * 0.5],
    "signal": [SIZE * 0.01, SIZE * 0.01],
    "projection": [1.0, 1.0],
    "trace_ratio": [1.0, 0.5],
}
REFERENCE = torch.tensor([0, 0])


def draw(seed, mean=MEAN):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, GROUPS, SIZE, generator=generator, dtype=torch.float64)
    return torch.stack([mean + first, mean + (first + second) / 2], 1)


@pytest.fixture(scope="module")
def found():
    """Measures of many independent draws, and how often their intervals hold the truth."""
    values, covered = {name: [] for name in TRUTH}, {name: [] for name in TRUTH}
    naive = []
    for seed in range(SEEDS):
        vectors = draw(seed)
        naive.append(vectors.mean(0).square().sum(-1))
        of_draw = moments(vectors)
        value = measures(tables(of_draw), REFERENCE, 0, 1)
        without_each = measures(tables_without_each(of_draw), REFERENCE, 0, 1)
        for name, truth in TRUTH.items():
            interval = jackknife(value[name], without_each[name], positive=name.startswith("trace"))
            values[name].append(value[name])
            truth = torch.tensor(truth, dtype=torch.float64)
            covered[name].append((interval.low <= truth) & (truth <= interval.high))
    return {name: torch.stack(value) for name, value in values.items()}, covered, torch.stack(naive)


def deviation(values, truth):
    """How far the mean over seeds is from the truth, in its standard errors."""
    error = values.std(0) / math.sqrt(len(values))
    return (values.mean(0) - torch.tensor(truth, dtype=torch.float64)).abs() / error


class TestEstimators:
    @pytest.mark.parametrize("name", ["trace", "signal"])
    def test_are_without_bias(self, found, name):
        assert (deviation(found[0][name], TRUTH[name]) < 4).all()

    def test_the_square_of_the_mean_fails_the_same_test(self, found):
        assert (deviation(found[2], TRUTH["signal"]) > 20).all()

    @pytest.mark.parametrize(("name", "kinds"), [("trace", 2), ("signal", 2), ("trace_ratio", 1)])
    def test_have_intervals_that_hold_the_truth(self, found, name, kinds):
        coverage = torch.stack(found[1][name]).double().mean(0)[-kinds:]
        # 95% of 300 draws have a standard error of 1.3%; a few groups make the intervals a little too short.
        assert ((coverage > 0.90) & (coverage < 0.995)).all()

    def test_of_a_projection_have_an_interval_where_the_mean_is_known_well(self):
        covered = []
        for seed in range(100):
            of_draw = moments(draw(seed, mean=5 * MEAN))
            value, without_each = (
                measures(found, REFERENCE, 0, 1)["projection"][..., 1]
                for found in (tables(of_draw), tables_without_each(of_draw))
            )
            interval = jackknife(value, without_each)
            covered.append(bool(interval.low <= 1 <= interval.high))
        assert sum(covered) >= 88

    def test_without_each_group_are_those_of_the_others(self):
        vectors = draw(0)[:5]
        all_but = tables_without_each(moments(vectors))
        for group in range(5):
            others = tables(moments(vectors[[index for index in range(5) if index != group]]))
            assert torch.allclose(all_but.second[group], others.second)
            assert torch.allclose(all_but.pairs[group], others.pairs)

    @pytest.mark.parametrize(("function", "count"), [(tables, 1), (tables_without_each, 2)])
    def test_of_too_few_groups_are_refused(self, function, count):
        with pytest.raises(ValueError, match="diagnose more prompts"):
            function(moments(draw(0)[:count]))


class TestMoments:
    def test_of_combinations_are_those_of_combined_vectors(self):
        vectors = draw(1)
        combinations = torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.0, 3.0]])
        combined = moments(combinations.double() @ vectors)
        for first, second in zip(moments(vectors).combined(combinations), combined, strict=True):
            assert torch.allclose(first, second)


class TestMeasures:
    def test_of_a_reference_with_itself_are_one(self):
        found = measures(tables(moments(draw(2, 5 * MEAN))), REFERENCE, 0, 4)
        for name in ("projection", "trace_ratio", "esnr_ratio", "trace_share", "signal_share"):
            assert found[name][0].item() == pytest.approx(1.0)

    def test_alignment_is_the_cosine_of_a_minibatch_with_the_mean(self):
        mean = 2 * MEAN
        cosines, estimates = [], []
        for seed in range(200):
            vectors = draw(seed, mean)
            cosines.append(torch.cosine_similarity(vectors[:8, 0].mean(0), mean, dim=0))
            estimates.append(measures(tables(moments(vectors)), REFERENCE, 0, 8)["alignment"][0])
        # A root of a mean square and a mean of roots, so they are near and not the same.
        expected = torch.stack(cosines).mean().item()
        assert torch.stack(estimates).mean().item() == pytest.approx(expected, rel=0.03)

    def test_are_not_defined_without_a_signal(self):
        vectors = torch.tensor([[[1.0]], [[-1.0]], [[1.0]], [[-1.0]]])
        found = measures(tables(moments(vectors)), torch.tensor([0]), 0, 1)
        assert found["signal"] < 0 and found["projection"].isnan() and found["esnr"].isnan()


class TestJackknife:
    def test_of_the_logarithm_keeps_a_positive_interval(self):
        interval = jackknife(torch.tensor(1.0), torch.tensor([0.2, 1.0, 3.0]), positive=True)
        assert 0 < interval.low < 1 < interval.high
        assert jackknife(torch.tensor(1.0), torch.tensor([-0.2, 1.0, 3.0]), positive=True).low.isnan()
