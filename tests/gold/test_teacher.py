import json
import logging

import pytest
import torch
from datasets import Dataset
from test_trainer import make_trainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.gold import GoldTeacher, gold_weights


CALL = '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
GOLD = f"<think>\nParis it is\n</think>{CALL}"
REASONINGS = [
    "<think>\nParis\n</think>",
    "<think>\nnot Paris\n</think>",
    "<think>\nshort\n</think>",
    "",
]
# Of every gold call one completion each: right, wrong, an answer, and none of these.
COMPLETIONS = [
    REASONINGS[0] + CALL,
    REASONINGS[1] + CALL.replace("Paris", "Rome"),
    REASONINGS[2] + " I cannot.",
    "<think>\nwithout an end",
]
DATASET = Dataset.from_dict(
    {"prompt": ["What is the weather in Paris?", "sunny"] * 8, "solution": [GOLD, "<think>\n</think> no"] * 8}
)


@pytest.fixture
def make(model, tokenizer, tmp_path, monkeypatch):
    """Makes trainers that sample `COMPLETIONS` for the first prompt, and answers for the second."""

    def make(completions=COMPLETIONS, **arguments):
        defaults = {
            "reward_funcs": None,
            "dataset": DATASET,
            "max_completion_length": 128,
            "per_device_train_batch_size": 8,
            "gold_weight": 1.0,
            "coefficients": "uniform",
            "reward_schedule": "static",
        }
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, **(defaults | arguments))
        end = tokenizer.eos_token_id

        def sample(prompt_ids, *args, **kwargs):
            weather = tokenizer(DATASET["prompt"][0])["input_ids"]
            texts = iter(completions * len(prompt_ids))
            answer = tokenizer("<think>\n</think> no")["input_ids"] + [end]
            ids = [
                tokenizer(text)["input_ids"] + [end] * (not text.endswith("end")) if prompt == weather else answer
                for prompt, text in zip(prompt_ids, texts, strict=False)
            ]
            return ids, None

        monkeypatch.setattr(trainer, "_generate_single_turn", sample)
        return trainer

    return make


def batch(trainer):
    trainer.model.train()
    rows = [DATASET[0]] * 4 + [DATASET[1]] * 4
    return trainer.roll_out(rows)


def log_prob(model, prompt, before, after):
    """Sum of the log-probabilities of `after`, by a pass over this row alone."""
    ids = torch.tensor([[*prompt, *before, *after]])
    logps = model(ids).logits[:, :-1].log_softmax(2).gather(2, ids[:, 1:, None])[0, :, 0]
    return logps[-len(after) :].sum()


def log_probs_of(trainer, tokenizer, calls):
    """Log-probabilities of calls after the reasonings that end, of shape (3, calls)."""

    def ids(text):
        return tokenizer(text)["input_ids"]

    prompt, end = ids(DATASET["prompt"][0]), [tokenizer.eos_token_id]
    with torch.no_grad():
        rows = [[log_prob(trainer.model, prompt, ids(r), ids(c) + end) for c in calls] for r in REASONINGS[:3]]
    return torch.tensor(rows)


class TestRollout:
    def test_puts_the_gold_call_after_each_reasoning_that_ends(self, make, tokenizer):
        output = batch(make())
        assert output["gold_mask"].any(2).any(1).tolist() == [True] * 3 + [False] * 5
        for row, reasoning in enumerate(REASONINGS[:3]):
            prefix = output["gold_prefix_lengths"][row]
            assert tokenizer.decode(output["completion_ids"][row, :prefix]) == reasoning
            gold = output["gold_ids"][row, 0][output["gold_mask"][row, 0].bool()]
            assert tokenizer.decode(gold) == CALL + tokenizer.eos_token

    def test_ids_are_those_of_the_policys_own_exact_call(self, make, caplog):
        with caplog.at_level(logging.WARNING):
            output = batch(make())
        own = output["completion_ids"][0, output["gold_prefix_lengths"][0] :]
        assert torch.equal(output["gold_ids"][0, 0][output["gold_mask"][0, 0].bool()], own[: len(own)][own != 0])
        assert output["gold_ids"].size(1) == 1
        assert "writes a gold call" not in caplog.text

    def test_weighs_by_the_likelihood_of_the_gold_call(self, make, tokenizer):
        trainer = make(gold_weight=0.5)
        plain = make(gold_weight=0.0)
        output, without = batch(trainer), batch(plain)
        log_probs = log_probs_of(trainer, tokenizer, [CALL]).flatten()
        weights = gold_weights(torch.cat([log_probs, torch.tensor([-torch.inf])]), 4)
        assert weights.std() > 0.1
        assert torch.allclose(output["gold_advantages"].flatten()[:4], 0.5 * weights, rtol=1e-3)
        assert output["gold_advantages"][4:].eq(0).all()
        added = output["advantages"] - without["advantages"].unsqueeze(1)
        for row, length in enumerate(output["gold_prefix_lengths"].tolist()):
            expected = 0.5 * (weights[row] - 1) if row < 4 else 0.0
            assert added[row, :length].numpy() == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
            assert added[row, length:].abs().max() < 1e-6
        assert output["gold_prefix_lengths"][3] == output["completion_mask"][3].sum()

    def test_shares_prompts_and_reasonings_with_its_gold_calls(self, make):
        completions = [text.replace("<think>\n", "<think>\n" + "Where is it? " * 4) for text in COMPLETIONS]
        results = {}
        for mode in ("false", "true"):
            trainer = make(completions, share_prompts=mode)
            output = batch(trainer)
            trainer.current_gradient_accumulation_steps = 1
            trainer.compute_loss(trainer.model, output).backward()
            gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
            trainer.model.zero_grad()
            results[mode] = output["gold_advantages"], gradient
        for actual, expected in zip(results["true"], results["false"], strict=True):
            assert (actual - expected).norm() <= 1e-4 * expected.norm()
        prompts = output["prompt_mask"][::4].sum()
        once = prompts + output["completion_mask"].sum() + output["gold_mask"].sum()
        assert output["gold_prefix_lengths"][:4].min() > 20
        assert trainer.shared_prompts.take_num_tokens() <= once

    def test_counts_forms_of_the_policy_as_gold(self, make, tokenizer, caplog):
        spaced = CALL.replace('": ', '" : ')
        trainer = make([REASONINGS[0] + spaced, *COMPLETIONS[1:]])
        with caplog.at_level(logging.WARNING):
            output = batch(trainer)
        assert caplog.text.count("both are gold") == 1 and repr(spaced) in caplog.text and repr(CALL) in caplog.text
        forms = [
            [tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(ids, masks, strict=True) if mask.any()]
            for ids, masks in zip(output["gold_ids"], output["gold_mask"], strict=True)
        ]
        assert forms[:3] == [[CALL + tokenizer.eos_token, spaced + tokenizer.eos_token]] * 3
        assert not any(forms[3:])
        log_probs = log_probs_of(trainer, tokenizer, [CALL, spaced])
        weights = gold_weights(torch.cat([log_probs.logsumexp(1), torch.tensor([-torch.inf])]), 4)[:3]
        expected = weights.unsqueeze(1) * log_probs.softmax(1)
        assert torch.allclose(output["gold_advantages"][:3], expected, rtol=1e-3)

    def test_counts_the_alternatives_of_the_data_set_as_gold(self, make, tokenizer):
        trainer, rome = make(), CALL.replace("Paris", "Rome")
        trainer.model.train()
        gold = {"text": GOLD, "alternatives": json.dumps([{"city": ["Rome"]}])}
        answer = {"text": DATASET[1]["solution"], "alternatives": "[]"}
        rows = [{**DATASET[0], "solution": gold}] * 4 + [{**DATASET[1], "solution": answer}] * 4
        output = trainer.roll_out(rows)
        forms = [
            [tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(*row, strict=True)]
            for row in zip(output["gold_ids"], output["gold_mask"], strict=True)
        ]
        assert forms[:3] == [[CALL + tokenizer.eos_token, rome + tokenizer.eos_token]] * 3
        log_probs = log_probs_of(trainer, tokenizer, [CALL, rome])
        weights = gold_weights(torch.cat([log_probs.logsumexp(1), torch.tensor([-torch.inf])]), 4)[:3]
        assert torch.allclose(output["gold_advantages"][:3], weights.unsqueeze(1) * log_probs.softmax(1), rtol=1e-3)
        assert trainer._metrics["train"]["rest/reward/exact"] == [6 / 8]

    def test_of_golds_without_calls_is_that_of_grpo(self, make):
        trainer, plain = make(), make(gold_weight=0.0)
        rows = [DATASET[1]] * 8
        for each in (trainer, plain):
            each.model.train()
        output, without = trainer.roll_out(rows), plain.roll_out(rows)
        assert torch.equal(output["advantages"], without["advantages"].unsqueeze(1).expand_as(output["advantages"]))
        assert not output["gold_mask"].any()
        assert trainer._metrics["train"]["rest/gold/without"] == [1.0]
        assert trainer._metrics["train"]["rest/gold/without_calls"] == [1.0]

    def test_is_logged(self, make):
        trainer = make()
        batch(trainer)
        logged = {name: values[-1] for name, values in trainer._metrics["train"].items() if "rest/gold" in name}
        assert logged["rest/gold/without"] == 0.5 and logged["rest/gold/without_calls"] == 0.5
        assert logged["rest/gold/endless"] == 0.25 and logged["rest/gold/forms"] == 1
        assert 0 < logged["rest/gold/probability"] < 1 and logged["rest/gold/best_weight"] > 0.25
        probabilities, weights = (list(trainer._logs["extra"][f"gold_{name}"]) for name in ("probability", "weight"))
        assert all(probabilities[:3]) and probabilities[3:] == weights[3:] == [0.0] * 5
        assert sum(weights[:3]) == pytest.approx(4)

    def test_without_reasoning_points_to_sft_once(self, make, caplog):
        trainer = make([CALL.strip()] * 4)
        with caplog.at_level(logging.WARNING):
            output = batch(trainer)
            batch(trainer)
        assert caplog.text.count("rest-trl sft") == 1
        assert output["gold_prefix_lengths"][:4].eq(0).all()
        assert torch.allclose(output["gold_advantages"][:4].sum(1), torch.ones(4))

    def test_has_the_log_probabilities_that_the_loss_compares_with(self, make):
        trainer = make(gradient_accumulation_steps=1, num_iterations=2)
        output = batch(trainer)
        assert output["old_per_token_logps"].shape == output["completion_ids"].shape
        assert torch.allclose(output["gold_logps"][0].sum(), _gold_log_prob(trainer, output), rtol=1e-4)


def _gold_log_prob(trainer, output):
    prompt = output["prompt_ids"][0][output["prompt_mask"][0].bool()].tolist()
    before = output["completion_ids"][0, : output["gold_prefix_lengths"][0]].tolist()
    return log_prob(trainer.model, prompt, before, output["gold_ids"][0, 0][output["gold_mask"][0, 0].bool()].tolist())


class TestStep:
    def test_has_the_gradient_of_grpo_and_the_gold_terms(self, make):
        """Against the formula, each term from a pass of its own."""
        trainer, plain = make(), make(gold_weight=0.0)
        trainer.current_gradient_accumulation_steps = plain.current_gradient_accumulation_steps = 1
        output, without = batch(trainer), batch(plain)
        parameters = list(trainer.model.parameters())
        actual = torch.autograd.grad(trainer.compute_loss(trainer.model, output), parameters)
        loss = plain.compute_loss(plain.model, without)
        for row in range(3):
            prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist()
            length, size = int(output["gold_prefix_lengths"][row]), output["completion_mask"][row].sum()
            before = output["completion_ids"][row, :length].tolist()
            gold = output["gold_ids"][row, 0][output["gold_mask"][row, 0].bool()].tolist()
            weight = output["gold_advantages"][row, 0]
            terms = weight * log_prob(trainer.model, prompt, before, gold)
            terms = terms + (weight - 1) * log_prob(trainer.model, prompt, [], before)
            loss = loss - terms / size / 8
        row = output["completion_ids"][3][output["completion_mask"][3].bool()].tolist()
        loss = loss + log_prob(trainer.model, prompt, [], row) / len(row) / 8
        expected = torch.autograd.grad(loss, parameters, allow_unused=True)
        for found, wanted in zip(actual, expected, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("arguments", [{"num_iterations": 2}, {"gradient_accumulation_steps": 2}, {"bf16": True}])
    def test_trains(self, make, arguments):
        trainer = make(max_steps=2, **arguments)
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        trainer.train()
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
        assert any(not torch.equal(*pair) for pair in zip(before, trainer.model.parameters(), strict=True))


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"gold_weight": -1.0}, "negative"),
            ({"gold_weight": float("nan")}, "gold_weight"),
            ({"gold_weight": 1.0, "beta": 0.1}, "beta"),
            ({"gold_weight": 1.0, "top_entropy_quantile": 0.5}, "top_entropy_quantile"),
            ({"gold_weight": 1.0, "entropy_coef": 0.1}, "entropy_coef"),
            ({"gold_weight": 1.0, "importance_sampling_level": "sequence"}, "gold_weight=1.0, which is per token"),
            ({"gold_weight": 1.0, "loss_type": "vespo"}, "gold_weight=1.0, which is per token"),
            ({"gold_weight": 1.0, "off_policy_mask_threshold": 0.1}, "gold_weight=1.0, which is per token"),
            ({"gold_variant": "rest_trl.lab.study.gold_arms.EqualWeights"}, "no effect"),
        ],
    )
    def test_that_do_not_go_together_are_refused(self, arguments, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            ResTGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **arguments)

    @pytest.mark.parametrize("path", ["nowhere.Teacher", "Teacher", "rest_trl.gold.gold_weights"])
    def test_of_no_variant_are_refused(self, path, make):
        with pytest.raises(ValueError, match="gold_variant"):
            make(gold_variant=path)

    @pytest.mark.parametrize(
        ("attribute", "message"),
        [("tools", "tools"), ("environment_factories", "environment_factory"), ("_is_vlm", "images")],
    )
    def test_of_several_turns_or_images_are_refused(self, attribute, message, make, monkeypatch):
        trainer = make()
        monkeypatch.setattr(trainer, attribute, [print])
        with pytest.raises(ValueError, match=rf"gold_weight=1.0 cannot be combined with .*{message}"):
            GoldTeacher(trainer)
