from itertools import product

import numpy as np
import pytest
import torch
from test_trainer import LOSS_TYPES, make_trainer
from trl import GRPOTrainer

from rest_trl import ResTGRPOTrainer
from rest_trl.gold import gold_weights, with_gold_rows


G, REASONINGS, CALLS = 4, 3, 4


class Toy:
    """
    A policy that chooses a reasoning, and a call that depends on it. The first two calls are forms of the gold call.

    Its parameters are the logits of the reasonings and those of the calls after each, in one vector.
    """

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.randn(REASONINGS * (1 + CALLS), generator=generator, dtype=torch.float64)

    @staticmethod
    def log_probs(logits):
        first, second = logits[:REASONINGS], logits[REASONINGS:].view(REASONINGS, CALLS)
        return first.log_softmax(0), second.log_softmax(1)

    def exact_gradient(self, weight):
        """
        By enumeration, of the mean reward and `weight` times the mean of `log (1/G) sum_i pi(z_i) / mu(z_i) p_i`, the
        bound of the gold call's log-likelihood by G reasonings of the sampling policy `mu`.
        """
        logits = self.logits.clone().requires_grad_()
        reasonings, calls = self.log_probs(logits)
        reward = (reasonings.exp() * calls[:, :2].exp().sum(1)).sum()
        groups = torch.tensor(list(product(range(REASONINGS), repeat=G)))
        log_ratios = (reasonings - reasonings.detach())[groups]
        bounds = (log_ratios + calls[:, :2].logsumexp(1)[groups]).logsumexp(1)
        bound = reasonings.detach()[groups].sum(1).exp() @ bounds
        (gradient,) = torch.autograd.grad(reward + weight * bound, logits)
        return gradient.numpy()

    def gradients(self, weight, num_groups, equal_weights=False):
        """The estimate of every group, of shape (num_groups, number of logits)."""
        rng = np.random.default_rng(0)
        reasonings, calls = (log_probs.exp() for log_probs in self.log_probs(self.logits))
        drawn = rng.choice(REASONINGS, (num_groups, G), p=reasonings.numpy())
        sampled = (rng.random((num_groups, G, 1)) > calls.cumsum(1).numpy()[drawn][..., :-1]).sum(2)
        rewards = torch.tensor(sampled < 2).double()
        advantages = (rewards - rewards.mean(1, keepdim=True)) * G / (G - 1)
        drawn, sampled = torch.tensor(drawn), torch.tensor(sampled)
        of_forms = calls.log()[drawn][..., :2]
        weights = gold_weights(of_forms.logsumexp(2).flatten(), G).view(-1, G)
        weights = torch.ones_like(weights) if equal_weights else weights
        shares = of_forms.softmax(2)

        reasoning_scores = torch.eye(REASONINGS)[drawn] - reasonings
        calls_of = torch.zeros(*drawn.shape, REASONINGS, CALLS, dtype=torch.float64)
        places = torch.meshgrid(torch.arange(num_groups), torch.arange(G), indexing="ij")
        # The score of call c after z is e_c - pi(. | z); of all calls with their advantages at once.
        totals = torch.zeros(*drawn.shape, CALLS, dtype=torch.float64)
        totals[(*places, sampled)] += advantages
        totals[..., :2] += weight * weights.unsqueeze(2) * shares
        calls_of[(*places, drawn)] = totals - totals.sum(2, keepdim=True) * calls[drawn]
        of_reasonings = (advantages + weight * (weights - 1)).unsqueeze(2) * reasoning_scores
        return torch.cat([of_reasonings, calls_of.flatten(2)], 2).mean(1).numpy()


def largest_z(gradients, exact):
    """The largest distance of the mean from the exact gradient, in standard errors, over all coordinates."""
    errors = gradients.std(0, ddof=1) / np.sqrt(len(gradients))
    return np.abs((gradients.mean(0) - exact) / errors).max()


class TestExactness:
    """15 coordinates: the largest of as many standard normal values exceeds 4 once in 1,000 tries, 8 never."""

    @pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
    def test_the_mean_of_many_groups_is_the_exact_gradient(self, weight):
        toy = Toy()
        assert largest_z(toy.gradients(weight, 20_000), toy.exact_gradient(weight)) < 4

    def test_equal_weights_teach_something_else(self):
        toy = Toy()
        assert largest_z(toy.gradients(1.0, 20_000, equal_weights=True), toy.exact_gradient(1.0)) > 8


class TestWeights:
    def test_are_those_of_probabilities_that_underflow(self):
        weights = gold_weights(torch.tensor([-2000.0, -2000.0 - np.log(3)], dtype=torch.float64), 2)
        assert weights.tolist() == pytest.approx([1.5, 0.5])

    def test_are_one_without_spread_and_undefined_without_a_gold_call(self):
        weights = gold_weights(torch.tensor([-3.0, -3.0, -torch.inf, -torch.inf, -1.0, -torch.inf]), 2)
        assert torch.equal(weights.nan_to_num(9.0), torch.tensor([1.0, 1.0, 9.0, 9.0, 2.0, 0.0]))


def rollout(tool_mask=False):
    """Three completions of 2, 5 and 4 tokens; the first two have a gold call, the second in two forms."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(5) < torch.tensor([[2], [5], [4]])).long()
    inputs = {
        "prompt_ids": torch.arange(1, 7).view(3, 2),
        "prompt_mask": torch.ones(3, 2, dtype=torch.long),
        "completion_ids": torch.arange(10, 25).view(3, 5) * mask,
        "completion_mask": mask,
        "advantages": torch.randn(3, 5, generator=generator, dtype=torch.float64),
        "num_items_in_batch": mask.sum(),
        "gold_ids": torch.tensor([[[50, 51, 52], [0, 0, 0]], [[60, 61, 0], [70, 71, 72]], [[0, 0, 0], [0, 0, 0]]]),
        "gold_mask": torch.tensor([[[1, 1, 1], [0, 0, 0]], [[1, 1, 0], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]]),
        "gold_prefix_lengths": torch.tensor([2, 3, 4]),
        "gold_advantages": torch.tensor([[1.3, 0.0], [0.2, 0.5], [0.0, 0.0]]),
    }
    if tool_mask:
        inputs["tool_mask"] = torch.ones_like(mask)
        inputs["tool_mask"][1, 1] = 0
    return inputs


ROWS = [(0, 2, [50, 51, 52], 1.3), (1, 3, [60, 61], 0.2), (1, 3, [70, 71, 72], 0.5)]


class TestRows:
    def test_hold_prompt_reasoning_and_gold_call_and_count_the_gold_call_alone(self):
        inputs = rollout()
        batch = with_gold_rows(inputs, "dapo")
        assert batch["completion_ids"].shape == (6, 6)
        assert not any(name.startswith("gold_") for name in batch)
        for row, (source, length, gold, advantage) in enumerate(ROWS, start=3):
            ids = inputs["completion_ids"][source, :length].tolist() + gold
            assert batch["completion_ids"][row].tolist() == ids + [0] * (6 - len(ids))
            assert torch.equal(batch["prompt_ids"][row], inputs["prompt_ids"][source])
            assert batch["completion_mask"][row].tolist() == [1] * len(ids) + [0] * (6 - len(ids))
            policy = batch["completion_mask"][row] * batch["tool_mask"][row]
            assert policy.nonzero().flatten().tolist() == list(range(length, len(ids)))
            assert batch["advantages"][row, length].item() == pytest.approx(advantage)

    def test_have_the_log_probabilities_of_the_policy_that_has_sampled(self):
        inputs = rollout()
        inputs["old_per_token_logps"] = -torch.rand(3, 5)
        inputs["gold_logps"] = -torch.rand(3, 2, 3)
        inputs["importance_sampling_ratio"] = torch.rand(3, 5)
        batch = with_gold_rows(inputs, "dapo")
        expected = torch.cat([inputs["old_per_token_logps"][1, :3], inputs["gold_logps"][1, 1]])
        assert torch.equal(batch["old_per_token_logps"][5], expected)
        assert torch.equal(batch["old_per_token_logps"][:3, :5], inputs["old_per_token_logps"])
        assert batch["importance_sampling_ratio"][3:].eq(1).all()
        inputs["importance_sampling_ratio"] = torch.rand(3, 1)
        assert with_gold_rows(inputs, "dapo")["importance_sampling_ratio"].shape == (6, 1)

    def test_leave_the_buffered_rollout_as_it_is(self):
        inputs = rollout()
        before = {name: value.clone() for name, value in inputs.items()}
        with_gold_rows(inputs, "grpo")
        assert all(torch.equal(inputs[name], value) for name, value in before.items())

    def test_are_none_without_gold_advantages(self):
        inputs = rollout()
        inputs["gold_advantages"] *= 0
        batch = with_gold_rows(inputs, "grpo")
        assert all(torch.equal(batch[name], inputs[name]) for name in batch)

    def test_that_fill_up_have_no_token_for_the_loss(self):
        inputs = rollout()
        batch, filled = with_gold_rows(inputs, "dapo"), with_gold_rows(inputs, "dapo", 5)
        assert filled["completion_ids"].size(0) == 8
        assert not (filled["completion_mask"] * filled["tool_mask"])[6:].any()
        assert all(torch.equal(filled[name][:6], batch[name]) for name in batch if batch[name].dim())
        inputs["gold_advantages"] *= 0
        empty = with_gold_rows(inputs, "dapo", 2)
        assert empty["completion_ids"].size(0) == 5
        assert not (empty["completion_mask"] * empty["tool_mask"])[3:].any()


class TestLoss:
    """Of TRL, on fixed log-probabilities, at the policy that has sampled."""

    @pytest.fixture
    def gradient(self, model, tokenizer, tmp_path, monkeypatch):
        def gradient(loss_type, inputs):
            # Not shared: there is no pass here whose rows could be.
            arguments = {"loss_type": loss_type, "share_prompts": "false"}
            trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, **arguments)
            trainer.current_gradient_accumulation_steps = 1
            trainer.model.train()
            logps = -torch.rand(inputs["completion_ids"].shape, dtype=torch.float64)
            logps = logps.requires_grad_()
            monkeypatch.setattr(
                GRPOTrainer,
                "_get_per_token_logps_and_entropies",
                lambda *args, **kwargs: (logps, torch.zeros_like(logps), None),
            )
            return torch.autograd.grad(GRPOTrainer._compute_loss(trainer, None, inputs), logps)[0]

        return gradient

    @pytest.mark.parametrize(("tool_mask", "num_rows"), [(False, None), (True, None), (False, 5)])
    @pytest.mark.parametrize("loss_type", LOSS_TYPES)
    def test_weighs_gold_tokens_as_those_of_their_completion_and_these_as_before(
        self, loss_type, tool_mask, num_rows, gradient
    ):
        inputs = rollout(tool_mask)
        own = {name: value for name, value in inputs.items() if not name.startswith("gold_")}
        before, per_unit = gradient(loss_type, own), gradient(loss_type, {**own, "advantages": torch.ones(3, 5)})
        after = gradient(loss_type, with_gold_rows(inputs, loss_type, num_rows))
        assert torch.allclose(after[:3, :5], before, rtol=1e-6, atol=0)
        assert before.ne(0).sum() == (inputs["completion_mask"] * inputs.get("tool_mask", 1)).sum()
        for row, (source, length, gold, advantage) in enumerate(ROWS, start=3):
            weights = per_unit[source][per_unit[source] != 0]
            assert torch.allclose(weights, weights[0], rtol=1e-6)
            expected = torch.zeros(after.size(1), dtype=torch.float64)
            expected[length : length + len(gold)] = advantage * weights[0]
            assert torch.allclose(after[row], expected, rtol=1e-5, atol=0)
        assert after[6:].eq(0).all()
