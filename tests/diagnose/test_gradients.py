import contextlib

import pytest
import torch
from sampled import diagnosed_trainer, roll_out
from test_trainer import relative_difference

from rest_trl.lab.diagnose.gradients import HeadProjector, exact_gradients, head_gradients, projection
from rest_trl.lab.diagnose.token_weights import GRPO, Rule, completion_logits, token_facts, token_weights


@pytest.fixture
def sampled(model, tokenizer, tmp_path, monkeypatch):
    """A trainer that trains the LM head alone, with groups, weights and the exact gradients of the head."""
    trainer = diagnosed_trainer(model, tokenizer, tmp_path, temperature=0.7)
    roll_out(trainer, tokenizer, monkeypatch)
    trainer.model.requires_grad_(False)
    trainer.model.get_output_embeddings().weight.requires_grad_(True)
    groups = trainer.diagnosis.groups
    with torch.no_grad():
        facts = [token_facts(completion_logits(trainer.model, group, 0.7), group.completion_ids) for group in groups]
    weights = token_weights(groups, facts, [GRPO, Rule("region", "released")], trainer.args, 0.0, 0)
    with exact_gradients(trainer.model, groups, weights, 0.7, contextlib.nullcontext) as vectors:
        return trainer, groups, weights, vectors.clone()


@torch.no_grad()
def projected(model, groups, weights, dimension, seed=0):
    projector = HeadProjector(model, dimension, seed)
    return torch.stack(
        [head_gradients(projector(group, 0.7)[1], own) for group, own in zip(groups, weights, strict=True)]
    )


class TestHeadGradients:
    def test_without_projection_are_the_exact_ones(self, sampled):
        trainer, groups, weights, exact = sampled
        head = projected(trainer.model, groups, weights, dimension=10_000)
        assert head.shape == exact.shape and relative_difference(head, exact) < 1e-5

    def test_that_are_projected_have_the_exact_inner_products_in_the_mean(self, sampled):
        trainer, groups, weights, exact = sampled
        truth = exact.flatten(0, 1) @ exact.flatten(0, 1).T
        products = []
        for seed in range(60):
            head = projected(trainer.model, groups, weights, dimension=24, seed=seed).flatten(0, 1)
            assert head.size(1) == 24 * 24
            products.append(head @ head.T)
        products = torch.stack(products)
        errors = products.std(0) / len(products) ** 0.5
        assert ((products.mean(0) - truth).abs() < 4.5 * errors).all()
        assert (errors < 0.1 * truth.diagonal().mean()).all()

    def test_have_the_logits_of_the_model(self, sampled):
        trainer, groups, *_ = sampled
        with torch.no_grad():
            logits, _ = HeadProjector(trainer.model, 8, 0)(groups[0], 0.7)
            assert torch.equal(logits, completion_logits(trainer.model, groups[0], 0.7))


class TestHeadProjector:
    def test_refuses_logits_that_are_changed_behind_the_head(self, sampled, monkeypatch):
        trainer, groups, *_ = sampled
        forward = trainer.model.forward

        def capped(*args, **kwargs):
            output = forward(*args, **kwargs)
            output.logits = 0.1 * torch.tanh(output.logits)
            return output

        monkeypatch.setattr(trainer.model, "forward", capped)
        with torch.no_grad(), pytest.raises(ValueError, match="diagnose with exact gradients"):
            HeadProjector(trainer.model, 8, 0)(groups[0], 0.7)


class TestProjection:
    def test_leaves_short_vectors_as_they_are(self):
        assert projection(8, 8, torch.Generator()) is None

    def test_has_columns_of_variance_one_over_their_number(self):
        matrix = projection(5, 4, torch.Generator().manual_seed(0))
        assert matrix.shape == (5, 4) and torch.equal(matrix.square(), torch.full((5, 4), 0.25))
