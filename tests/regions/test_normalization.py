import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rest_trl.regions import normalize, normalize_turns
from rest_trl.regions.normalization import normalize_within
from rest_trl.regions.rules import bind_rule


# A busy machine is slow, which is no failure.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class TestNormalize:
    @given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), size=st.integers(1, 30))
    @relaxed
    def test_gives_mean_one_over_the_mask_and_keeps_proportions(self, seed, rows, size):
        generator = torch.Generator().manual_seed(seed)
        coefficients = 0.1 + 5 * torch.rand(rows, size, generator=generator, dtype=torch.float64)
        mask = torch.rand(rows, size, generator=generator) < 0.7
        found = normalize(coefficients, mask)
        assert found[~mask].eq(0).all()
        for row, row_mask, row_coefficients in zip(found, mask, coefficients, strict=True):
            if row_mask.any():
                assert row[row_mask].mean().item() == pytest.approx(1, rel=1e-6)
                ratio = row[row_mask] / row_coefficients[row_mask]
                assert torch.allclose(ratio, ratio[:1], rtol=1e-12)

    def test_leaves_rows_without_weight_at_zero(self):
        mask = torch.tensor([[1, 1], [0, 0]])
        assert normalize(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), mask).eq(0).all()


def runs(row):
    """The turns of a mask: the columns of each contiguous run."""
    found, inside = [], False
    for column, kept in enumerate(row.tolist()):
        if kept and not inside:
            found.append([])
        if kept:
            found[-1].append(column)
        inside = bool(kept)
    return found


def batch(seed, rows, size, share):
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.rand(rows, size, generator=generator), torch.rand(rows, size, generator=generator) < share


class TestNormalizeTurns:
    @given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), size=st.integers(1, 30), share=st.floats(0, 1))
    @relaxed
    def test_gives_every_turn_what_it_gets_alone(self, seed, rows, size, share):
        coefficients, mask = batch(seed, rows, size, share)
        found = normalize_turns(coefficients, mask, mask)
        assert found[~mask].eq(0).all()
        for row, of_row, own in zip(found, coefficients, mask, strict=True):
            for turn in runs(own):
                alone = normalize(of_row[turn].unsqueeze(0), torch.ones(1, len(turn)))
                assert torch.allclose(row[turn], alone[0], rtol=1e-5)

    @given(seed=st.integers(0, 2**31), size=st.integers(2, 400), others=st.booleans())
    @relaxed
    def test_gives_a_completion_of_one_turn_what_normalize_gives_to_the_bit(self, seed, size, others):
        coefficients, mask = batch(seed, 3, size, 0.5)
        first, last = sorted(torch.randint(size, (2,), generator=torch.Generator().manual_seed(seed)).tolist())
        mask[0] = False
        mask[0, first : last + 1] = True
        if not others:
            mask[1:] = mask[0]
        weighed = mask * (coefficients > 1)
        found = normalize_turns(coefficients, weighed, mask)
        assert torch.equal(found[0], normalize(coefficients, weighed)[0])
        if not others:
            assert torch.equal(found, normalize(coefficients, weighed))

    def test_takes_the_mean_over_the_tokens_that_count(self):
        coefficients = torch.tensor([[1.0, 0.0, 3.0, 9.0, 0.0, 4.0]])
        policy = torch.tensor([[1, 1, 1, 0, 1, 1]])
        found = normalize_turns(coefficients, policy * (coefficients > 0), policy)
        assert torch.equal(found, torch.tensor([[0.5, 0.0, 1.5, 0.0, 0.0, 1.0]]))

    def test_leaves_a_turn_without_weight_at_zero(self):
        mask = torch.tensor([[1, 0, 1, 1]])
        found = normalize_turns(torch.tensor([[0.0, 1.0, 1.0, 3.0]]), mask, mask)
        assert torch.equal(found, torch.tensor([[0.0, 0.0, 0.5, 1.5]]))

    def test_is_chosen_by_the_scope(self):
        coefficients, mask = batch(0, 2, 20, 0.6)
        for scope, expected in (("completion", normalize), ("turn", lambda c, m: normalize_turns(c, m, m))):
            assert torch.equal(normalize_within(scope, coefficients, mask, mask), expected(coefficients, mask))
        assert not torch.equal(normalize_turns(coefficients, mask, mask), normalize(coefficients, mask))


class TestScope:
    @pytest.mark.parametrize("rule", ["entropy", "released", "rest_trl.regions.ablations.no_reasoning"])
    def test_reaches_the_rules_that_bring_to_a_mean(self, rule):
        assert bind_rule({"rule": rule, "scope": "turn"}).keywords == {"scope": "turn"}

    @pytest.mark.parametrize("rule", ["uniform", "rest_trl.regions.ablations.token_entropy"])
    def test_is_refused_for_a_rule_that_does_not_know_it(self, rule):
        bind_rule({"rule": rule})
        with pytest.raises(ValueError, match=f"the rule '{rule}' of the coefficients has no argument 'scope'"):
            bind_rule({"rule": rule, "scope": "turn"})

    def test_of_another_name_is_refused(self):
        with pytest.raises(ValueError, match="unknown scope='group': choose one of completion, turn"):
            bind_rule({"scope": "group"})
