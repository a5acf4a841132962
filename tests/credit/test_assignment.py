import copy
import logging

import pytest
import torch
from datasets import Dataset
from test_trainer import make_trainer, relative_difference
from trl import GRPOTrainer

from rest_trl import Region, ResTGRPOTrainer
from rest_trl.credit import DecomposedReward, Segment
from rest_trl.regions import to_regions
from rest_trl.rewards import LayoutReward, ToolCallReward


def text(value, city="Oslo"):
    return f'<tool_call>\n{{"name": "f", "arguments": {{"city": "{city}", "days": {value}}}}}\n</tool_call>'


DATASET = Dataset.from_dict({"prompt": ["call the tool"] * 8, "solution": [text(3)] * 8})
# Two groups of four: in the first the cities are right twice and the days once; the second is without spread.
COMPLETIONS = [text(3), text(4), text(3, "Rome"), "plain", *[text(3)] * 4]


def credit_trainer(model, tokenizer, path, cls=ResTGRPOTrainer, **arguments):
    defaults = {
        "reward_funcs": None,
        "dataset": DATASET,
        "per_device_train_batch_size": 8,
        "coefficients": "uniform",
        "reward_schedule": "static",
    }
    return make_trainer(cls, model, tokenizer, path, **(defaults | arguments))


def roll_out(trainer, tokenizer, monkeypatch, completions=COMPLETIONS):
    """The batch of the loss for given completions."""
    ids = [tokenizer(completion + "<|im_end|>")["input_ids"] for completion in completions]
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda *_: (ids, None))
    trainer.model.train()
    return trainer._generate_and_score_completions([dict(DATASET[0]) for _ in completions])


class TestRegionCredit:
    def test_gives_a_value_what_is_undecided(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = credit_trainer(model, tokenizer, tmp_path, credit="region", scale_rewards="none")
        output = roll_out(trainer, tokenizer, monkeypatch)
        plain = credit_trainer(model, tokenizer, tmp_path, scale_rewards="none")
        whole = roll_out(plain, tokenizer, monkeypatch)["advantages"]
        advantages, regions = output["advantages"], to_regions(output["part_ids"])
        assert advantages.shape == output["completion_ids"].shape and whole.shape == (8,)
        outside = regions != Region.PARAMETERS
        assert torch.equal(advantages[outside], whole.unsqueeze(1).expand_as(advantages)[outside])
        # A right value is worth 6 of the reward's range by 4 points. All three calls have the segment of `days`:
        # undecided there is 3 - 1.5, 1.5 - 1.5 and 1.5 - 0 of the calls, and 1 of the layout each.
        days = [row[inside][-2].item() for row, inside in zip(advantages[:3], ~outside[:3], strict=True)]
        assert days == pytest.approx([0.5, -1.0, 0.5], abs=1e-6)

    def test_of_rewards_without_parts_is_grpo_to_the_bit(self, model, tokenizer, tmp_path):
        weights = []
        for credit in ("completion", "region"):
            trainer = credit_trainer(
                copy.deepcopy(model),
                tokenizer,
                tmp_path,
                reward_funcs=LayoutReward(),
                credit=credit,
                max_steps=2,
                gradient_accumulation_steps=2,
                per_device_train_batch_size=4,
                num_iterations=2,
            )
            trainer.train()
            weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
        assert torch.equal(*weights)

    def test_of_groups_without_spread_is_zero(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = credit_trainer(model, tokenizer, tmp_path, credit="region")
        advantages = roll_out(trainer, tokenizer, monkeypatch)["advantages"]
        assert advantages[4:].eq(0).all() and advantages[:4].ne(0).any()

    def test_multiplies_with_the_coefficients(self, model, tokenizer, tmp_path, monkeypatch):
        rule = lambda mask, **kwargs: 1.0 + torch.arange(mask.size(1)).expand(mask.shape)  # noqa: E731
        seen = {}
        for name, arguments in (("uniform", {}), ("rule", {"coefficients_func": rule})):
            trainer = credit_trainer(model, tokenizer, tmp_path, credit="region", **arguments)
            output = roll_out(trainer, tokenizer, monkeypatch)
            trainer.current_gradient_accumulation_steps = 1
            found, loss = {}, GRPOTrainer._compute_loss
            monkeypatch.setattr(
                GRPOTrainer,
                "_compute_loss",
                lambda self, model, inputs: (loss(self, model, inputs), found.update(inputs))[0],  # noqa: B023
            )
            trainer.compute_loss(trainer.model, output)
            monkeypatch.undo()
            seen[name] = found["advantages"]
        assert torch.allclose(seen["rule"], seen["uniform"] * (1.0 + torch.arange(seen["uniform"].size(1))))

    @pytest.mark.parametrize("credit", ["region", "local"])
    def test_trains_to_other_weights_than_grpo(self, credit, model, tokenizer, tmp_path, monkeypatch):
        weights = []
        for name in ("completion", credit):
            trainer = credit_trainer(copy.deepcopy(model), tokenizer, tmp_path, credit=name, max_steps=1)
            ids = [tokenizer(completion + "<|im_end|>")["input_ids"] for completion in COMPLETIONS]
            monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda *_: (ids, None))  # noqa: B023
            trainer.train()
            weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
        before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        assert relative_difference(weights[1] - before, weights[0] - before) > 0.01

    def test_goes_on_from_a_checkpoint_to_the_bit(self, model, tokenizer, tmp_path):
        arguments = {"credit": "region", "coefficients": "entropy", "max_steps": 3, "save_strategy": "steps"}
        trainer = credit_trainer(copy.deepcopy(model), tokenizer, tmp_path / "a", save_steps=1, **arguments)
        trainer.train()
        resumed = credit_trainer(copy.deepcopy(model), tokenizer, tmp_path / "b", save_steps=1, **arguments)
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
        pairs = zip(trainer.model.parameters(), resumed.model.parameters(), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs)

    def test_without_a_decomposed_reward_is_warned_of(self, model, tokenizer, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            credit_trainer(model, tokenizer, tmp_path, credit="region", reward_funcs=LayoutReward())
        assert any("changes nothing" in record.getMessage() for record in caplog.records)

    def test_with_one_whose_parts_nobody_has_decided_yet_is_not(self, model, tokenizer, tmp_path, monkeypatch, caplog):
        trainer = credit_trainer(model, tokenizer, tmp_path, credit="region", max_steps=1)
        ids = [tokenizer("No tool fits.<|im_end|>")["input_ids"] for _ in COMPLETIONS]
        monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda *_: (ids, None))
        with caplog.at_level(logging.WARNING):
            trainer.train()
        assert not any("changes nothing" in record.getMessage() for record in caplog.records)

    def test_with_a_ratio_per_sequence_is_refused(self, model, tokenizer, tmp_path):
        with pytest.raises(ValueError, match="averages out"):
            credit_trainer(model, tokenizer, tmp_path, credit="region", importance_sampling_level="sequence")

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [({"credit": "turns"}, "completion, turn, region, local"), ({"credit_baseline": "x"}, "group, leave_one_out")],
    )
    def test_of_another_name_is_refused(self, arguments, names, model, tokenizer, tmp_path):
        with pytest.raises(ValueError, match=f"choose one of {names}"):
            credit_trainer(model, tokenizer, tmp_path, **arguments)


class TestDecomposedReward:
    def test_is_any_reward_function_with_segments(self, model, tokenizer, tmp_path, monkeypatch):
        class FirstToken:
            """Pays 1 for the first token, whatever it is, and the length of the completion."""

            __name__ = "first_token"

            def __call__(self, completion_ids, **kwargs):
                return [1.0 + len(ids) for ids in completion_ids]

            def segments(self, prompts, completions, completion_ids, solution, trainer_state):
                assert len(prompts) == len(completions) == len(solution) == len(completion_ids)
                assert trainer_state.global_step == 0
                return [[Segment(1, len(ids), "rest", 1.0)] for ids in completion_ids]

        assert isinstance(FirstToken(), DecomposedReward) and isinstance(ToolCallReward(), DecomposedReward)
        assert not isinstance(LayoutReward(), DecomposedReward)
        trainer = credit_trainer(
            model, tokenizer, tmp_path, credit="region", reward_funcs=FirstToken(), scale_rewards="none"
        )
        output = roll_out(trainer, tokenizer, monkeypatch)
        lengths = output["completion_mask"].sum(1)[:4].float()
        assert torch.allclose(output["advantages"][:4, 1], lengths - lengths.mean())


PROGRAM = """
import sys
from types import SimpleNamespace
import torch
from accelerate import PartialState
from rest_trl.credit import Segment
from rest_trl.credit.assignment import assigned_advantages, find_segments

class Reward:
    def __call__(self, **kwargs): ...
    def segments(self, completion_ids, **kwargs):
        return [[Segment(0, 2, "a", float(ids[0])), Segment(2, 3, ids[1], 0.5)] for ids in completion_ids]

rows = [[i, i % 2, 0] for i in range(8)]
args = SimpleNamespace(
    credit="region", leaves_one_out=False, scale_rewards="batch", multi_objective_aggregation="sum_then_normalize"
)
state = PartialState(cpu=True)
count = 8 // state.num_processes
local = slice(state.process_index * count, (state.process_index + 1) * count)
rewards = torch.arange(16.0).view(8, 2).sin()
reward_funcs = [Reward(), len]
segments = find_segments(reward_funcs, {"completion_ids": rows[local]})
rollout = SimpleNamespace(rewards=rewards, segments=segments, prefix_lengths=None)
weights = torch.tensor([1.0, 0.5])
values = assigned_advantages(torch.arange(8.0)[local], rollout, reward_funcs, weights, args, 8, 4)
torch.save(values, f"{sys.argv[1]}/{state.num_processes}_{state.process_index}")
if state.num_processes > 1:
    state.destroy_process_group()
"""


class TestOnTwoRanks:
    def test_a_group_that_is_split_over_ranks_is_compared_as_a_whole(self, tmp_path, fork_server):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        for ranks in (2, 1):
            fork_server.run(program, tmp_path, ranks=ranks)
        whole = torch.load(tmp_path / "1_0")
        assert whole.shape == (8, 4) and whole[:, 0].unique().numel() > 4
        assert torch.equal(torch.cat([torch.load(tmp_path / f"2_{rank}") for rank in range(2)]), whole)
