import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rest_trl.regions.coefficients import (
    curriculum_weights,
    entropy_coefficients,
    region_weights,
    released_coefficients,
    uniform_coefficients,
)
from rest_trl.tool_calls import Part, Region


SURROGATES = ["one_minus_exp", "reciprocal"]
NAN = float("nan")

relaxed = settings(deadline=None)

# Entropies (nats) and shares of the six regions.
entropies = st.lists(st.floats(1e-3, 8), min_size=6, max_size=6).map(lambda e: torch.tensor(e, dtype=torch.float64))
shares = st.lists(st.floats(0.01, 1), min_size=6, max_size=6).map(lambda s: torch.tensor(s, dtype=torch.float64))
progresses = st.floats(0, 1)


class TestRegionWeights:
    @pytest.mark.parametrize("surrogate", SURROGATES)
    @given(entropies=entropies, shares=shares)
    @relaxed
    def test_have_mean_one_over_the_tokens(self, surrogate, entropies, shares):
        shares = shares / shares.sum()
        weights = region_weights(entropies, shares, surrogate)
        assert (weights * shares).sum().item() == pytest.approx(1, rel=1e-9)

    @pytest.mark.parametrize("surrogate", SURROGATES)
    @given(entropies=entropies, shares=shares)
    @relaxed
    def test_grow_as_entropy_falls(self, surrogate, entropies, shares):
        weights = region_weights(entropies, shares, surrogate)
        assert weights[entropies.argsort(descending=True)].diff().ge(0).all()

    @given(entropies=entropies, shares=shares)
    @relaxed
    def test_are_proportional_to_the_surrogate(self, entropies, shares):
        reciprocal = region_weights(entropies, shares, "reciprocal") * entropies
        one_minus_exp = region_weights(entropies, shares, "one_minus_exp") * (1 - torch.exp(-entropies))
        for constant in (reciprocal, one_minus_exp):
            assert torch.allclose(constant, constant[:1], rtol=1e-9)

    @given(entropies=entropies, shares=shares)
    @relaxed
    def test_agree_between_the_surrogates_where_entropies_are_small(self, entropies, shares):
        small = entropies / entropies.max() * 2e-3  # 1 - exp(-H) = H (1 - H / 2 + ...)
        difference = region_weights(small, shares, "reciprocal") / region_weights(small, shares, "one_minus_exp") - 1
        assert difference.abs().max() <= 1e-3

    @pytest.mark.parametrize("surrogate", SURROGATES)
    def test_are_one_where_nothing_was_observed(self, surrogate):
        entropies = torch.tensor([NAN, 0.1, NAN, 2.0, 0.5, NAN])
        shares = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0, 0.0])
        weights = region_weights(entropies, shares, surrogate)
        assert weights[[0, 2, 4, 5]].eq(1).all()
        assert weights[1] > 1 > weights[3]
        assert (weights * shares).sum().item() == pytest.approx(1)
        assert region_weights(torch.full((6,), NAN), torch.zeros(6), surrogate).eq(1).all()

    @pytest.mark.parametrize("surrogate", SURROGATES)
    def test_of_a_deterministic_region_are_finite(self, surrogate):
        weights = region_weights(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), surrogate)
        assert weights.isfinite().all()
        assert weights[0] > weights[1] > 0

    def test_of_an_unknown_surrogate_are_refused(self):
        with pytest.raises(ValueError, match="unknown surrogate 'log': choose 'one_minus_exp' or 'reciprocal'"):
            region_weights(torch.ones(6), torch.ones(6), "log")


class TestTheory:
    @given(seed=st.integers(0, 2**31), temperature=st.floats(0.01, 20), size=st.integers(2, 200))
    @relaxed
    def test_lemma_2_bounds_the_squared_score_by_the_entropy(self, seed, temperature, size):
        logits = temperature * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        probabilities = logits.softmax(0)
        scores = torch.eye(size, dtype=torch.float64) - probabilities  # row v: the gradient of log p_v
        squared = (probabilities * scores.square().sum(1)).sum().item()
        entropy = -torch.xlogy(probabilities, probabilities).sum().item()
        assert squared == pytest.approx(1 - probabilities.square().sum().item(), abs=1e-12)
        assert squared <= 1 - math.exp(-entropy) + 1e-12

    @given(seed=st.integers(0, 2**31), size=st.integers(1, 100))
    @relaxed
    def test_theorem_2_puts_the_least_bound_at_the_inverse_of_beta(self, seed, size):
        generator = torch.Generator().manual_seed(seed)
        beta = torch.rand(size, generator=generator, dtype=torch.float64) + 1e-3
        best = size / (1 / beta).sum() / beta
        least = (beta * best.square()).sum()
        assert best.sum().item() == pytest.approx(size)
        assert least.item() == pytest.approx((size**2 / (1 / beta).sum()).item())
        for scale in (1e-3, 0.1, 10):
            change = scale * torch.randn(50, size, generator=generator, dtype=torch.float64)
            others = best + change - change.mean(1, keepdim=True)
            assert torch.allclose(others.sum(1), best.sum())
            assert ((beta * others.square()).sum(1) >= least * (1 - 1e-12)).all()

    @given(entropies=entropies, shares=shares, seed=st.integers(0, 2**31))
    @relaxed
    def test_theorem_2_is_what_the_region_weights_follow(self, entropies, shares, seed):
        """No other weights per region, of mean 1 over the tokens, have a smaller bound for beta = 1 - exp(-H)."""
        shares = shares / shares.sum()
        bound = shares * (1 - torch.exp(-entropies))
        best = region_weights(entropies, shares)
        change = torch.randn(50, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        others = best + change - (change * shares).sum(1, keepdim=True)
        assert ((bound * others.square()).sum(1) >= (bound * best.square()).sum() * (1 - 1e-12)).all()


class TestCurriculumWeights:
    BOUNDS = {"minimum": 0.5, "maximum": 1.5}
    SLOPES = {"format_slope": 0.5, "parameters_slope": 0.6, "reasoning_slope": 0.4}

    @given(weights=entropies, progress=progresses)
    @relaxed
    def test_are_those_of_the_paper(self, weights, progress):
        found = curriculum_weights(weights, progress, **self.BOUNDS, **self.SLOPES)
        start = weights.clamp(0.5, 1.5).tolist()
        expected = list(start)
        expected[Region.FORMAT] = max(0.5, start[Region.FORMAT] - 0.5 * progress)
        expected[Region.PARAMETERS] = min(1.5, start[Region.PARAMETERS] + 0.6 * progress)
        expected[Region.REASONING] = min(1.5, start[Region.REASONING] + 0.4 * progress)
        assert found.tolist() == pytest.approx(expected, rel=1e-12)

    @given(weights=entropies, progresses=st.tuples(progresses, progresses).map(sorted))
    @relaxed
    def test_move_one_way_within_the_bounds(self, weights, progresses):
        early, late = (curriculum_weights(weights, p, **self.BOUNDS, **self.SLOPES) for p in progresses)
        assert all(w.ge(0.5).all() and w.le(1.5).all() for w in (early, late))
        assert late[Region.FORMAT] <= early[Region.FORMAT]
        assert late[Region.PARAMETERS] >= early[Region.PARAMETERS]
        assert late[Region.REASONING] >= early[Region.REASONING]
        for constant in (Region.NONE, Region.TOOL_NAME, Region.RESPONSE):
            assert late[constant] == early[constant]

    @given(weights=entropies, progress=progresses)
    @relaxed
    def test_are_only_bounded_without_slopes(self, weights, progress):
        found = curriculum_weights(weights, progress, **self.BOUNDS, **dict.fromkeys(self.SLOPES, 0.0))
        assert torch.equal(found, weights.clamp(0.5, 1.5))

    def test_do_not_change_the_weights_given(self):
        weights = torch.ones(6)
        curriculum_weights(weights, 1.0, **self.BOUNDS, **self.SLOPES)
        assert weights.eq(1).all()


class TestEntropyCoefficients:
    REGIONS = torch.tensor([[1, 2, 3, 3, 4, 5, 0, 0], [4, 4, 4, 4, 4, 1, 1, 0]])
    PARTS = torch.tensor([[4, 7, 6, 5, 2, 1, 0, 0], [2, 2, 2, 2, 2, 3, 3, 0]], dtype=torch.int8)
    ENTROPIES = torch.tensor([NAN, 0.01, 0.05, 0.3, 0.5, 0.2])
    SHARES = torch.tensor([0.0, 0.2, 0.1, 0.2, 0.4, 0.1])

    def coefficients(self, **changes):
        arguments = {
            "mask": (self.REGIONS != Region.NONE).long(),
            "region_ids": self.REGIONS.to(torch.int8),
            "part_ids": self.PARTS,
            "region_entropies": self.ENTROPIES,
            "region_shares": self.SHARES,
            "progress": 0.0,
            "surrogate": "one_minus_exp",
            "minimum": 0.5,
            "maximum": 1.5,
            "format_slope": 0.5,
            "parameters_slope": 0.6,
            "reasoning_slope": 0.4,
            "step": 0,
        }
        return entropy_coefficients(**(arguments | changes))

    def test_can_tell_parameter_names_from_values(self):
        equal, scaled = self.coefficients(), self.coefficients(parameter_name_scale=2.0)
        assert equal[0, 2] == equal[0, 3]
        assert scaled[0, 2] == pytest.approx(2 * scaled[0, 3].item())
        assert scaled[0, :6].mean().item() == pytest.approx(1.0)
        assert torch.equal(scaled[1], equal[1])

    def test_are_the_bounded_region_weights_over_their_mean(self):
        found = self.coefficients(progress=0.25)
        weights = region_weights(self.ENTROPIES, self.SHARES).clamp(0.5, 1.5)
        weights += 0.25 * torch.tensor([0, -0.5, 0, 0.6, 0.4, 0])
        for row, regions in zip(found, self.REGIONS, strict=True):
            policy = regions != Region.NONE
            expected = weights.clamp(0.5, 1.5)[regions[policy]]
            assert torch.allclose(row[policy], expected / expected.mean(), rtol=1e-6)
            assert row[~policy].eq(0).all()

    def test_have_mean_one_over_each_completion(self):
        found, policy = self.coefficients(progress=0.7), self.REGIONS != Region.NONE
        assert [row[mask].mean().item() for row, mask in zip(found, policy, strict=True)] == pytest.approx([1, 1])

    @pytest.mark.parametrize("surrogate", SURROGATES)
    def test_are_told_apart_by_the_bounds_because_these_come_after_normalisation(self, surrogate):
        """1 / (1 - exp(-H)) is 100 and 2.5 here: bounds of [0.5, 1.5] on that would leave 1.5 and 1.5."""
        found = self.coefficients(
            mask=torch.ones(1, 2),
            region_ids=torch.tensor([[Region.FORMAT, Region.REASONING]]),
            region_entropies=torch.tensor([NAN, 0.01, NAN, NAN, 0.5, NAN]),
            region_shares=torch.tensor([0.0, 0.5, 0.0, 0.0, 0.5, 0.0]),
            surrogate=surrogate,
        )
        assert found.tolist() == [pytest.approx([1.5, 0.5])]

    def test_are_ones_before_anything_was_observed(self):
        found = self.coefficients(region_entropies=torch.full((6,), NAN), region_shares=torch.zeros(6))
        assert torch.allclose(found, (self.REGIONS != Region.NONE).float(), atol=1e-7)


class TestReleasedCoefficients:
    # Mean weight of tag, name, parameters, parameters, reasoning; the other two tokens get nothing.
    PARTS = torch.tensor(
        [
            [
                Part.TAG,
                Part.TOOL_NAME,
                Part.PARAMETER_NAME,
                Part.PARAMETER_VALUE,
                Part.REASONING,
                Part.STRUCTURE,
                Part.RESPONSE,
                Part.NONE,
            ]
        ]
    )

    @pytest.mark.parametrize(
        ("step", "weights"),
        [
            (0, [1.0, 1.2, 0.6, 0.6, 0.6, 0, 0, 0]),
            (100, [1.0, 1.2, 0.8, 0.8, 0.8, 0, 0, 0]),
            (200, [1.0, 1.2, 1.0, 1.0, 1.0, 0, 0, 0]),
            (300, [1.0, 1.2, 1.2, 1.2, 1.0, 0, 0, 0]),
            (5000, [1.0, 1.2, 1.2, 1.2, 1.0, 0, 0, 0]),
        ],
    )
    def test_are_the_weights_over_the_mean_of_the_positive_ones(self, step, weights):
        mask = self.PARTS != Part.NONE
        found = released_coefficients(mask=mask, part_ids=self.PARTS.to(torch.int8), step=step)
        mean = sum(weights) / 5
        assert found.tolist() == [pytest.approx([weight / mean for weight in weights], rel=1e-6)]

    def test_are_zero_where_a_completion_has_neither_tags_nor_calls(self):
        parts = torch.tensor([[Part.RESPONSE, Part.RESPONSE]])
        assert released_coefficients(mask=torch.ones(1, 2), part_ids=parts, step=0).eq(0).all()


class TestUniformCoefficients:
    def test_are_ones(self):
        found = uniform_coefficients(torch.tensor([[1, 0], [1, 1]]), step=3)
        assert torch.equal(found, torch.ones(2, 2))
