import pytest
import torch

from rest_trl import Part, Region
from rest_trl.regions import entropy_coefficients, to_regions
from rest_trl.regions.ablations import call_tokens_only, no_reasoning, token_entropy
from rest_trl.regions.rules import bind_rule, needs_forward_pass


NAN = float("nan")
PART_IDS = torch.tensor([[Part.REASONING, Part.TAG, Part.TOOL_NAME, Part.PARAMETER_VALUE, Part.RESPONSE, Part.NONE]])
INPUTS = {
    "mask": (PART_IDS != Part.NONE).long(),
    "part_ids": PART_IDS,
    "region_ids": to_regions(PART_IDS),
    "region_entropies": torch.tensor([NAN, 0.1, 0.5, 0.9, 0.7, 0.3]),
    "region_shares": torch.tensor([0.0, 0.2, 0.2, 0.2, 0.2, 0.2]),
    "progress": 0.5,
    "step": 3,
}


NO_CURRICULUM = {"format_slope": 0.0, "parameters_slope": 0.0, "reasoning_slope": 0.0}


@pytest.mark.parametrize(
    ("rule", "removed"),
    [(no_reasoning, {Region.REASONING}), (call_tokens_only, {Region.REASONING, Region.RESPONSE})],
)
@pytest.mark.parametrize("changes", [{}, NO_CURRICULUM, {"surrogate": "reciprocal"}])
def test_regions_are_removed_and_the_others_keep_their_coefficients(rule, removed, changes):
    whole = entropy_coefficients(**INPUTS, **changes)
    coefficients = rule(**INPUTS, **changes)
    gone = torch.isin(INPUTS["region_ids"], torch.tensor([int(region) for region in removed]).char())
    assert gone.any()
    assert (coefficients[gone] == 0).all()
    assert torch.equal(coefficients[~gone], whole[~gone])


class TestTokenEntropy:
    ENTROPIES = torch.tensor([[0.1, 0.5, 2.0, 0.7, 0.7, 5.0], [1.0, 1.0, 1.0, 1.0, 9.0, 9.0]])
    MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])

    def coefficients(self, **changes):
        return token_entropy(mask=self.MASK, entropies=self.ENTROPIES, progress=0.0, **changes)

    def test_mean_is_one_over_each_completion(self):
        coefficients = self.coefficients()
        torch.testing.assert_close(coefficients.sum(1), self.MASK.sum(1).float())
        assert (coefficients[self.MASK == 0] == 0).all()

    def test_uncertain_tokens_weigh_less_and_equal_ones_the_same(self):
        first, second = self.coefficients()
        assert first[0] > first[1] > first[2]
        assert first[3] == first[4]
        torch.testing.assert_close(second[:4], torch.ones(4))

    def test_weights_follow_the_surrogate_within_their_bounds(self):
        changes = {"minimum": 0.0, "maximum": 1e6}
        first = self.coefficients(**changes)[0, :5]
        torch.testing.assert_close(
            first / first[0], (1 - (-self.ENTROPIES[0, 0]).exp()) / (1 - (-self.ENTROPIES[0, :5]).exp())
        )
        first = self.coefficients(surrogate="reciprocal", **changes)[0, :5]
        torch.testing.assert_close(first / first[0], self.ENTROPIES[0, 0] / self.ENTROPIES[0, :5])

    def test_asks_for_entropies(self):
        assert needs_forward_pass(token_entropy)
        assert not needs_forward_pass(no_reasoning)


@pytest.mark.parametrize("rule", ["no_reasoning", "call_tokens_only"])
def test_removals_take_the_arguments_of_the_rule_entropy(rule):
    bound = bind_rule({"rule": f"rest_trl.regions.ablations.{rule}", "maximum": 2.0})
    assert bound.keywords == {"maximum": 2.0}


def test_rule_without_settings_is_left_as_it_is():
    def rule(mask, **kwargs):
        return mask

    assert bind_rule(rule) is rule
