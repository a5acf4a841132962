import copy

import pytest
import torch
from datasets import Dataset
from test_trainer import make_trainer

from rest_trl import ResTGRPOTrainer
from rest_trl.rollouts.refill import RefilledGroups


# Rewards tell the completions of "vary" prompts apart, and those of "flat" ones not.
DATASET = Dataset.from_dict({"prompt": [f"{kind} {i}" for i in range(8) for kind in ("flat", "vary")]})
NEVER = Dataset.from_dict({"prompt": [f"flat {i}" for i in range(8)]})


class Lengths:
    """Pays the place of a completion in its group where the prompt says so."""

    __name__ = "lengths"

    def __call__(self, prompts, completion_ids, log_extra, **kwargs):
        log_extra("number", [prompt.split()[1] for prompt in prompts])
        kinds = [prompt.split()[0] for prompt in prompts]
        return [index % 4 * float(kind == "vary") for index, kind in enumerate(kinds)]


def refill_trainer(model, tokenizer, path, **arguments):
    defaults = {
        "reward_funcs": Lengths(),
        "dataset": DATASET,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "coefficients": "uniform",
        "refill_groups": 8,
    }
    return make_trainer(ResTGRPOTrainer, model, tokenizer, path, **(defaults | arguments))


def roll_out(trainer, kinds=("flat", "vary", "flat", "vary")):
    trainer.model.train()
    rows = [{"prompt": f"{kind} {100 + i}"} for i, kind in enumerate(kinds) for _ in range(4)]
    output = trainer.roll_out(rows)
    tokens = [ids[mask.bool()] for ids, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)]
    return output, [trainer.processing_class.decode(ids) for ids in tokens][::4]


class TestRefill:
    def test_puts_fresh_groups_with_spread_in_the_place_of_wasted_ones(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path)
        output, prompts = roll_out(trainer)
        assert prompts[1] == "vary 101" and prompts[3] == "vary 103"
        assert all(prompt in DATASET["prompt"] and prompt.startswith("vary") for prompt in (prompts[0], prompts[2]))
        assert output["advantages"].view(4, 4).abs().sum(1).gt(1).all()
        metrics = trainer._metrics["train"]
        assert metrics["rest/groups/wasted"] == [0.5] and metrics["rest/groups/refilled"] == [2]
        assert 2 <= metrics["rest/groups/extra"][0] <= 8
        assert metrics["frac_reward_zero_std"] == [0.0]

    def test_keeps_what_belongs_to_a_completion_together(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path, log_completions=True)
        _, prompts = roll_out(trainer)
        logs = trainer._logs
        assert list(logs["prompt"])[::4] == prompts
        assert list(logs["extra"]["number"])[::4] == [prompt.split()[1] for prompt in prompts]
        assert list(logs["rewards"]["lengths"]) == [0.0, 1.0, 2.0, 3.0] * 4
        assert len(logs["extra"]["regions"]) == 16

    def test_keeps_to_its_budget(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path, dataset=NEVER, refill_groups=3)
        _, prompts = roll_out(trainer)
        assert prompts == ["flat 100", "vary 101", "flat 102", "vary 103"]
        metrics = trainer._metrics["train"]
        assert metrics["rest/groups/extra"] == [3] and metrics["rest/groups/refilled"] == [0]
        assert metrics["frac_reward_zero_std"] == [0.5]

    def test_counts_the_tokens_of_all_groups(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path, dataset=NEVER, refill_groups=4)
        model.generation_config.eos_token_id = None
        trainer.generation_config.eos_token_id = None  # every completion has 12 tokens
        trainer.eos_token_ids = [-1]
        roll_out(trainer)
        assert trainer._metrics["train"]["rest/generated_tokens"] == [(16 + 16) * 12]

    def test_samples_nothing_where_no_group_is_wasted(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path)
        _, prompts = roll_out(trainer, ["vary"] * 4)
        assert prompts == [f"vary {100 + i}" for i in range(4)]
        assert trainer._metrics["train"]["rest/groups/extra"] == [0]

    def test_leaves_evaluations_alone(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path, per_device_eval_batch_size=4)
        trainer.model.eval()
        trainer.roll_out([{"prompt": "flat 1"} for _ in range(4)])
        assert not any(name.startswith("rest/groups") for name in trainer._metrics["eval"])

    def test_shares_of_wasted_groups_are_logged_without_it(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path, refill_groups=0, scale_rewards="batch")
        roll_out(trainer)
        metrics = trainer._metrics["train"]
        assert metrics["rest/groups/wasted"] == [0.5] and metrics["frac_reward_zero_std"] == [0.0]
        assert "rest/groups/extra" not in metrics

    def test_goes_on_from_a_checkpoint_to_the_bit(self, model, tokenizer, tmp_path):
        arguments = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
        trainer = refill_trainer(copy.deepcopy(model), tokenizer, tmp_path / "a", **arguments)
        trainer.train()
        resumed = refill_trainer(copy.deepcopy(model), tokenizer, tmp_path / "b", **arguments)
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
        pairs = zip(trainer.model.parameters(), resumed.model.parameters(), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs)
        assert trainer.state.log_history[0]["rest/groups/refilled"] > 0

    def test_draws_other_prompts_for_each_rollout_of_a_step(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path)
        again = refill_trainer(model, tokenizer, tmp_path)
        first, second = trainer._refilled._fresh_prompts(), trainer._refilled._fresh_prompts()
        assert first != second and len(set(first)) == 8
        assert again._refilled._fresh_prompts() == first
        trainer.state.global_step = again.state.global_step = 1
        assert trainer._refilled._fresh_prompts() == again._refilled._fresh_prompts() not in (first, second)


class TestRefusals:
    def test_of_tools_images_and_streams(self, model, tokenizer, tmp_path):
        trainer = refill_trainer(model, tokenizer, tmp_path)
        streamed = DATASET.to_iterable_dataset()
        cases = (
            ("tools", [len]),
            ("environment_factories", {"": object}),
            ("rollout_func", print),
            ("_is_vlm", True),
            ("train_dataset", streamed),
        )
        for name, value in cases:
            before = getattr(trainer, name)
            setattr(trainer, name, value)
            with pytest.raises(ValueError, match=r"refill_groups=8 cannot be combined with .*: set refill_groups=0"):
                RefilledGroups(trainer)
            setattr(trainer, name, before)

    def test_of_groups_that_cannot_be_split(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = refill_trainer(model, tokenizer, tmp_path, refill_groups=3)
        monkeypatch.setattr(type(trainer.accelerator), "num_processes", property(lambda self: 8))
        with pytest.raises(ValueError, match="split over 8 processes: make it a multiple of 2"):
            RefilledGroups(trainer)
