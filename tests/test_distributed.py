"""
Two processes against one, on the same completions: engines/two_ranks.py, run by the launchers that a user would run.

The launchers and the ranks that they start are forks (see engines/fork_server.py), except in one test, for which all
are new.

Tokens' log-probabilities and entropies are TRL's and in single precision even in a model of double precision, as are
the coefficients: 1e-6 is a few roundings.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from engines.fork_server import ROOT, SETTINGS

from rest_trl import Region
from rest_trl.runs.preflight import check_processes


PROGRAM = ["tests/engines/two_ranks.py"]
RUNS = ["main", "resume", "gold", "shared"]
RUNS += ["dapo/entropy", "dr_grpo/entropy", "luspo/entropy", "bnpo/grpo", "bnpo/entropy"]
TIMEOUT = 400  # seconds for one launch; 10 to 40 on two idle cores

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not HAS_DEEPSPEED,
    reason="DeepSpeed is not installed: `DS_BUILD_OPS=0 pip install deepspeed` runs this test on a CPU",
)


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def torchrun(*arguments: str) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]


def accelerate_launch(config: str, *arguments: str) -> list[str]:
    """With an accelerate config of recipes/, but on two processes and in full precision."""
    options = ["--config_file", f"recipes/accelerate/{config}.yaml", "--num_processes", "2", "--mixed_precision", "no"]
    return ["-m", "accelerate.commands.launch", *options, "--main_process_port", free_port(), *arguments]


def results(path: Path, ranks: int) -> list[dict[str, Any]]:
    # our own files, and they hold more than tensors
    return [torch.load(path / f"rank{rank}.pt", weights_only=False) for rank in range(ranks)]


@pytest.fixture(scope="module")
def train(fork_server):
    """Trains under a launcher; what every rank has recorded."""

    def train(
        path: Path, command: list[str], runs: list[str], *options: str, **environment: str
    ) -> list[dict[str, Any]]:
        arguments = ["--output", str(path), "--ranks", "2", "--runs", *runs, *options]
        fork_server.run(*command, *arguments, timeout=TIMEOUT, **environment)
        return results(path, 2)

    return train


@pytest.fixture(scope="module")
def one(tmp_path_factory, fork_server):
    path = tmp_path_factory.mktemp("one")
    runs = [*RUNS, "separate", *(["float32"] if HAS_DEEPSPEED else [])]
    fork_server.run(*PROGRAM, "--output", path, "--ranks", "1", "--runs", *runs)
    (result,) = results(path, 1)
    assert {(run["num_processes"], run["distributed_type"]) for run in result.values()} == {(1, "NO")}
    return result


@pytest.fixture(scope="module")
def ddp_path(tmp_path_factory):
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def ddp(ddp_path, train):
    return train(ddp_path, torchrun(*PROGRAM), RUNS)


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory, train):
    path, command = tmp_path_factory.mktemp("fsdp2"), accelerate_launch("fsdp2", *PROGRAM)
    return train(path, command, ["main", "shared"], "--sharded", "fsdp", ACCELERATE_TORCH_DEVICE="cpu")


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def relative_difference(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert actual.keys() == expected.keys()
    return ((flat(actual) - flat(expected)).norm() / flat(expected).norm()).item()


def observed(result: dict[str, Any], step: int) -> dict[str, list[float]]:
    return result["statistics"][step]["attributes"]["observed"]


def statistics_difference(actual: dict[str, Any], expected: dict[str, Any], step: int) -> float:
    pairs = [
        (a, e)
        for name in ("entropies", "shares")
        for a, e in zip(observed(actual, step)[name], observed(expected, step)[name], strict=True)
    ]
    assert all((a is None) == (e is None) for a, e in pairs)
    return max(abs(a - e) for a, e in pairs if e is not None)


def rest_logs(result: dict[str, Any]) -> list[dict[str, float]]:
    return [  # padding, and so the tokens computed, are those of a rank's micro-batches
        {name: value for name, value in log.items() if name.startswith("rest/") and name != "rest/tokens_computed"}
        for log in result["logs"]
        if "loss" in log
    ]


def check_equal(one: dict[str, Any], ranks: list[dict[str, Any]], gradient_bound: float = 1e-6) -> None:
    """Region entropies, coefficients, gradients and logs of each step, as they are on one process."""
    steps = len(one["statistics"])
    assert steps >= 2 and len(one["gradients"]) == steps
    coefficients = ranks[0]["coefficients"] | ranks[1]["coefficients"]
    assert len(coefficients) == len(ranks[0]["coefficients"]) + len(ranks[1]["coefficients"]) == 16 * steps
    assert coefficients.keys() == one["coefficients"].keys()
    assert max((coefficients[key] - one["coefficients"][key]).abs().max().item() for key in coefficients) <= 1e-6
    assert rest_logs(ranks[0]) == rest_logs(ranks[1])
    for step in range(steps):
        assert observed(ranks[0], step) == observed(ranks[1], step)
        assert statistics_difference(ranks[0], one, step) <= 1e-6
        for rank in ranks:
            assert relative_difference(rank["gradients"][step], one["gradients"][step]) <= gradient_bound
        for actual, expected in zip(rest_logs(ranks[0]), rest_logs(one), strict=True):
            assert actual.keys() == expected.keys()
            assert all(abs(actual[name] - expected[name]) <= 1e-6 for name in expected)


def kinds_of(results: list[dict[str, Any]], run: str) -> set[tuple[int, str, str]]:
    return {(rank[run]["num_processes"], rank[run]["distributed_type"], rank[run]["wrapper"]) for rank in results}


class TestBatch:
    """That the ranks differ in all that could make a difference."""

    def test_has_other_lengths_on_each_rank(self, ddp):
        lengths = [[shape[1] for shape in rank["main"]["shapes"]] for rank in ddp]
        assert lengths[0][0] > 2 * lengths[1][0]

    def test_has_a_rank_without_any_call_in_the_first_step(self, ddp):
        kinds = [{Region(r) for r in rank["main"]["regions"][0]} for rank in ddp]
        call = {Region.TOOL_NAME, Region.PARAMETERS}
        assert call <= kinds[0] and not call & kinds[1]

    def test_has_a_rank_whose_completions_are_all_masked_in_the_second_step(self, ddp):
        unmasked = [rank["main"]["unmasked"] for rank in ddp]  # two micro-batches a step
        assert unmasked[1][2:4] == [0, 0]
        assert all(unmasked[0]) and all(unmasked[1][4:])

    def test_has_coefficients_that_differ_from_one_another_and_between_steps(self, one):
        by_step = [torch.cat([c for key, c in one["main"]["coefficients"].items() if key[0] == s]) for s in range(4)]
        spread = [(c[c > 0].min().item(), c.max().item()) for c in by_step]
        assert spread[0] == pytest.approx((1, 1))  # plain GRPO: nothing has been observed
        assert all(low < 0.9 and high > 1.1 for low, high in spread[1:])
        assert len({round(high, 4) for _, high in spread}) == 4


class TestTwoRanks:
    def test_under_torchrun_are_as_one(self, one, ddp):
        assert kinds_of(ddp, "main") == {(2, "MULTI_CPU", "DistributedDataParallel")}
        check_equal(one["main"], [rank["main"] for rank in ddp])

    def test_under_accelerate_launch_are_as_one(self, one, train, tmp_path):
        ranks = train(tmp_path, accelerate_launch("ddp", *PROGRAM), ["main"])
        assert kinds_of(ranks, "main") == {(2, "MULTI_CPU", "DistributedDataParallel")}
        check_equal(one["main"], [rank["main"] for rank in ranks])

    def test_sharded_by_fsdp2_are_as_one(self, one, fsdp2):
        assert kinds_of(fsdp2, "main") == kinds_of(fsdp2, "shared") == {(2, "FSDP", "FSDPQwen3ForCausalLM")}
        check_equal(one["main"], [rank["main"] for rank in fsdp2])

    @pytest.mark.parametrize("launch", ["ddp", "fsdp2"])
    def test_with_shared_prompts_are_as_one(self, launch, one, request):
        ranks = request.getfixturevalue(launch)
        assert all(rank["shared"]["shared"] for rank in ranks) and one["shared"]["shared"]
        check_equal(one["shared"], [rank["shared"] for rank in ranks])
        check_equal(one["separate"], [rank["shared"] for rank in ranks])

    @needs_deepspeed
    def test_sharded_by_zero3_are_as_one(self, one, train, tmp_path):
        command = accelerate_launch("zero3", *PROGRAM)
        device = {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
        ranks = train(tmp_path, command, ["float32"], "--sharded", "deepspeed", **device)
        assert kinds_of(ranks, "float32") == {(2, "DEEPSPEED", "DeepSpeedEngine")}
        # DeepSpeed refuses a model in double precision; in single precision 1.5e-6 was seen
        check_equal(one["float32"], [rank["float32"] for rank in ranks], gradient_bound=5e-6)

    # One of each normaliser that does not depend on the split: sapo has that of grpo; cispo and vespo that of dapo.
    @pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo", "luspo"])
    def test_are_as_one_with_the_loss(self, one, ddp, loss_type):
        run = f"{loss_type}/entropy"
        check_equal(one[run], [rank[run] for rank in ddp])

    def test_are_as_one_with_gold_calls_of_which_one_rank_has_none(self, one, ddp):
        check_equal(one["gold"], [rank["gold"] for rank in ddp])
        assert rest_logs(one["gold"])[0]["rest/gold/without"] == 0.5

    def test_differ_with_bnpo_no_more_than_in_grpo(self, one, ddp):
        # It divides by the tokens of each micro-batch, so its gradient depends on the split, in TRL itself.
        plain, ours = (
            relative_difference(ddp[0][run]["gradients"][0], one[run]["gradients"][0])
            for run in ("bnpo/grpo", "bnpo/entropy")
        )
        assert plain > 0.1
        assert ours == pytest.approx(plain, rel=1e-6)  # coefficients are 1 in the first step
        assert statistics_difference(ddp[0]["bnpo/entropy"], one["bnpo/entropy"], 0) <= 1e-6


class TestResume:
    def test_of_two_ranks_ends_with_the_weights_of_a_run_never_interrupted(self, ddp):
        for rank in ddp:
            whole, resumed = rank["main"], rank["resume"]
            assert (len(whole["weights"]), len(resumed["weights"])) == (4, 2)
            for before, after in zip(whole["weights"][2:], resumed["weights"], strict=True):
                assert before.keys() == after.keys()
                assert all(torch.equal(before[name], after[name]) for name in before)

    def test_gives_every_rank_the_running_entropies(self, ddp):
        for rank in ddp:
            assert rank["resume"]["statistics"] == rank["main"]["statistics"][2:]
            later = {key: value for key, value in rank["main"]["coefficients"].items() if key[0] >= 2}
            assert later.keys() == rank["resume"]["coefficients"].keys()
            assert all(torch.equal(later[key], rank["resume"]["coefficients"][key]) for key in later)

    def test_reads_the_state_that_the_first_rank_wrote(self, ddp, ddp_path):
        files = sorted(path.name for path in (ddp_path / "run" / "main" / "checkpoint-2").iterdir())
        assert {"rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"} <= set(files)
        state = json.loads((ddp_path / "run" / "main" / "checkpoint-2" / "trainer_state.json").read_text())
        assert state["stateful_callbacks"]["RegionStatistics"] == ddp[1]["main"]["statistics"][1]


class TestCommand:
    def arguments(self, config: Path, output_dir: Path) -> list[str]:
        recipe = ["--config", "recipes/demo.yaml", "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
        sizes = [
            "--per_device_train_batch_size",
            "8",
            "--max_completion_length",
            "48",
            "--output_dir",
            str(output_dir),
        ]
        return ["-m", "rest_trl.cli", "train", "--accelerate_config", str(config), *recipe, *sizes]

    def config(self, path: Path, **changes: Any) -> Path:
        values = {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "MULTI_GPU",  # of CPUs, with the recipe's use_cpu
            "mixed_precision": "no",
            "num_machines": 1,
            "machine_rank": 0,
            "num_processes": 2,
            "main_process_port": int(free_port()),
        }
        path.write_text(yaml.safe_dump(values | changes))
        return path

    def test_trains_on_the_processes_of_the_accelerate_config(self, tmp_path):
        process = subprocess.run(
            [sys.executable, *self.arguments(self.config(tmp_path / "two.yaml"), tmp_path / "out")],
            cwd=ROOT,
            env=os.environ | SETTINGS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        assert process.returncode == 0, process.stdout[-4000:]
        # `Trainer` writes a random state for each of several processes, and one without a number for a single one.
        names = {path.name for path in (tmp_path / "out" / "checkpoint-2").glob("rng_state*")}
        assert names == {"rng_state_0.pth", "rng_state_1.pth"}
        state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
        assert state["global_step"] == 2
        assert "rest/entropy/format" in state["log_history"][1]
        assert (tmp_path / "out" / "model.safetensors").is_file()
        assert "environment names a main process" not in process.stdout

    def test_refuses_fsdp_that_would_silently_be_ddp(self, tmp_path, fork_server):
        config = self.config(tmp_path / "fsdp.yaml", distributed_type="FSDP", fsdp_config={"fsdp_version": 2})
        (end,) = fork_server.start(*self.arguments(config, tmp_path / "out")).wait(TIMEOUT)
        assert end.returncode != 0
        assert "error: accelerate was launched with FSDP, but has set up MULTI_CPU on 2 process(es)" in end.stderr
        assert not list(tmp_path.glob("out/*"))  # nothing was trained


class TestCheckProcesses:
    @pytest.fixture
    def accelerator(self):
        return Accelerator(cpu=True)

    @pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
    def test_refuses_sharding_that_is_none(self, accelerator, monkeypatch, name):
        monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
        with pytest.raises(ValueError, match=f"launched with {name}, but has set up NO on 1 process"):
            check_processes(accelerator)

    def test_warns_where_accelerate_starts_one_process_for_several(self, accelerator, monkeypatch, caplog):
        # what `accelerate launch --cpu --num_processes 2` gives its only process
        monkeypatch.delenv("RANK", raising=False)
        for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        check_processes(accelerator)
        assert "--multi_gpu --num_processes N" in caplog.text

    def test_says_nothing_of_one_process_that_was_wanted(self, accelerator, monkeypatch, caplog):
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        check_processes(accelerator)
        assert not caplog.text
