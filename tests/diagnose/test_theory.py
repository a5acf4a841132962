import contextlib
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from rest_trl import Region
from rest_trl.lab.diagnose.theory import theorem_estimates, theorem_terms
from rest_trl.lab.diagnose.token_weights import Group, completion_logits, token_facts
from rest_trl.tool_calls import Part


VOCABULARY, LENGTH = 4, 3


class Table(torch.nn.Module):
    """A policy with one logit for each pair of a token and the one before it: all its completions can be listed."""

    def __init__(self, spread=1.0, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.nn.Parameter(spread * torch.randn(VOCABULARY, VOCABULARY, generator=generator))

    def forward(self, input_ids, attention_mask, logits_to_keep, use_cache):
        return SimpleNamespace(logits=self.logits[input_ids][:, -logits_to_keep:])


def listed(first=0, length=LENGTH):
    """All completions of a prompt as one group."""
    ids = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=length)))
    ones = torch.ones_like(ids)
    parts = torch.full_like(ids, Part.REASONING).to(torch.int8)
    parts[:, 0] = Part.TOOL_NAME
    prompt = torch.full((len(ids), 1), first)
    return Group(prompt, torch.ones_like(prompt), ids, ones, ones, parts, {"completion": torch.ones(ids.shape)})


def probabilities(model, group):
    logits = completion_logits(model, group, 1.0)
    return logits.log_softmax(-1).gather(-1, group.completion_ids.unsqueeze(-1)).squeeze(-1).sum(1).exp().detach()


class TestLemma2:
    @pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
    def test_holds_for_a_policy_whose_tokens_can_be_listed(self, spread):
        model, group = Table(spread), listed(length=1)
        facts = token_facts(completion_logits(model, group, 1.0).detach(), group.completion_ids)
        probs = probabilities(model, group)
        scores = torch.eye(VOCABULARY) - probs
        assert torch.allclose(facts.squares[:, 0], scores.square().sum(1))
        mean = (probs * facts.squares[:, 0]).sum().item()
        assert mean == pytest.approx(facts.expected[0, 0].item(), rel=1e-5)
        assert (facts.expected <= facts.bound + 1e-6).all()
        entropy = -(probs * probs.log()).sum().item()
        assert facts.entropies[0, 0].item() == pytest.approx(entropy, rel=1e-5)

    def test_is_attained_by_uniform_distributions(self):
        facts = token_facts(torch.zeros(1, 1, 5), torch.zeros(1, 1, dtype=torch.long))
        assert facts.expected.item() == pytest.approx(facts.bound.item()) == pytest.approx(0.8)


def exact_terms(model, advantages):
    """Variance of the gradient of one completion and the bound of Theorem 1, by listing all completions; all w 1."""
    group = listed()
    probs = probabilities(model, group)
    logits = completion_logits(model, group, 1.0)
    log_probs = logits.log_softmax(-1).gather(-1, group.completion_ids.unsqueeze(-1)).squeeze(-1)
    gradients = torch.stack(
        [torch.autograd.grad(row.mean(), model.logits, retain_graph=True)[0].flatten() for row in log_probs]
    )
    gradients = advantages.unsqueeze(1) * gradients
    mean = (probs.unsqueeze(1) * gradients).sum(0)
    variance = (probs * gradients.square().sum(1)).sum() - mean.square().sum()
    facts = token_facts(logits, group.completion_ids)
    # Each logit is one parameter, so the squared Jacobian of a position is the size of the vocabulary.
    betas = (probs.unsqueeze(1) * VOCABULARY * facts.bound.detach()).sum(0)
    bound = (probs * advantages.square()).sum() * betas.sum() / LENGTH**2
    return variance.item(), bound.item()


class TestTheorem1:
    @pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
    def test_holds_for_advantages_that_do_not_depend_on_the_tokens(self, spread):
        # An advantage of 1 or -1 by chance has the same variance as 1, because the mean of the score is 0.
        variance, bound = exact_terms(Table(spread), torch.ones(VOCABULARY**LENGTH))
        assert 0 < variance <= bound

    def test_fails_where_the_reward_is_for_a_rare_token(self):
        # The square of the advantage is large exactly where that of the score is, which the proof leaves out.
        model = Table()
        with torch.no_grad():
            model.logits.zero_()[:, 0] = 12.0
        group = listed()
        rewards = (group.completion_ids == 1).any(1).float()
        advantages = rewards - (probabilities(model, group) * rewards).sum()
        variance, bound = exact_terms(model, advantages)
        assert variance > 5 * bound

    @pytest.mark.parametrize(("lengths", "expected"), [((2, 2), 0.125), ((2, 3), 0.25 * (1 / 4 + 1 / 9))])
    def test_needs_completions_of_one_length(self, lengths, expected):
        # One parameter at 0, so that tokens are coins; the advantage is a coin, too. The first token chooses the sign
        # with which the second one depends on the parameter; the second one chooses the length. A third one is
        # certain. Where the gradients of the two add up, the completion is short.
        parameter = torch.zeros((), requires_grad=True)
        squares, bounds = [], []
        for first, second in itertools.product((0, 1), repeat=2):
            slopes = torch.tensor([1.0, 1.0 if first else -1.0])
            logits = parameter * torch.outer(slopes, torch.tensor([-0.5, 0.5]))
            ids = torch.tensor([first, second])
            log_probs = logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1))
            length = lengths[0] if second else lengths[1]
            gradient = torch.autograd.grad(log_probs.sum() / length, parameter)[0]
            jacobians = torch.tensor([0.5, 0.5])  # squares of their Frobenius norms
            facts = token_facts(logits.detach().unsqueeze(0), ids.unsqueeze(0))
            squares.append(gradient.square())
            bounds.append((jacobians * facts.bound[0]).sum() / length**2)
        # The square of the advantage is 1 and its mean 0, so the variance is the mean of the squares.
        variance, bound = torch.stack(squares).mean().item(), torch.stack(bounds).mean().item()
        assert variance == pytest.approx(0.125) and bound == pytest.approx(expected)
        assert (variance <= bound * (1 + 1e-6)) == (lengths == (2, 2))


class TestTerms:
    def test_are_those_of_a_policy_whose_jacobian_is_known(self):
        # Contexts 0, 1, 2 and 3 follow one another, so that positions share no parameter and the signs cancel exactly.
        model = Table(spread=2.0)
        group = listed()
        row = next(i for i, ids in enumerate(group.completion_ids.tolist()) if ids == [1, 2, 3])
        group = group.rows(slice(row, row + 1))
        group.advantages["completion"] *= -1.5
        facts = token_facts(completion_logits(model, group, 1.0).detach(), group.completion_ids)
        terms = theorem_terms(model, [group], [facts], 1.0, contextlib.nullcontext, torch.Generator().manual_seed(0))
        scores = facts.squares.sum().item() / LENGTH**2
        assert terms.scores.item() == pytest.approx(scores, rel=1e-5)
        assert terms.squares.item() == pytest.approx(2.25 * scores, rel=1e-5)
        assert terms.orthogonal.item() == pytest.approx(2.25 * scores, rel=1e-5)
        assert terms.advantages.item() == 2.25
        bounds = VOCABULARY * facts.bound[0] / LENGTH**2
        assert terms.bounds[0, Region.TOOL_NAME].item() == pytest.approx(bounds[0].item(), rel=1e-5)
        assert terms.bounds[0, Region.REASONING].item() == pytest.approx(bounds[1:].sum().item(), rel=1e-5)
        assert terms.weights[0, Region.REASONING].item() == pytest.approx(2 / LENGTH**2)

    def test_are_without_bias_where_positions_share_parameters(self):
        model, group = Table(spread=1.0), listed()
        row = group.completion_ids.tolist().index([0, 0, 0])  # the same context three times
        group = group.rows(slice(row, row + 1))
        facts = token_facts(completion_logits(model, group, 1.0).detach(), group.completion_ids)
        count = 400
        terms = theorem_terms(
            model, [group] * count, [facts] * count, 1.0, contextlib.nullcontext, torch.Generator().manual_seed(0)
        )
        for values, truth in (
            (terms.scores, facts.squares.sum().item() / LENGTH**2),
            (terms.bounds.sum(1), VOCABULARY * facts.bound.sum().item() / LENGTH**2),
        ):
            error = values.std() / math.sqrt(count)
            assert error > 0 and abs(values.mean() - truth) < 4 * error
        assert (terms.squares > 1.5 * terms.scores.mean()).all()  # three equal tokens are not orthogonal

    def test_give_the_theorem_from_sampled_groups(self):
        model, group = Table(), listed()
        sampled = torch.multinomial(
            probabilities(model, group), 64 * 8, replacement=True, generator=torch.Generator().manual_seed(0)
        )
        advantages = 2.0 * torch.randint(0, 2, (64 * 8, 1), generator=torch.Generator().manual_seed(1)) - 1
        groups, facts = [], []
        for start in range(0, len(sampled), 8):
            rows = sampled[start : start + 8]
            fields = (field[rows] for field in group[:-1])
            own = Group(*fields, {"completion": advantages[start : start + 8].expand(-1, LENGTH)})
            groups.append(own)
            facts.append(token_facts(completion_logits(model, own, 1.0).detach(), own.completion_ids))
        terms = theorem_terms(model, groups, facts, 1.0, contextlib.nullcontext, torch.Generator().manual_seed(2))
        steps = theorem_estimates(terms, signal=0.0).steps
        variance, bound = exact_terms(model, torch.ones(VOCABULARY**LENGTH))
        assert steps.low[0] <= variance <= steps.high[0] and steps.low[3] <= bound <= steps.high[3]
        # The advantage is independent, so the first two steps are equalities.
        assert steps.value[1:3].tolist() == pytest.approx([variance] * 2, rel=0.1)
