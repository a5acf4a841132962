import json

import pytest
import torch
from test_trainer import make_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.credit import branched_advantages
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.rollouts.branches import Branches


@pytest.fixture(scope="module")
def tiny():
    dataset = load_tiny_dataset(size=32).filter(lambda row: "<tool_call>" in row["solution"])
    return AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left"), dataset


def branching_trainer(tiny, path, **arguments):
    tokenizer, dataset = tiny
    defaults = {
        "branch_size": 2,
        "reward_funcs": None,
        "dataset": dataset,
        "coefficients": "uniform",
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "max_completion_length": 64,
        "max_steps": 2,
    }
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR)
    return make_trainer(ResTGRPOTrainer, model, tokenizer, path, **(defaults | arguments))


def roll_out(trainer, prompts=2):
    trainer.model.train()
    torch.manual_seed(0)
    rows = [trainer.train_dataset[i] for i in range(prompts) for _ in range(trainer.num_generations)]
    return trainer.roll_out([dict(row) for row in rows])


class TestRollout:
    @pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
    @pytest.mark.parametrize("credit", ["completion", "region"])
    def test_is_credited_by_branches(self, credit, baseline, tiny, tmp_path):
        trainer = branching_trainer(tiny, tmp_path, credit=credit, credit_baseline=baseline)
        output = roll_out(trainer)
        ids, advantages, mask = output["completion_ids"], output["advantages"], output["completion_mask"].bool()
        assert advantages.shape == ids.shape and len(trainer.rollout.prefix_lengths) == 16
        rewards, segments = trainer.rollout.rewards, trainer.rollout.segments
        assert any(of_reward for of_row in segments for of_reward in of_row) == (credit == "region")
        arguments = (rewards, trainer.reward_weights, segments, trainer.rollout.prefix_lengths, 8, 2, ids.size(1))
        assert torch.equal(advantages, branched_advantages(*arguments, leave_one_out=baseline == "leave_one_out"))
        for first in range(0, 16, 2):
            length = trainer.rollout.prefix_lengths[first]
            assert torch.equal(ids[first, :length], ids[first + 1, :length])
            assert mask[first, :length].all() and advantages[first : first + 2, :length].unique().numel() == 1

    def test_counts_the_tokens_that_were_sampled(self, tiny, tmp_path):
        trainer = branching_trainer(tiny, tmp_path)
        output = roll_out(trainer)
        lengths, prefixes = output["completion_mask"].sum(1), torch.tensor(trainer.rollout.prefix_lengths)
        metrics = trainer._metrics["train"]
        assert metrics["rest/generated_tokens"] == [(lengths - prefixes).sum() + prefixes[::2].sum()]
        assert metrics["rest/branch/whole"] == [(lengths == prefixes)[::2].float().mean()]
        assert metrics["rest/branch/without_reasoning"] == [0.0]
        assert metrics["completions/mean_length"] == [lengths.float().mean()]

    def test_of_an_evaluation_is_whole(self, tiny, tmp_path):
        dataset = tiny[1].select(range(2))
        trainer = branching_trainer(tiny, tmp_path, per_device_eval_batch_size=6, num_generations_eval=3)
        trainer.model.eval()
        output = trainer.roll_out([dict(row) for row in dataset for _ in range(3)])
        assert trainer.rollout.prefix_lengths is None and len(output["completion_ids"]) == 6
        assert not any(name.startswith("rest/branch") for name in trainer._metrics["eval"])

    def test_leaves_the_model_its_own_generate(self, tiny, tmp_path):
        trainer = branching_trainer(tiny, tmp_path)
        roll_out(trainer)
        assert trainer.model.generate.__func__ is type(trainer.model).generate

    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"credit": "region", "credit_baseline": "leave_one_out", "coefficients": "entropy"},
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_iterations": 2},
        ],
    )
    def test_trains(self, arguments, tiny, tmp_path):
        trainer = branching_trainer(tiny, tmp_path, **arguments)
        before = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        trainer.train()
        after = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        assert after.isfinite().all() and not torch.equal(before, after)
        log = trainer.state.log_history[0]
        assert 0 < log["rest/generated_tokens"] < 16 * log["completions/mean_length"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"branch_size": 3}, "num_generations=8 is not a multiple of branch_size=3"),
            ({"branch_size": 8}, "with at least two branches"),
            ({"branch_size": 1}, "of at least two completions"),
            ({"importance_sampling_level": "sequence"}, "with branch_size=2, which is per token, averages out"),
        ],
        ids=lambda value: "" if isinstance(value, str) else ",".join(value),
    )
    def test_of_the_config_name_cause_and_cure(self, arguments, message):
        defaults = {"branch_size": 2, "num_generations": 8, "per_device_train_batch_size": 8}
        with pytest.raises(ValueError, match=message) as error:
            ResTGRPOConfig("unused", use_cpu=True, bf16=False, report_to="none", **(defaults | arguments))
        assert "\n" not in str(error.value)

    def test_of_a_branch_on_two_processes(self, monkeypatch):
        monkeypatch.setattr(ResTGRPOConfig, "world_size", property(lambda self: 2))
        with pytest.raises(ValueError, match=r"a branch of branch_size=4 would lie on two processes.*make that a"):
            ResTGRPOConfig(
                "unused",
                use_cpu=True,
                bf16=False,
                branch_size=4,
                num_generations=12,
                per_device_train_batch_size=6,
            )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"generation_kwargs": {"min_new_tokens": 3, "top_k": 5}}, r"may depend on the start \(min_new_tokens\)"),
            ({"use_transformers_continuous_batching": True}, "combined with use_transformers_continuous_batching"),
        ],
    )
    def test_of_the_trainer_name_cause_and_cure(self, arguments, message, tiny, tmp_path):
        with pytest.raises(ValueError, match=message):
            branching_trainer(tiny, tmp_path, **arguments)

    def test_of_tools_and_rollout_functions(self, tiny, tmp_path):
        trainer = branching_trainer(tiny, tmp_path)
        cases = (("tools", [len]), ("environment_factories", {"": object}), ("rollout_func", print), ("_is_vlm", True))
        for name, value in cases:
            before = getattr(trainer, name)
            setattr(trainer, name, value)
            with pytest.raises(ValueError, match=r"branch_size=2 cannot be combined with .*: leave out branch_size"):
                Branches(trainer, trainer.partitioner)
            setattr(trainer, name, before)


PROGRAM = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset

args = ResTGRPOConfig(
    sys.argv[1], branch_size=2, num_generations=8, per_device_train_batch_size=4, max_steps=3,
    max_completion_length=32, credit="region", use_cpu=True, bf16=False, report_to="none", save_strategy="no",
    logging_steps=1, disable_tqdm=True, **json.loads(sys.argv[2]),
)
trainer = ResTGRPOTrainer(
    AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR), None, args, train_dataset=load_tiny_dataset(size=16),
    processing_class=AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left"),
)
assert trainer.accelerator.num_processes == 2
trainer.train()
weights = float(sum(parameter.double().abs().sum() for parameter in trainer.model.parameters()))
if trainer.accelerator.is_main_process:
    logs = [log for log in trainer.state.log_history if "loss" in log]
    print(json.dumps({"weights": weights, "logs": logs}))
else:
    print(json.dumps({"weights": weights}))
trainer.accelerator.end_training()
"""


def two_ranks(fork_server, tmp_path, **arguments):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ranks = fork_server.run(program, tmp_path / "out", json.dumps(arguments), ranks=2)
    lines = [line for rank in ranks for line in rank.stdout.splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"weights')]


class TestOnTwoRanks:
    def test_a_prompt_whose_branches_lie_on_both_trains_alike_and_is_refilled_alike(self, tmp_path, fork_server):
        first, second = two_ranks(fork_server, tmp_path, refill_groups=1)
        assert first["weights"] == second["weights"]
        logs = next(result["logs"] for result in (first, second) if "logs" in result)
        assert len(logs) == 3
        for log in logs:
            groups = 1 + log["rest/groups/extra"]
            assert 0 < log["rest/generated_tokens"] < groups * 8 * log["completions/mean_length"]
            assert log["rest/branch/whole"] in [count / 8 for count in range(9)]
            assert log["rest/groups/extra"] == log["rest/groups/wasted"] >= log["rest/groups/refilled"]
