import itertools

import numpy as np
import pytest
import torch
from test_advantages import SCALES, Toy, largest_z, trl_advantages

from rest_trl.credit import Segment, branched_advantages, credited_advantages
from rest_trl.credit.scaling import has_spread


NO_SEGMENTS = [[[]]]
NUM_BRANCHES, BRANCH_SIZE = 3, 2


class BranchedToy(Toy):
    """The toy with its first token for reasoning; where that is 2, the completion is whole: nothing ends reasoning."""

    def continue_from(self, prefix, rng):
        tokens = list(prefix)
        while len(tokens) < self.LENGTH:
            tokens.append(int(rng.choice(self.CHOICES, p=self.probabilities[self.index[tuple(tokens)]])))
        return tuple(tokens)

    def branches(self, rng, sample_whole_anew=False):
        """Completions of a prompt, and the lengths of their prefixes."""
        group, lengths = [], []
        for _ in range(NUM_BRANCHES):
            prefix = self.sample(rng)[:1]
            first = self.continue_from(prefix, rng)
            if prefix[0] != 2:
                group += [first, *(self.continue_from(prefix, rng) for _ in range(BRANCH_SIZE - 1))]
                lengths += [1] * BRANCH_SIZE
            elif sample_whole_anew:
                group += [first, *(self.sample(rng) for _ in range(BRANCH_SIZE - 1))]
                lengths += [self.LENGTH] * BRANCH_SIZE
            else:
                group += [first] * BRANCH_SIZE
                lengths += [self.LENGTH] * BRANCH_SIZE
        return group, lengths


def estimates(toy, num_groups, with_parts=True, leave_one_out=True, sample_whole_anew=False):
    """The gradient's estimate of every group."""
    rng = np.random.default_rng(0)
    scores = {
        tokens: np.stack([toy.score(tokens, position) for position in range(toy.LENGTH)])
        for tokens in itertools.product(range(toy.CHOICES), repeat=toy.LENGTH)
    }
    gradients = []
    for _ in range(num_groups):
        group, lengths = toy.branches(rng, sample_whole_anew)
        values = branched_advantages(
            torch.tensor([[toy.reward(tokens)] for tokens in group]),
            torch.ones(1),
            [[toy.segments(tokens)[1:] if with_parts else []] for tokens in group],
            lengths,
            len(group),
            BRANCH_SIZE,
            toy.LENGTH,
            scale_rewards="none",
            leave_one_out=leave_one_out,
        ).numpy()
        gradients.append(
            sum(np.tensordot(row, scores[tokens], 1) for row, tokens in zip(values, group, strict=True)) / len(group)
        )
    return np.stack(gradients)


class TestUnbiasedness:
    """39 coordinates: the largest of as many standard normal values exceeds 4 once in 400 tries, 6 never."""

    GROUPS = 3000

    @pytest.fixture(scope="class")
    @classmethod
    def toy(cls):
        return BranchedToy()

    @pytest.mark.parametrize("with_parts", [True, False])
    def test_the_mean_of_many_groups_is_the_exact_gradient(self, toy, with_parts):
        assert largest_z(estimates(toy, self.GROUPS, with_parts), toy.exact_gradient()) < 4

    def test_with_the_own_share_the_gradients_of_both_kinds_of_tokens_shrink(self, toy):
        of_reasoning = np.array([prefix[:1] in ((), (2,)) for prefix in toy.prefixes])
        shrunk = np.where(of_reasoning, 1 - 1 / NUM_BRANCHES, 1 - 1 / BRANCH_SIZE)[:, None] * toy.exact_gradient()
        found = estimates(toy, self.GROUPS, with_parts=False, leave_one_out=False)
        assert largest_z(found, shrunk) < 4
        assert largest_z(found, toy.exact_gradient()) > 6

    def test_whole_completions_that_are_sampled_anew_are_biased(self, toy):
        found = estimates(toy, self.GROUPS, with_parts=False, sample_whole_anew=True)
        assert largest_z(found, toy.exact_gradient()) > 6


class TestBranchedAdvantages:
    WEIGHTS = torch.tensor([1.0, 0.5])

    @pytest.fixture
    def rewards(self):
        return torch.randn(16, 2, generator=torch.Generator().manual_seed(0))

    def of(self, rewards, lengths, size, segments=None, scale="group", aggregation="sum_then_normalize", **options):
        segments = segments or [[[], []]] * len(rewards)
        arguments = {"scale_rewards": scale, "aggregation": aggregation, **options}
        return branched_advantages(rewards, self.WEIGHTS, segments, lengths, 8, size, 3, **arguments)

    @pytest.mark.parametrize(("scale", "aggregation"), SCALES)
    def test_are_those_of_grpo_where_all_is_one_branch_or_each_is_its_own(self, rewards, scale, aggregation):
        expected = trl_advantages(rewards, self.WEIGHTS, 8, scale, aggregation).unsqueeze(1).expand(-1, 3)
        for lengths, size in (([0] * 16, 8), ([3] * 16, 1)):
            torch.testing.assert_close(self.of(rewards, lengths, size, None, scale, aggregation), expected)

    @pytest.mark.parametrize(("scale", "aggregation"), SCALES)
    def test_of_reasoning_is_the_mean_of_its_branch(self, rewards, scale, aggregation):
        grpo = trl_advantages(rewards, self.WEIGHTS, 8, scale, aggregation).view(-1, 4).mean(1)
        found = self.of(rewards, [1, 1, 1, 1, 2, 2, 2, 2] * 2, 4, None, scale, aggregation)
        torch.testing.assert_close(found[:, 0], grpo.repeat_interleave(4))
        assert torch.equal(found[4:8, 0], found[4:8, 1]) and not torch.equal(found[:4, 0], found[:4, 1])

    @pytest.mark.parametrize("leave_one_out", [True, False])
    def test_of_siblings_add_up_to_zero_behind_the_reasoning(self, rewards, leave_one_out):
        found = self.of(rewards, [1] * 16, 4, leave_one_out=leave_one_out)
        sums = found.view(-1, 4, 3).sum(1)
        torch.testing.assert_close(sums[:, 1:], torch.zeros_like(sums[:, 1:]), atol=1e-5, rtol=0)
        assert sums[:, 0].abs().min() > 0.1

    def test_compare_parts_among_siblings_only(self, rewards):
        parts = [[[Segment(1, 3, "status", float(row), 0.0)], []] for row in range(16)]
        found = self.of(rewards, [1] * 16, 4, parts, scale="none")
        undecided = (rewards @ self.WEIGHTS - torch.arange(16)).view(-1, 4)
        expected = (undecided - undecided.mean(1, keepdim=True)).flatten()
        torch.testing.assert_close(found[:, 1], expected)

    def test_are_the_same_for_the_rows_of_each_process(self, rewards):
        lengths = [1] * 8 + [2] * 8
        parts = [[[Segment(1, 2, row % 2, float(row), 0.0)], []] for row in range(16)]
        whole = self.of(rewards, lengths, 4, parts)
        halves = [self.of(rewards, lengths[rows], 4, parts, rows=rows) for rows in (slice(0, 4), slice(4, 16))]
        assert torch.equal(torch.cat(halves), whole)

    def test_of_rewards_that_are_missing_are_zero(self, rewards):
        rewards[0], rewards[4:8, 0], rewards[8:] = torch.nan, torch.nan, torch.nan
        for aggregation in ("sum_then_normalize", "normalize_then_sum"):
            found = self.of(rewards, [1] * 16, 4, aggregation=aggregation, leave_one_out=True)
            assert found.isfinite().all() and found[0].eq(0).all() and found[8:].eq(0).all()
            assert found[1:8].ne(0).all()

    @pytest.mark.parametrize("num_missing", [3, 4])
    def test_of_fewer_than_two_rewards_are_zero(self, num_missing):
        rewards = torch.tensor([[2.0]] * (4 - num_missing) + [[torch.nan]] * num_missing)
        arguments = rewards, torch.ones(1), NO_SEGMENTS * 4, [1] * 4, 4, 2, 2
        for scale, aggregation in SCALES[:1] + SCALES[3:]:
            found = branched_advantages(*arguments, scale_rewards=scale, aggregation=aggregation)
            assert torch.equal(found, torch.zeros(4, 2))
            assert not has_spread(rewards, torch.ones(1), 4, aggregation).any()

    def test_of_groups_without_spread_are_zero(self, rewards):
        rewards[:8] = rewards[0]
        found = self.of(rewards, [1] * 16, 4)
        assert found[:8].eq(0).all() and found[8:].ne(0).all()

    def test_of_one_branch_behind_no_reasoning_are_those_of_whole_completions(self, rewards):
        parts = [[[Segment(0, 2, row % 3, float(row % 2), 0.0)], []] for row in range(16)]
        grpo = trl_advantages(rewards, self.WEIGHTS, 8, *SCALES[0])
        expected = credited_advantages(grpo, rewards, self.WEIGHTS, parts, 8, 3)
        torch.testing.assert_close(self.of(rewards, [0] * 16, 8, parts), expected)
