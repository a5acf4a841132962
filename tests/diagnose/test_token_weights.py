import contextlib

import pytest
import torch
from sampled import diagnosed_trainer, flat, roll_out
from test_trainer import relative_difference

from rest_trl import Region
from rest_trl.lab.diagnose.gradients import exact_gradients
from rest_trl.lab.diagnose.token_weights import (
    LOSS_TYPES,
    Rule,
    completion_logits,
    distinct_weights,
    observed_statistics,
    rules_of,
    token_facts,
    token_weights,
)


def weights_of(trainer, rules):
    groups = trainer.diagnosis.groups
    with torch.no_grad():
        facts = [
            token_facts(completion_logits(trainer.model, group, trainer.temperature), group.completion_ids)
            for group in groups
        ]
    return groups, facts, token_weights(groups, facts, rules, trainer.args, trainer.progress, 0)


def gradients_of(trainer, groups, weights):
    with exact_gradients(trainer.model, groups, weights, trainer.temperature, contextlib.nullcontext) as vectors:
        return vectors.clone()


def loss_gradient(trainer, output):
    loss = trainer.compute_loss(trainer.model, output)
    return flat(torch.autograd.grad(loss, list(trainer.model.parameters())))


def surprise(*, mask, entropies, per_token_logps, **kwargs):
    return mask * (entropies - per_token_logps)


def good_tokens_only(*, mask, advantages, **kwargs):
    return mask * ((advantages if advantages.dim() == 2 else advantages.unsqueeze(1)) > 0)


class TestGradient:
    @pytest.mark.parametrize("loss_type", LOSS_TYPES)
    def test_of_grpo_is_that_of_the_trainers_loss(self, loss_type, model, tokenizer, tmp_path, monkeypatch):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path, loss_type=loss_type, temperature=0.8)
        output = roll_out(trainer, tokenizer, monkeypatch)
        groups, _, weights = weights_of(trainer, [Rule("completion", "uniform")])
        gradient = gradients_of(trainer, groups, weights).mean(0)[0]
        assert relative_difference(-gradient, loss_gradient(trainer, output)) < 2e-5

    @pytest.mark.parametrize(
        "rule",
        [
            *[("region", "uniform"), ("region", "entropy"), ("region", "released"), ("local", "uniform")],
            # What a rule of the user's own is given is what a trainer gives it.
            *[("completion", f"{__name__}.surprise"), ("region", f"{__name__}.good_tokens_only")],
        ],
    )
    def test_of_a_rule_is_that_of_a_trainer_with_the_rule(self, rule, model, tokenizer, tmp_path, monkeypatch):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path, credit=rule[0], coefficients=rule[1])
        output = roll_out(trainer, tokenizer, monkeypatch)
        groups, facts, weights = weights_of(trainer, [Rule(*rule)])
        observed = observed_statistics(groups, facts)
        trainer.region_statistics.entropies, trainer.region_statistics.shares = observed.entropies, observed.shares
        gradient = gradients_of(trainer, groups, weights).mean(0)[0]
        assert relative_difference(-gradient, loss_gradient(trainer, output)) < 2e-5

    def test_leaves_the_gradients_and_the_mode_of_the_model_alone(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path)
        roll_out(trainer, tokenizer, monkeypatch)
        groups, _, weights = weights_of(trainer, [Rule("completion", "uniform")])
        gradients_of(trainer, groups, weights)
        assert trainer.model.training and all(parameter.grad is None for parameter in trainer.model.parameters())


class TestRegions:
    def test_sum_to_the_whole(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path, coefficients="entropy")
        roll_out(trainer, tokenizer, monkeypatch)
        rules = rules_of(trainer.args)
        groups, _, weights = weights_of(trainer, rules)
        basis = distinct_weights(weights, groups)
        parts = gradients_of(trainer, groups, basis.weights)
        combined = (basis.combinations @ parts).view(len(groups), len(rules), len(Region), -1)
        whole = gradients_of(trainer, groups, weights)
        assert relative_difference(combined[:, :, 0], whole) < 1e-6
        assert relative_difference(combined[:, :, 1:].sum(2), whole) < 1e-6

    def test_that_are_equal_under_two_rules_are_computed_once(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path)
        roll_out(trainer, tokenizer, monkeypatch)
        groups, _, weights = weights_of(trainer, [Rule("completion", "uniform"), Rule("region", "uniform")])
        basis = distinct_weights(weights, groups)
        first, second = basis.combinations.view(2, len(Region), -1)
        assert torch.equal(first[Region.REASONING], second[Region.REASONING])
        assert not torch.equal(first[Region.PARAMETERS], second[Region.PARAMETERS])
        assert len(basis.weights[0]) < 2 * (len(Region) - 1)


class TestGroups:
    def test_have_the_advantages_of_every_credit_whatever_the_recipe_says(
        self, model, tokenizer, tmp_path, monkeypatch
    ):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path)
        output = roll_out(trainer, tokenizer, monkeypatch)
        assert output["advantages"].shape == (16,)  # untouched
        group = trainer.diagnosis.groups[0]
        assert torch.equal(group.advantages["completion"][:, 0], output["advantages"][:4])
        assert not torch.equal(group.advantages["region"], group.advantages["completion"])

    def test_are_as_long_as_their_own_longest_completion(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path)
        output = roll_out(trainer, tokenizer, monkeypatch)
        lengths = output["completion_mask"].sum(1).view(4, 4).max(1).values.tolist()
        assert [group.mask.size(1) for group in trainer.diagnosis.groups] == lengths
        assert all(group.prompt_mask[:, 0].any() for group in trainer.diagnosis.groups)
