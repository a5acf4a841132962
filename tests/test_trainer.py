import copy
import json
import math
import re

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rest_trl import Region, ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.regions import to_regions
from rest_trl.rewards import LayoutReward, ToolCallReward
from rest_trl.tool_calls import Part


LOSS_TYPES = ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
COMPLETIONS = [
    '<think>\nshort\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    '<tool_call>\n{"name": "add_event", "arguments": {"title": "lunch", "days": 3}}\n</tool_call>',
    "<think> no tool fits </think> I cannot help with that.",
    "plain text",
]
DATASET = Dataset.from_dict(
    {"prompt": ["What is the weather in Paris?", "lunch at 12:30", "call the tool", "sunny"] * 4}
)


def length_reward(completions, **kwargs):
    return [float(len(completion) % 11) for completion in completions]


def make_trainer(cls, model, tokenizer, path, **arguments):
    config_class = ResTGRPOConfig if issubclass(cls, ResTGRPOTrainer) else GRPOConfig
    coefficients = arguments.pop("coefficients_func", None)
    reward_funcs, dataset = arguments.pop("reward_funcs", length_reward), arguments.pop("dataset", DATASET)
    defaults = {
        "loss_type": "grpo",
        "beta": 0.0,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 12,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    return cls(
        model,
        reward_funcs,
        config_class(str(path), **(defaults | arguments)),
        train_dataset=dataset,
        processing_class=tokenizer,
        **({} if coefficients is None else {"coefficients": coefficients}),
    )


class Loss:
    """The loss on fixed log-probabilities: gradients with respect to them are exact, in double precision."""

    def __init__(self, monkeypatch, trainer, tokenizer, tool_mask=False):
        encoded = tokenizer(COMPLETIONS, padding=True, padding_side="right", return_tensors="pt")
        self.trainer = trainer
        generator = torch.Generator().manual_seed(0)
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        self.logps = (-2 * torch.rand(ids.shape, generator=generator, dtype=torch.float64)).requires_grad_()
        noise = 0.5 * torch.randn(ids.shape, generator=generator, dtype=torch.float64)
        self.entropies = torch.rand(ids.shape, generator=generator, dtype=torch.float64)
        self.inputs = {
            "prompt_ids": ids[:, :2],
            "prompt_mask": mask[:, :2],
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": torch.tensor([1.3, -0.7, 0.4, -1.0], dtype=torch.float64),
            "old_per_token_logps": self.logps.detach() + noise,
            "ref_per_token_logps": self.logps.detach() - noise,
            "num_items_in_batch": mask.sum(),
        }
        if tool_mask:
            self.inputs["tool_mask"] = torch.ones_like(mask)
            self.inputs["tool_mask"][:, 3:6] = 0
        self.mask = mask * self.inputs.get("tool_mask", 1)
        if isinstance(trainer, ResTGRPOTrainer):
            self.inputs["part_ids"] = trainer.partitioner(ids, self.mask)
            self.region_ids = to_regions(self.inputs["part_ids"])
        monkeypatch.setattr(
            GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (self.logps, self.entropies, None)
        )
        grpo_loss = GRPOTrainer._compute_loss

        def spy(trainer, model, inputs):
            loss = grpo_loss(trainer, model, inputs)
            self.reshaped = inputs["advantages"]  # they are reshaped once the forward pass is done
            return loss

        monkeypatch.setattr(GRPOTrainer, "_compute_loss", spy)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()

    def gradient(self):
        loss = self.trainer.compute_loss(self.trainer.model, self.inputs)
        return torch.autograd.grad(loss, self.logps)[0]


def relative_difference(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def random_coefficients(mask, **kwargs):
    return 0.1 + 4.9 * torch.rand(mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class TestCoefficientsOfOne:
    @pytest.mark.parametrize("tool_mask", [False, True])
    @pytest.mark.parametrize("level", ["token", "sequence"])
    @pytest.mark.parametrize("loss_type", LOSS_TYPES)
    def test_give_the_gradient_of_grpo(self, loss_type, level, tool_mask, model, tokenizer, tmp_path, monkeypatch):
        gradients = []
        for cls, extra in ((GRPOTrainer, {}), (ResTGRPOTrainer, {"coefficients": "uniform"})):
            trainer = make_trainer(
                cls, model, tokenizer, tmp_path, loss_type=loss_type, importance_sampling_level=level, **extra
            )
            gradients.append(Loss(monkeypatch, trainer, tokenizer, tool_mask).gradient())
            monkeypatch.undo()
        assert relative_difference(gradients[1], gradients[0]) <= 1e-6

    @pytest.mark.parametrize("arguments", [{"off_policy_mask_threshold": 0.1}, {"top_entropy_quantile": 0.5}])
    def test_give_the_gradient_of_grpo_with_masks_on_top(self, arguments, model, tokenizer, tmp_path, monkeypatch):
        gradients = []
        for cls, extra in ((GRPOTrainer, {}), (ResTGRPOTrainer, {"coefficients": "uniform"})):
            trainer = make_trainer(cls, model, tokenizer, tmp_path, **arguments, **extra)
            gradients.append(Loss(monkeypatch, trainer, tokenizer).gradient())
            monkeypatch.undo()
        assert relative_difference(gradients[1], gradients[0]) <= 1e-6

    @pytest.mark.parametrize(
        "arguments",
        [{"gradient_accumulation_steps": 2}, {"gradient_accumulation_steps": 2, "num_iterations": 2}],
    )
    def test_train_to_the_weights_of_grpo(self, arguments, model, tokenizer, tmp_path):
        weights = []
        # Shared prompts move completions between micro-batches, whose gradients are then added in another order.
        ours = {"coefficients": "uniform", "share_prompts": "false"}
        for cls, extra in ((GRPOTrainer, {}), (ResTGRPOTrainer, ours)):
            trainer = make_trainer(cls, copy.deepcopy(model), tokenizer, tmp_path, max_steps=4, **arguments, **extra)
            trainer.train()
            weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert (weights[0] - before).norm() > 1e-3
        assert relative_difference(weights[1] - before, weights[0] - before) <= 1e-6


def weighted_loss(loss, loss_type, coefficients, trainer):
    """The losses of the papers, written out for this batch with a weight on every token's policy loss."""
    mask, advantages = loss.mask, loss.inputs["advantages"].unsqueeze(1)
    ratio = torch.exp(loss.logps - loss.inputs["old_per_token_logps"])
    low, high = trainer.epsilon_low, trainer.epsilon_high
    if loss_type == "cispo":
        per_token = -(ratio.clamp(max=high).detach() * advantages * loss.logps)
    elif loss_type == "sapo":
        args = trainer.args
        temperature = torch.where(advantages > 0, args.sapo_temperature_pos, args.sapo_temperature_neg)
        per_token = -(4 / temperature * torch.sigmoid(temperature * (ratio - 1)) * advantages)
    else:
        per_token = -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    per_token = coefficients * per_token * mask
    if loss_type in ("grpo", "sapo"):
        return (per_token.sum(1) / mask.sum(1)).mean()
    if loss_type == "dr_grpo":
        return per_token.sum() / (mask.size(0) * trainer.max_completion_length)
    return per_token.sum() / mask.sum()


class TestCoefficients:
    @pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo"])
    def test_weigh_the_policy_loss_of_each_token(self, loss_type, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(
            ResTGRPOTrainer, model, tokenizer, tmp_path, loss_type=loss_type, coefficients_func=random_coefficients
        )
        loss = Loss(monkeypatch, trainer, tokenizer)
        coefficients = random_coefficients(loss.mask)
        assert coefficients.max() / coefficients.min() > 10
        expected = torch.autograd.grad(weighted_loss(loss, loss_type, coefficients, trainer), loss.logps)[0]
        assert relative_difference(loss.gradient(), expected) <= 1e-6

    def test_leave_the_gradient_of_the_kl_term_alone(self, model, tokenizer, tmp_path, monkeypatch):
        gradients = {}
        for beta in (0.0, 0.1):
            for name, coefficients in (("grpo", None), ("rest", random_coefficients)):
                trainer = make_trainer(
                    ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients="uniform", coefficients_func=coefficients
                )
                trainer.beta = beta  # the reference log-probabilities are part of the batch
                gradients[name, beta] = Loss(monkeypatch, trainer, tokenizer).gradient()
                monkeypatch.undo()
        kl = gradients["rest", 0.1] - gradients["rest", 0.0]
        assert kl.norm() > 1e-3
        assert relative_difference(kl, gradients["grpo", 0.1] - gradients["grpo", 0.0]) <= 1e-6
        assert relative_difference(gradients["rest", 0.0], gradients["grpo", 0.0]) > 0.1

    @pytest.mark.parametrize("loss_type", LOSS_TYPES)
    def test_of_zero_stop_the_policy_gradient_of_the_token(self, loss_type, model, tokenizer, tmp_path, monkeypatch):
        def alternating(mask, **kwargs):
            return (torch.arange(mask.size(1)) % 2).expand(mask.shape).double()

        trainer = make_trainer(
            ResTGRPOTrainer, model, tokenizer, tmp_path, loss_type=loss_type, coefficients_func=alternating
        )
        gradient = Loss(monkeypatch, trainer, tokenizer).gradient()
        assert gradient[:, ::2].eq(0).all()
        assert gradient[:, 1::2].ne(0).any(1).all()

    def test_are_the_released_ones_by_name(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients="released")
        loss = Loss(monkeypatch, trainer, tokenizer)
        loss.gradient()
        reshaped = loss.reshaped / loss.inputs["advantages"].unsqueeze(1)
        names = reshaped[0][loss.inputs["part_ids"][0] == Part.TOOL_NAME]
        tags = reshaped[0][loss.inputs["part_ids"][0] == Part.TAG]
        assert torch.allclose(names / tags[0], torch.tensor(1.2, dtype=torch.float64))

    def test_function_sees_all_it_needs(self, model, tokenizer, tmp_path, monkeypatch):
        seen = {}

        def spy(mask, entropies, per_token_logps, **kwargs):
            seen.update(kwargs, mask=mask, entropies=entropies, per_token_logps=per_token_logps)
            return torch.ones(mask.shape)

        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients_func=spy)
        loss = Loss(monkeypatch, trainer, tokenizer)
        loss.gradient()
        assert torch.equal(seen["mask"], loss.mask)
        assert torch.equal(seen["entropies"], loss.entropies)
        assert torch.equal(seen["per_token_logps"], loss.logps)
        assert torch.equal(seen["region_ids"], loss.region_ids)
        assert torch.equal(seen["completion_ids"], loss.inputs["completion_ids"])
        assert torch.equal(seen["advantages"], loss.inputs["advantages"])
        assert seen["progress"] == 0.0 and seen["step"] == 0

    def test_do_not_mutate_the_buffered_inputs(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients_func=random_coefficients)
        loss = Loss(monkeypatch, trainer, tokenizer)
        before = {name: value.clone() for name, value in loss.inputs.items()}
        first, second = loss.gradient(), loss.gradient()
        assert torch.equal(first, second)
        assert loss.inputs.keys() == before.keys()
        assert all(torch.equal(loss.inputs[name], value) for name, value in before.items())

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (lambda mask: torch.ones(mask.size(0)), r"shape \(B, T\)"),
            (lambda mask: [1.0], "got list"),
            (lambda mask: -torch.ones(mask.shape), "non-negative"),
            (lambda mask: torch.full(mask.shape, float("nan")), "NaN"),
            (lambda mask: torch.full(mask.shape, float("inf")), "infinite"),
        ],
    )
    def test_that_break_the_loss_are_refused(self, value, message, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(
            ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients_func=lambda mask, **kwargs: value(mask)
        )
        loss = Loss(monkeypatch, trainer, tokenizer)
        with pytest.raises(ValueError, match=message):
            loss.gradient()


class TestRuleOnEntropies:
    """A rule with a parameter `entropies` gets those of the pass that the loss makes."""

    @staticmethod
    def high_entropies(quantile):
        def rule(mask, entropies, **kwargs):
            threshold = torch.quantile(entropies[mask.bool()].float(), 1 - quantile)
            return ((entropies >= threshold) & mask.bool()).float()

        return rule

    def test_as_a_mask_it_is_the_80_20_mask_of_trl(self, model, tokenizer, tmp_path, monkeypatch):
        gradients = []
        for rule, arguments in ((None, {"top_entropy_quantile": 0.2}), (self.high_entropies(0.2), {})):
            trainer = make_trainer(
                ResTGRPOTrainer,
                model,
                tokenizer,
                tmp_path,
                coefficients="uniform",
                coefficients_func=rule,
                **arguments,
            )
            gradients.append(Loss(monkeypatch, trainer, tokenizer).gradient())
            monkeypatch.undo()
        assert gradients[0].ne(0).float().mean() < 0.3
        assert relative_difference(gradients[1], gradients[0]) <= 1e-6

    def test_sees_the_entropies_of_the_real_pass_to_the_bit_also_with_dropout(
        self, model, tokenizer, tmp_path, monkeypatch
    ):
        model.config.attention_dropout = 0.5
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.5
        pairs, seen = [], []

        def rule(mask, entropies, **kwargs):
            seen.append(entropies.clone())
            return torch.ones(mask.shape)

        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients_func=rule, max_steps=2)
        forward = GRPOTrainer._get_per_token_logps_and_entropies

        def spy(*arguments, **kwargs):
            output = forward(*arguments, **kwargs)
            pairs.append(output[1].detach())
            return output

        monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", spy)
        trainer.train()
        pairs = list(zip(seen, pairs, strict=True))
        assert len(pairs) == 2
        assert all(torch.equal(before, during) for before, during in pairs)
        assert not torch.equal(pairs[0][0], pairs[1][0])

    def test_cost_no_pass_of_their_own(self, model, tokenizer, tmp_path, monkeypatch):
        for rule in (random_coefficients, self.high_entropies(0.5)):
            trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients_func=rule)
            loss, calls = Loss(monkeypatch, trainer, tokenizer), []
            forward = GRPOTrainer._get_per_token_logps_and_entropies
            monkeypatch.setattr(
                GRPOTrainer,
                "_get_per_token_logps_and_entropies",
                lambda *arguments, **kwargs: (calls.append(1), forward(*arguments, **kwargs))[1],  # noqa: B023
            )
            loss.gradient()
            assert len(calls) == 1
            monkeypatch.undo()


class TestRegionEntropies:
    def test_leave_out_what_is_not_finite(self, model, tokenizer, tmp_path, monkeypatch, caplog):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path)
        loss = Loss(monkeypatch, trainer, tokenizer)
        calm = loss.entropies.clone()
        inside = loss.region_ids == Region.PARAMETERS
        first, *rest = inside.nonzero().tolist()
        loss.entropies[first[0], first[1]] = torch.nan
        loss.entropies[loss.region_ids == Region.TOOL_NAME] = torch.inf
        for _ in range(2):
            loss.gradient()
        expected = torch.stack([calm[row, column] for row, column in rest]).mean().item()
        assert trainer.region_statistics.entropies[Region.PARAMETERS] == pytest.approx(expected, rel=1e-6)
        assert math.isnan(trainer.region_statistics.entropies[Region.TOOL_NAME])
        assert sum("no finite entropy" in record.getMessage() for record in caplog.records) == 1
        loss.entropies = calm
        loss.gradient()
        assert trainer.region_statistics.entropies[Region.TOOL_NAME] == pytest.approx(
            calm[loss.region_ids == Region.TOOL_NAME].mean().item(), rel=1e-6
        )

    def test_are_the_running_means_of_the_entropies_of_the_loss(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, entropy_decay=0.75)
        loss = Loss(monkeypatch, trainer, tokenizer)
        policy, regions = loss.mask.bool(), loss.region_ids
        means = []
        for scale in (1.0, 2.0):
            loss.entropies = scale * loss.entropies
            loss.gradient()
            means.append([loss.entropies[policy & (regions == region)].mean().item() for region in Region])
        for region in list(Region)[1:]:
            expected = 0.75 * means[0][region] + 0.25 * means[1][region]
            assert trainer.region_statistics.entropies[region] == pytest.approx(expected, rel=1e-6)
            share = (regions[policy] == region).float().mean().item()
            assert trainer.region_statistics.shares[region] == pytest.approx(share, rel=1e-6)

    def test_shape_the_second_step_and_leave_the_first_to_grpo(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path)
        loss = Loss(monkeypatch, trainer, tokenizer)
        factors = []
        for _ in range(2):
            loss.gradient()
            factors.append(loss.reshaped / loss.inputs["advantages"].unsqueeze(1))
        policy = loss.mask.bool()
        assert torch.allclose(factors[0][policy], torch.ones(()).double())
        assert factors[1][policy].std() > 0.01
        means = (factors[1] * loss.mask).sum(1) / loss.mask.sum(1)
        assert torch.allclose(means, torch.ones_like(means), atol=1e-5)

    def test_wait_for_the_end_of_the_optimizer_step(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path)
        loss = Loss(monkeypatch, trainer, tokenizer)
        trainer.accelerator.gradient_state._set_sync_gradients(False)
        loss.gradient()
        assert trainer.region_statistics.shares == [0.0] * len(Region)
        trainer.accelerator.gradient_state._set_sync_gradients(True)
        loss.gradient()
        assert sum(trainer.region_statistics.shares) == pytest.approx(1.0)

    def test_are_untouched_by_evaluation(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path)
        loss = Loss(monkeypatch, trainer, tokenizer)
        trainer.model.eval()
        loss.gradient()
        assert trainer.region_statistics.shares == [0.0] * len(Region)

    def test_survive_a_checkpoint(self, model, tokenizer, tmp_path):
        arguments = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, **arguments)
        trainer.train()
        checkpoint = tmp_path / "checkpoint-1"
        stored = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["RegionStatistics"]
        for restore in (False, True):
            at_start = []

            class Spy(TrainerCallback):
                def on_step_begin(self, *args, **kwargs):
                    at_start.append(resumed.region_statistics.observed)  # noqa: B023

            resumed = make_trainer(
                ResTGRPOTrainer,
                copy.deepcopy(model),
                tokenizer,
                tmp_path / "resumed",
                max_steps=2,
                restore_callback_states_from_checkpoint=restore,
            )
            resumed.add_callback(Spy())
            resumed.train(resume_from_checkpoint=str(checkpoint))
            assert at_start == [stored["attributes"]["observed"]]
            assert sum(at_start[0]["shares"]) == pytest.approx(1.0)


class TestRollouts:
    def test_carry_regions_of_the_sampled_tokens(self, model, tokenizer, tmp_path):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path)
        trainer.model.train()
        output = trainer._generate_and_score_completions([{"prompt": "call"}] * 4)
        assert output["part_ids"].shape == output["completion_ids"].shape
        assert output["part_ids"].dtype == torch.int8
        assert torch.equal(output["part_ids"] == Part.NONE, output["completion_mask"] == 0)

    @pytest.mark.parametrize("arguments", [{"pad_to_multiple_of": 8}, {"mask_truncated_completions": True}])
    def test_follow_the_padding_and_masks_of_trl(self, arguments, model, tokenizer, tmp_path):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, **arguments)
        trainer.model.train()
        output = trainer._generate_and_score_completions([{"prompt": "call"}] * 4)
        assert output["part_ids"].shape == output["completion_ids"].shape
        assert torch.equal(output["part_ids"] == Part.NONE, output["completion_mask"] == 0)
        if "pad_to_multiple_of" in arguments:
            assert output["part_ids"].size(1) % 8 == 0 and (output["part_ids"] == Part.NONE).any()
        else:
            assert (output["part_ids"] == Part.NONE).all(1).any()

    def test_are_parsed_once_for_rewards_and_regions(self, model, tokenizer, tmp_path, monkeypatch):
        golds = Dataset.from_dict({"prompt": ["call"] * 4, "solution": [COMPLETIONS[1]] * 4})
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, reward_funcs=None, dataset=golds)
        syntax, parsed = trainer.partitioner.tool_call_syntax, []
        parse = syntax.parse
        monkeypatch.setattr(type(syntax), "parse", lambda self, text: parsed.append(text) or parse(text))
        trainer.model.train()
        trainer._generate_and_score_completions([golds[0]] * 4)
        assert len([text for text in parsed if text != COMPLETIONS[1]]) == 4

    def test_log_every_step(self, model, tokenizer, tmp_path):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, max_steps=2)
        trainer.train()
        steps = [log for log in trainer.state.log_history if "loss" in log]
        assert len(steps) == 2
        assert [log["rest/progress"] for log in steps] == [0.0, 0.5]
        for log in steps:
            assert 0 <= log["rest/unparsed"] <= 1
            names = [region.name.lower() for region in list(Region)[1:]]
            assert sum(log[f"rest/share/{name}"] for name in names) == pytest.approx(1.0)
            seen = [name for name in names if log[f"rest/share/{name}"] > 0]
            assert seen
            assert all(log[f"rest/entropy/{name}"] > 0 and log[f"rest/coefficient/{name}"] > 0 for name in seen)

    @pytest.mark.parametrize("per_token", [False, True])
    def test_say_how_hard_the_update_pulls_at_a_region(self, model, tokenizer, tmp_path, monkeypatch, per_token):
        trainer = make_trainer(
            ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients_func=random_coefficients, loss_type="grpo"
        )
        loss = Loss(monkeypatch, trainer, tokenizer)
        if per_token:
            loss.inputs["advantages"] = torch.randn(loss.mask.shape, dtype=torch.float64)
        loss.gradient()
        for region in set(loss.region_ids[loss.mask.bool()].tolist()):
            expected = loss.reshaped.abs()[loss.region_ids == region].mean().item()
            name = Region(region).name.lower()
            assert trainer._metrics["train"][f"rest/advantage/{name}"] == [pytest.approx(expected, rel=1e-5)]


class TestWrongSyntax:
    def test_is_warned_of_once(self, model, tokenizer, tmp_path, monkeypatch, caplog):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, tool_call_syntax="mistral")
        loss = Loss(monkeypatch, trainer, tokenizer)
        for _ in range(2):
            loss.inputs["part_ids"] = torch.where(loss.mask.bool(), int(Part.RESPONSE), 0).to(torch.int8)
            loss.gradient()
        warnings = [record.getMessage() for record in caplog.records if "rest/unparsed" in record.getMessage()]
        assert len(warnings) == 1
        assert "100% of the completions" in warnings[0] and "'mistral'" in warnings[0]
        assert trainer._metrics["train"]["rest/unparsed"] == [1.0, 1.0]

    def test_is_not_warned_of_when_most_are_parsed(self, model, tokenizer, tmp_path, monkeypatch, caplog):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path)
        Loss(monkeypatch, trainer, tokenizer).gradient()
        assert trainer._metrics["train"]["rest/unparsed"] == [0.25]
        assert not any("rest/unparsed" in record.getMessage() for record in caplog.records)


class TestModelCard:
    def test_names_the_method_and_cites_the_paper(self, model, tokenizer, tmp_path):
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path)
        trainer.create_model_card("my-model", dataset_name="my-data")
        card = (tmp_path / "README.md").read_text()
        assert "ResT" in card and "2509.21826" in card and "Zihan Lin" in card
        assert re.search(r"^- rest$", card, re.MULTILINE)


class TestRewards:
    """The trainer's own rewards on sampled ids, bound by it."""

    GOLD = COMPLETIONS[1]
    DATASET = Dataset.from_dict({"prompt": ["lunch at 12:30"] * 4, "solution": [COMPLETIONS[1]] * 4})

    def trainer(self, model, tokenizer, tmp_path, **arguments):
        defaults = {"reward_funcs": None, "dataset": self.DATASET, "reward_schedule": "static"}
        return make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, **(defaults | arguments))

    @staticmethod
    def rewards(trainer, monkeypatch, turns, tool_mask=None):
        """Rewards of given completions, as if the policy had sampled them."""
        count = len(turns)
        output = ([[1]] * count, turns, tool_mask, [""] * count, None, {}, None, [])
        monkeypatch.setattr(GRPOTrainer, "_generate", lambda self, prompts: output)
        rollout = trainer.sample([{"prompt": "", "solution": TestRewards.GOLD}] * count, [""] * count)
        trainer.read(rollout)
        return trainer.reward(rollout).tolist()

    def test_default_to_the_papers(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = self.trainer(model, tokenizer, tmp_path)
        assert trainer.reward_func_names == ["layout_reward", "tool_call_reward"]
        turns = [tokenizer(text + "<|im_end|>")["input_ids"] for text in (self.GOLD, COMPLETIONS[0], "plain")]
        assert self.rewards(trainer, monkeypatch, turns)[0] == [1.0, 3.0]
        assert self.rewards(trainer, monkeypatch, turns)[2] == [0.0, -3.0]

    def test_follow_the_schedule_and_the_rollouts_of_the_run(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = self.trainer(model, tokenizer, tmp_path, reward_schedule="horizon", steps_per_generation=4)
        assert trainer.args.steps_per_rollout == 4
        trainer.state.max_steps, trainer.state.global_step = 16, 11  # in the third of four rollouts
        turns = [tokenizer(self.GOLD)["input_ids"]]
        assert self.rewards(trainer, monkeypatch, turns) == [pytest.approx([1.5, 2.5])]

    def test_count_the_rollouts_of_a_step_that_has_several(self, model, tokenizer, tmp_path, monkeypatch):
        several = {"steps_per_generation": 1, "gradient_accumulation_steps": 4}
        trainer = self.trainer(model, tokenizer, tmp_path, reward_schedule="released", **several)
        trainer.state.max_steps, trainer.state.global_step = 100, 38  # 152 rollouts: the schedule has ended
        rewards = self.rewards(trainer, monkeypatch, [tokenizer(self.GOLD)["input_ids"]])
        assert rewards == [[1.0, 3.0]]

    def test_read_markers_that_are_special_tokens(self, model, tokenizer, tmp_path, monkeypatch):
        special = copy.deepcopy(tokenizer)
        special.add_special_tokens({"extra_special_tokens": ["<tool_call>", "</tool_call>"]})
        trainer = self.trainer(model, special, tmp_path)
        ids = special(self.GOLD + "<|im_end|>")["input_ids"]
        assert "<tool_call>" not in special.decode(ids, skip_special_tokens=True)
        assert self.rewards(trainer, monkeypatch, [ids]) == [[1.0, 3.0]]

    def test_read_the_policys_own_tokens_turn_by_turn(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = self.trainer(model, tokenizer, tmp_path)
        call, answer = (tokenizer(text + "<|im_end|>")["input_ids"] for text in (self.GOLD, "Done."))
        result = tokenizer("<|im_start|>user\n" + self.GOLD + "<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        turns = [call + result + answer, answer + result + answer]
        masks = [[*[1] * len(own), *[0] * len(result), *[1] * len(answer)] for own in (call, answer)]
        assert self.rewards(trainer, monkeypatch, turns, masks) == [[1.0, 3.0], [0.0, -3.0]]

    def test_of_completions_from_elsewhere_are_read_again(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = self.trainer(model, tokenizer, tmp_path)
        self.rewards(trainer, monkeypatch, [tokenizer("plain")["input_ids"]])
        ids = tokenizer(self.GOLD)["input_ids"]
        assert trainer.reward_funcs[1]([""], [self.GOLD], completion_ids=[ids]) == [3.0]

    def test_that_cannot_score_the_data_are_refused_at_start(self, model, tokenizer, tmp_path):
        with pytest.raises(ValueError, match="column `solution`"):
            self.trainer(model, tokenizer, tmp_path, dataset=DATASET)

    def test_are_scheduled_by_their_own_schedule_if_they_have_one(self, model, tokenizer, tmp_path):
        rewards = [LayoutReward(schedule="released"), ToolCallReward()]
        trainer = self.trainer(model, tokenizer, tmp_path, reward_funcs=rewards)
        assert [reward.schedule for reward in trainer.reward_funcs] == ["released", "static"]
        assert rewards[1].tool_call_syntax is None


class TestArguments:
    def test_of_grpo_are_taken_by_place_as_grpo_takes_them(self, model, tokenizer, tmp_path):
        args = ResTGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", num_generations=4)
        trainer = ResTGRPOTrainer(model, length_reward, args, DATASET, None, tokenizer)
        assert trainer.train_dataset is DATASET and trainer.processing_class is tokenizer

    def test_of_a_rule_replace_what_the_config_names_and_its_checks(self, model, tokenizer, tmp_path):
        level = {"importance_sampling_level": "sequence"}
        trainer = make_trainer(
            ResTGRPOTrainer, model, tokenizer, tmp_path, coefficients_func=random_coefficients, **level
        )
        assert trainer.rule is random_coefficients
        with pytest.raises(ValueError, match="coefficients='entropy', of mean 1, cancel out"):
            make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, **level)

    def test_of_grpo_are_refused_with_the_cure(self, model, tokenizer, tmp_path):
        with pytest.raises(ValueError, match="ResTGRPOConfig"):
            ResTGRPOTrainer(model, length_reward, GRPOConfig(str(tmp_path), use_cpu=True, bf16=False))
