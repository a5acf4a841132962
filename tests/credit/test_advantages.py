import itertools

import numpy as np
import pytest
import torch
from timing import LARGEST_RATIO, ratio_of_times
from trl.trainer.utils import nanstd

from rest_trl.credit import Segment, credited_advantages


class Toy:
    """
    A policy of three tokens over three choices, of which every gradient can be written down.

    The first token is right if it is 0, the second likewise; each is a part of the reward. A third token of 2 makes
    the completion unparseable: its reward is the minimum, whatever was right before.
    """

    LENGTH, CHOICES, MINIMUM = 3, 3, -1.0

    def __init__(self, seed=0, breaks=0.0):
        rng = np.random.default_rng(seed)
        self.prefixes = [p for n in range(self.LENGTH) for p in itertools.product(range(self.CHOICES), repeat=n)]
        self.index = {prefix: row for row, prefix in enumerate(self.prefixes)}
        logits = rng.normal(size=(len(self.prefixes), self.CHOICES))
        logits[[len(prefix) == 2 for prefix in self.prefixes], 2] += breaks
        self.probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def sample(self, rng):
        tokens = []
        for _ in range(self.LENGTH):
            tokens.append(int(rng.choice(self.CHOICES, p=self.probabilities[self.index[tuple(tokens)]])))
        return tuple(tokens)

    def parts(self, tokens):
        return [float(tokens[0] == 0), 2.0 * (tokens[1] == 0)]

    def reward(self, tokens):
        return self.MINIMUM if tokens[2] == 2 else sum(self.parts(tokens))

    def score(self, tokens, position):
        """Gradient of the log-probability of one token with respect to all logits."""
        gradient = np.zeros_like(self.probabilities)
        row = self.index[tokens[:position]]
        gradient[row] = -self.probabilities[row]
        gradient[row, tokens[position]] += 1
        return gradient

    def exact_gradient(self):
        total = np.zeros_like(self.probabilities)
        for tokens in itertools.product(range(self.CHOICES), repeat=self.LENGTH):
            probability = np.prod([self.probabilities[self.index[tokens[:t]], tokens[t]] for t in range(self.LENGTH)])
            scores = sum(self.score(tokens, position) for position in range(self.LENGTH))
            total += probability * self.reward(tokens) * scores
        return total

    def segments(self, tokens, parseable_only=False):
        if parseable_only and tokens[2] == 2:
            return []
        first, second = self.parts(tokens)
        return [
            Segment(0, 1, "first", 0.0, first),
            Segment(1, 2, "second", first, second),
            Segment(2, 3, "third", first + second, 0.0),
        ]


def estimates(toy, num_groups, num_generations=4, seed=0, parseable_only=False, credit=True, **arguments):
    """The gradient's estimate of every group."""
    rng = np.random.default_rng(seed)
    gradients = []
    for _ in range(num_groups):
        group = [toy.sample(rng) for _ in range(num_generations)]
        rewards = torch.tensor([[toy.reward(tokens)] for tokens in group])
        advantages = rewards[:, 0] - rewards.mean()
        segments = [[toy.segments(tokens, parseable_only) if credit else []] for tokens in group]
        values = credited_advantages(
            advantages,
            rewards,
            torch.ones(1),
            segments,
            num_generations,
            toy.LENGTH,
            scale_rewards="none",
            leave_one_out=True,
            **arguments,
        ).numpy()
        gradients.append(
            sum(
                values[row, position] * toy.score(tokens, position)
                for row, tokens in enumerate(group)
                for position in range(toy.LENGTH)
            )
            / num_generations
        )
    return np.stack(gradients)


def largest_z(gradients, exact):
    """The largest distance of the mean from the exact gradient, in standard errors, over all coordinates."""
    errors = gradients.std(0, ddof=1) / np.sqrt(len(gradients))
    moved = errors > 0
    return np.abs((gradients.mean(0) - exact)[moved] / errors[moved]).max()


class TestUnbiasedness:
    """39 coordinates: the largest of as many standard normal values exceeds 4 once in 400 tries, 6 never."""

    GROUPS = 3000

    @pytest.fixture(scope="class")
    @classmethod
    def toy(cls):
        return Toy()

    @pytest.mark.parametrize("credit", [True, False])
    def test_the_mean_of_many_groups_is_the_exact_gradient(self, toy, credit):
        assert largest_z(estimates(toy, self.GROUPS, credit=credit), toy.exact_gradient()) < 4

    def test_a_baseline_without_the_unparseable_completions_is_biased(self, toy):
        assert largest_z(estimates(toy, self.GROUPS, parseable_only=True), toy.exact_gradient()) > 6

    def test_local_credit_is_biased_as_stated(self, toy):
        assert largest_z(estimates(toy, self.GROUPS, local=True), toy.exact_gradient()) > 6

    def test_the_variance_of_later_tokens_is_lower_than_that_of_grpo(self):
        # Seldom unparseable: a lost part is undecided again, and where that is frequent there is less to win.
        toy = Toy(breaks=-4.0)
        of_length = np.array([len(prefix) for prefix in toy.prefixes])
        credited, uniform = (estimates(toy, 500, credit=credit).var(0).sum(1) for credit in (True, False))
        assert credited[of_length == 0].sum() == pytest.approx(uniform[of_length == 0].sum())
        assert credited[of_length == 1].sum() < 0.9 * uniform[of_length == 1].sum()
        assert credited[of_length == 2].sum() < 0.3 * uniform[of_length == 2].sum()


def trl_advantages(rewards, weights, num_generations, scale_rewards, aggregation):
    """TRL's formulas; tests/test_trainer.py holds the trainer itself against them."""
    grouped = rewards.view(-1, num_generations, rewards.size(1))
    if aggregation == "normalize_then_sum":
        values = (grouped - grouped.nanmean(1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
        sums = (values.view(rewards.shape) * weights).nansum(1)
        return (sums - sums.nanmean()) / (nanstd(sums) + 1e-4)
    sums = (rewards * weights).nansum(1)
    centred = sums - sums.view(-1, num_generations).mean(1).repeat_interleave(num_generations)
    if scale_rewards == "none":
        return centred
    if scale_rewards == "batch":
        return centred / (nanstd(sums) + 1e-4)
    spread = nanstd(sums.view(-1, num_generations), dim=1).repeat_interleave(num_generations)
    return centred / (spread + 1e-4)


SCALES = [
    ("group", "sum_then_normalize"),
    ("batch", "sum_then_normalize"),
    ("none", "sum_then_normalize"),
    ("group", "normalize_then_sum"),
]


class TestCreditedAdvantages:
    WEIGHTS = torch.tensor([1.0, 0.5])

    @pytest.fixture
    def rewards(self):
        return torch.randn(8, 2, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize(("scale", "aggregation"), SCALES)
    def test_without_parts_are_those_of_grpo_to_the_bit(self, rewards, scale, aggregation):
        advantages = trl_advantages(rewards, self.WEIGHTS, 4, scale, aggregation)
        found = credited_advantages(
            advantages, rewards, self.WEIGHTS, [[[], []]] * 8, 4, 5, scale_rewards=scale, aggregation=aggregation
        )
        assert torch.equal(found, advantages.unsqueeze(1).expand(8, 5))

    @pytest.mark.parametrize("leave_one_out", [False, True])
    @pytest.mark.parametrize(("scale", "aggregation"), SCALES)
    def test_of_one_status_with_nothing_decided_are_those_of_grpo(self, rewards, scale, aggregation, leave_one_out):
        advantages = trl_advantages(rewards, self.WEIGHTS, 4, scale, aggregation)
        segments = [[[Segment(1, 3, "all", 0.0)], []]] * 8
        arguments = {"scale_rewards": scale, "aggregation": aggregation, "leave_one_out": leave_one_out}
        found = credited_advantages(advantages, rewards, self.WEIGHTS, segments, 4, 5, **arguments)
        if aggregation == "sum_then_normalize":
            assert torch.allclose(found, found[:, :1].expand(8, 5), atol=1e-5)
        elif not leave_one_out:
            assert torch.allclose(found, advantages.unsqueeze(1).expand(8, 5), atol=1e-5)

    def test_credit_what_is_undecided_against_the_same_status(self):
        rewards = torch.tensor([[5.0, 1.0], [4.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
        segments = [
            [[Segment(0, 2, "a", 1.0), Segment(2, 3, "b", 3.0)], []],
            [[Segment(0, 1, "a", 2.0)], []],
            [[Segment(1, 4, "c", 0.5)], []],
            [[], []],
        ]
        root = torch.tensor([1.0, 2.0, 3.0, 4.0])
        found = credited_advantages(root, rewards, torch.tensor([1.0, 2.0]), segments, 4, 4, scale_rewards="none")
        # In `a`: undecided 5 + 2 - 1 = 6 and 4 - 2 = 2, baseline 4. `b` and `c` are alone: nothing to compare with.
        expected = [[2.0, 2.0, 0.0, 1.0], [-2.0, 2.0, 2.0, 2.0], [3.0, 0.0, 0.0, 0.0], [4.0] * 4]
        assert torch.equal(found, torch.tensor(expected))
        found = credited_advantages(
            root, rewards, torch.tensor([1.0, 2.0]), segments, 4, 4, scale_rewards="none", leave_one_out=True
        )
        # Against the other one alone; without another, as the tokens that have no segment.
        root = root * 4 / 3
        expected = torch.stack([root] * 4, 1)
        expected[0, :2], expected[1, 0] = 4.0, -4.0
        assert torch.allclose(found, expected)

    def test_local_credit_is_the_own_part_against_the_same_status(self):
        segments = [[[Segment(0, 1, "a", 0.0, own)]] for own in (1.0, 0.0, 0.0, 0.0)]
        rewards = torch.tensor([[5.0], [9.0], [1.0], [0.0]])
        found = credited_advantages(
            torch.zeros(4), rewards, torch.ones(1), segments, 4, 1, scale_rewards="none", local=True
        )
        assert torch.equal(found[:, 0], torch.tensor([0.75, -0.25, -0.25, -0.25]))

    @pytest.mark.parametrize(("scale", "aggregation"), [SCALES[0], SCALES[3]])
    def test_of_groups_without_spread_are_zero(self, scale, aggregation):
        rewards = torch.tensor([[2.0], [2.0], [2.0], [2.0], [1.0], [0.0], [2.0], [4.0]])
        segments = [[[Segment(0, 1, "a", float(row % 2))]] for row in range(8)]
        advantages = trl_advantages(rewards, torch.ones(1), 4, scale, aggregation)
        found = credited_advantages(
            advantages, rewards, torch.ones(1), segments, 4, 2, scale_rewards=scale, aggregation=aggregation
        )
        # TRL's own batch normalisation leaves the rounding of a mean there.
        assert found[:4].abs().max() < 1e-6
        assert found[4:, 0].ne(0).any()

    @pytest.mark.parametrize(("scale", "aggregation"), [SCALES[0], SCALES[3]])
    def test_the_rounding_of_a_sum_is_no_spread(self, scale, aggregation):
        # In a real run the parts of equal rewards, added in other orders, gave advantages of thousands.
        rewards = torch.tensor([[2.2], [2.2], [2.2], [2.2 + 2**-21], [1.0], [0.0], [2.0], [4.0]])
        assert rewards[:4].std() > 1e-8
        segments = [[[Segment(0, 1, "a", float(row % 2))]] for row in range(8)]
        advantages = trl_advantages(rewards, torch.ones(1), 4, scale, aggregation)
        found = credited_advantages(
            advantages, rewards, torch.ones(1), segments, 4, 1, scale_rewards=scale, aggregation=aggregation
        )
        assert found[:4].abs().max() < 0.01
        assert found[4:, 0].ne(0).any()

    def test_of_groups_do_not_mix(self, rewards):
        segments = [[[Segment(0, 1, "a", 0.3 * row)], []] for row in range(8)]
        advantages = trl_advantages(rewards, self.WEIGHTS, 4, "group", "sum_then_normalize")
        both = credited_advantages(advantages, rewards, self.WEIGHTS, segments, 4, 2)
        alone = [
            credited_advantages(advantages[half], rewards[half], self.WEIGHTS, segments[half], 4, 2)
            for half in (slice(4), slice(4, 8))
        ]
        assert torch.equal(both, torch.cat(alone))

    def test_unscored_completions_stay_out_of_the_baseline_and_get_nothing(self):
        rewards = torch.tensor([[3.0], [1.0], [float("nan")], [2.0]])
        segments = [[[Segment(0, 1, "a", 0.0)]]] * 4
        advantages = torch.tensor([1.0, -1.0, 0.0, 0.0])
        found = credited_advantages(advantages, rewards, torch.ones(1), segments, 4, 1, scale_rewards="none")
        assert torch.equal(found[:, 0], advantages)

    def test_segments_of_two_rewards_have_a_joint_status(self):
        rewards = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
        segments = [
            [[Segment(0, 2, "a", 1.0)], [Segment(1, 3, "x", 0.5)]],
            [[Segment(0, 2, "a", 0.0)], [Segment(1, 3, "y", 0.5)]],
        ]
        found = credited_advantages(torch.zeros(2), rewards, torch.ones(2), segments, 2, 3, scale_rewards="none")
        # Column 0 has one status: undecided 4 - 1 = 3 and 3. In the others the statuses differ, each alone.
        assert torch.equal(found, torch.zeros(2, 3))
        segments[1][1] = [Segment(1, 3, "x", 0.0)]
        found = credited_advantages(torch.zeros(2), rewards, torch.ones(2), segments, 2, 3, scale_rewards="none")
        assert torch.equal(found, torch.tensor([[0.0, -0.25, 0.25], [0.0, 0.25, -0.25]]))

    def test_a_completion_is_compared_with_those_that_will_have_no_segments_of_another_reward(self):
        # Whether a call follows is decided later, so the first token must be compared with all completions.
        rewards = torch.tensor([[4.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
        whole = [Segment(0, 3, "valid", 0.0)]
        segments = [[[Segment(1, 2, "value", 0.0)] if row < 2 else [], whole] for row in range(4)]
        found = credited_advantages(torch.zeros(4), rewards, torch.ones(2), segments, 4, 3, scale_rewards="none")
        assert torch.equal(found[:, 0], rewards.sum(1) - rewards.sum(1).mean())
        assert found[:, 1].tolist() == [2.0, -2.0, -1.5, -1.5]

    @pytest.mark.parametrize("leave_one_out", [False, True])
    @pytest.mark.parametrize("num_rewards", [1, 2])
    def test_a_status_that_comes_again_does_not_count_twice(self, num_rewards, leave_one_out):
        rewards = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])[:, :num_rewards]
        if num_rewards == 1:
            again = [Segment(0, 1, "a", 0.0), Segment(2, 3, "a", 2.0)]
            segments = [[again], [[Segment(0, 1, "a", 0.0)]], [[Segment(0, 1, "a", 0.0)]]]
        else:  # between the segments of one reward, the joint status is that before them
            segments = [[[Segment(1, 2, "a", 0.0)] if row == 0 else [], [Segment(0, 3, "b", 0.0)]] for row in range(3)]
        found = credited_advantages(
            torch.zeros(3),
            rewards,
            torch.ones(num_rewards),
            segments,
            3,
            3,
            scale_rewards="none",
            leave_one_out=leave_one_out,
        )
        others = torch.tensor([0.5, 1.5, 2.0]) if leave_one_out else torch.full((3,), 4 / 3)
        assert torch.allclose(found[:, 0], rewards[:, 0] - others)

    def test_segments_without_a_token_are_in_no_baseline(self):
        rewards = torch.tensor([[3.0], [1.0]])
        segments = [[[Segment(0, 1, "a", 0.0)]], [[Segment(1, 1, "a", 0.0)]]]
        found = credited_advantages(torch.zeros(2), rewards, torch.ones(1), segments, 2, 1, scale_rewards="none")
        assert torch.equal(found, torch.zeros(2, 1))

    def test_the_completion_is_left_out_of_those_that_have_a_reward(self):
        rewards = torch.tensor([[3.0], [0.0], [0.0], [torch.nan]])
        advantages = torch.tensor([2.0, -1.0, -1.0, 0.0])  # GRPO's, over the three that have one
        found = credited_advantages(
            advantages, rewards, torch.ones(1), [[[]]] * 4, 4, 1, scale_rewards="none", leave_one_out=True
        )
        assert found.flatten().tolist() == [3.0, -1.5, -1.5, 0.0]

    @pytest.mark.parametrize("leave_one_out", [False, True])
    @pytest.mark.parametrize("shrinkage", [0.0, 2.0])
    def test_a_missing_reward_counts_as_trl_counts_it(self, shrinkage, leave_one_out):
        # One status with nothing decided is GRPO, here with rewards that a function gave to some completions only.
        rewards = torch.tensor([[1.0, torch.nan], [0.0, 5.0], [0.0, 5.0], [1.0, 4.0]])
        for aggregation in ("sum_then_normalize", "normalize_then_sum"):
            expected = trl_advantages(rewards, torch.ones(2), 4, "group", aggregation)
            segments = [[[Segment(0, 1, "a", 0.0, shrinkage=shrinkage)], []]] * 4
            found = credited_advantages(
                torch.full((4,), torch.nan),
                rewards,
                torch.ones(2),
                segments,
                4,
                1,
                aggregation=aggregation,
                leave_one_out=leave_one_out,
            )[:, 0]
            if not leave_one_out:
                assert torch.allclose(found, expected, atol=1e-5)
            elif aggregation == "sum_then_normalize":
                assert torch.allclose(found, expected * 4 / 3, atol=1e-5)
            else:  # each reward leaves one out of as many as it has
                assert found.isfinite().all()

    def test_segments_of_two_rewards_need_no_order(self):
        rewards = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
        values = [Segment(0, 1, "a", 0.0), Segment(1, 2, "b", 1.0), Segment(3, 4, "c", 2.0)]
        turns = [[Segment(0, 4, number, 0.5)] for number in (0, 0)]
        found, reversed_ = (
            credited_advantages(torch.zeros(2), rewards, torch.ones(2), [[order, turns[0]], [values, turns[1]]], 2, 4)
            for order in (values, values[::-1])
        )
        assert torch.equal(found, reversed_)

    def test_take_linear_time_in_the_segments_of_two_rewards(self):
        def credit(size):
            values = [Segment(2 * column, 2 * column + 1, ("value", column), 0.0) for column in range(size)]
            turns = [Segment(8 * number, 8 * number + 7, number, 0.0) for number in range(size // 4)]
            segments, advantages = [[values, turns]] * 2, torch.tensor([1.0, -1.0])
            credited_advantages(advantages, torch.eye(2), torch.ones(2), segments, 2, 2 * size)

        assert ratio_of_times(credit, 1000, 4000) < LARGEST_RATIO
