import numpy as np
import pytest
from turn_toy import GENERATIONS, WIDTH, Toy

from rest_trl.credit import Segment
from rest_trl.credit.turns import rewards_to_go, turn_segments


def largest_z(gradients, exact):
    """The largest distance of the mean from the exact gradient, in standard errors, over all coordinates."""
    errors = gradients.std(0, ddof=1) / np.sqrt(len(gradients))
    moved = errors > 0
    return np.abs((gradients.mean(0) - exact)[moved] / errors[moved]).max()


class TestUnbiasedness:
    """About 90 coordinates: the largest of as many standard normal values exceeds 4.5 once in 1,600 tries, 8 never."""

    GROUPS = 3000

    @pytest.fixture(scope="class")
    @classmethod
    def toy(cls):
        return Toy()

    @pytest.mark.parametrize("estimator", ["turn_credit", "turn_credit_without_guess", "outcome_only"])
    def test_the_mean_of_many_groups_is_the_exact_gradient(self, toy, estimator):
        assert largest_z(toy.gradients(estimator, self.GROUPS), toy.exact_gradient()) < 4.5

    def test_small_groups_are_exact_as_well(self, toy):
        # Of two completions often one alone reaches the second turn.
        gradients = toy.gradients("turn_credit", 4 * self.GROUPS, generations=2)
        assert largest_z(gradients, toy.exact_gradient()) < 4.5

    def test_is_exact_where_what_is_left_depends_on_what_was_earned(self):
        toy = Toy(pays_rest=True)
        assert largest_z(toy.gradients("turn_credit", self.GROUPS), toy.exact_gradient()) < 4.5
        assert largest_z(toy.gradients("index_wise", self.GROUPS), toy.exact_gradient()) > 8

    def test_a_discount_weighs_what_follows_and_nothing_else(self, toy):
        gradients = toy.gradients("turn_credit", self.GROUPS, discount=0.5)
        assert largest_z(gradients, toy.exact_gradient(discount=0.5)) < 4.5
        assert largest_z(gradients, toy.exact_gradient()) > 8

    @pytest.mark.parametrize("estimator", ["index_wise", "index_wise_scaled"])
    def test_the_index_wise_baseline_is_biased(self, toy, estimator):
        assert largest_z(toy.gradients(estimator, self.GROUPS), toy.exact_gradient()) > 8

    def test_the_index_wise_baseline_charges_the_mean_reward_of_a_turn_for_reaching_it(self, toy):
        """As derived: its mean is the gradient of the return less the mean reward of second turns, per second turn."""
        has_second = toy.lengths > WIDTH
        reached = toy.probabilities @ has_second
        mean = sum(p * r[1] for p, r in zip(toy.probabilities, toy.turn_rewards, strict=True) if len(r) > 1) / reached
        charged = mean * (1 - (1 - reached) ** (GENERATIONS - 1))  # alone in the second turn nothing is subtracted
        to_reach = (toy.probabilities * has_second) @ toy.scores.sum(1)
        gradients = toy.gradients("index_wise", self.GROUPS)
        assert largest_z(gradients, toy.exact_gradient() - charged * to_reach) < 4.5

    @pytest.mark.parametrize(("pays_rest", "factor"), [(False, 0.95), (True, 1.05)])
    def test_the_variance_is_below_that_of_the_outcome_alone_or_near_it(self, pays_rest, factor):
        toy = Toy(pays_rest=pays_rest)
        credited, outcome = (toy.gradients(name, 1000).var(0).sum() for name in ("turn_credit", "outcome_only"))
        assert credited < factor * outcome


class TestTurnSegments:
    SPANS = [(0, 4), (6, 9), (12, 13)]

    def test_decide_a_turn_behind_it(self):
        assert turn_segments([1.0, 0.5, 2.0], self.SPANS) == [
            Segment(0, 4, 0, 0.0, 1.0, shrinkage=2.0),
            Segment(6, 9, 1, 1.0, 0.5, shrinkage=2.0),
            Segment(12, 13, 2, 1.5, 2.0, shrinkage=2.0),
        ]

    def test_of_an_outcome_decide_nothing_before_the_end(self):
        segments = turn_segments(2.0, self.SPANS, discount=0.1)
        assert [segment.decided for segment in segments] == [0.0] * 3
        assert [segment.part for segment in segments] == [0.0, 0.0, 2.0]

    def test_with_a_discount_leave_undecided_what_it_leaves(self):
        rewards = [1.0, 0.5, 2.0]
        segments = turn_segments(rewards, self.SPANS, discount=0.9)
        assert [segment.decided for segment in segments] == [0.0, 1.0, 1.5]
        undecided = [sum(rewards) - segment.decided - segment.discounted for segment in segments]
        assert undecided == pytest.approx([3.07, 2.3, 2.0])
        assert rewards_to_go(rewards, 0.9) == pytest.approx(undecided)

    @pytest.mark.parametrize("rewards", [2.0, []])
    def test_of_a_completion_without_turns_are_none(self, rewards):
        assert turn_segments(rewards, []) == []

    def test_need_a_span_for_every_reward(self):
        with pytest.raises(ValueError, match="zip"):
            turn_segments([1.0, 2.0], self.SPANS)
