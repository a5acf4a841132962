import errno
import json
import re
import shlex
import signal
import sys

import httpx
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from rest_trl import train
from rest_trl.train import main


DRIVER = """\
import os, signal, sys
from transformers import TrainerCallback
from rest_trl import train

class Kill(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "killed":
    arguments = train.make_parser().parse_args_and_config(sys.argv[2:], fail_with_unknown_args=True)
    train.make_trainer(*arguments, callbacks=[Kill()]).train()
else:
    train.main(sys.argv[2:])
"""

PROMPTS = ["What is the weather in Paris?", "lunch at 12:30", "call the tool", "sunny"]
SOLUTION = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
def model_dir(model, tokenizer, tmp_path):
    path = tmp_path / "model"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def dataset_path(tmp_path):
    return write_rows(tmp_path / "data.jsonl", [{"prompt": prompt, "solution": SOLUTION} for prompt in PROMPTS * 2])


@pytest.fixture
def varied_reward(tmp_path, monkeypatch):
    """Arguments for a reward that varies: a random model earns the same whatever it says, and would learn nothing."""
    code = "def length_reward(completions, **kwargs):\n    return [float(len(c) % 7) for c in completions]\n"
    (tmp_path / "varied.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "varied", raising=False)
    return {"reward_funcs": ["varied.length_reward", "tool_call_reward"]}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(model_dir, dataset_path, output_dir, **changes):
    """Arguments of a run that takes a second."""
    return {
        "model_name_or_path": str(model_dir),
        "dataset_name": str(dataset_path),
        "output_dir": str(output_dir),
        "max_steps": 2,
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
    } | changes


def command_line(arguments):
    values = {name: value if isinstance(value, list) else [value] for name, value in arguments.items()}
    return [text for name, items in values.items() for text in (f"--{name}", *map(str, items))]


def log_history(output_dir):
    state = json.loads((output_dir / "trainer_state.json").read_text())
    return [log for log in state["log_history"] if "loss" in log]


class TestMain:
    def test_trains_and_saves_a_model(self, model_dir, dataset_path, varied_reward, tmp_path):
        output_dir = tmp_path / "out"
        main(command_line(settings(model_dir, dataset_path, output_dir, **varied_reward)))
        before = AutoModelForCausalLM.from_pretrained(model_dir).state_dict()
        after = AutoModelForCausalLM.from_pretrained(output_dir).state_dict()
        assert after.keys() == before.keys()
        assert any((after[name] != before[name]).any() for name in before)
        assert AutoTokenizer.from_pretrained(output_dir)("a b")["input_ids"]
        logs = log_history(output_dir)
        assert len(logs) == 2
        assert all("rest/progress" in log and "rewards/tool_call_reward/mean" in log for log in logs)

    def test_trains_an_adapter(self, model_dir, dataset_path, varied_reward, tmp_path):
        pytest.importorskip("peft")
        lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"} | varied_reward
        main(command_line(settings(model_dir, dataset_path, tmp_path / "out", **lora)))
        adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert not (tmp_path / "out" / "model.safetensors").exists()
        assert all("lora_" in name for name in adapter)
        assert any(weight.ne(0).any() for name, weight in adapter.items() if "lora_B" in name)

    def test_trains_an_adapter_of_a_quantised_model(self, model_dir, dataset_path, varied_reward, tmp_path):
        pytest.importorskip("peft")
        pytest.importorskip("bitsandbytes")
        qlora = {
            "use_peft": True,
            "lora_r": 4,
            "lora_target_modules": "all-linear",
            "load_in_4bit": True,
        } | varied_reward
        main(command_line(settings(model_dir, dataset_path, tmp_path / "out", **qlora)))
        adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert any(weight.ne(0).any() for name, weight in adapter.items() if "lora_B" in name)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return [0.0 for _ in kwargs['city']]", r"raised KeyError: 'city' \(failing.py, line 2\)"),
            ("return [json.loads('{') for _ in completions]", r"raised JSONDecodeError: .* \(failing.py, line 2\)"),
            ("return None", "returned None, not a list of rewards"),
            ("return ['1'] * len(completions)", "gave the reward '1': each must be a number"),
        ],
    )
    def test_names_a_reward_function_that_fails(self, body, message, model_dir, dataset_path, tmp_path, monkeypatch):
        (tmp_path / "failing.py").write_text(f"def paid(completions, **kwargs):\n    {body}\n\n\nimport json\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "failing", raising=False)
        arguments = settings(model_dir, dataset_path, tmp_path / "out", reward_funcs=["failing.paid"])
        with pytest.raises(SystemExit, match=f"stopped after step 0: the reward function 'paid' {message}") as error:
            main(command_line(arguments))
        assert "\n" not in str(error.value) and "starts from the beginning" in str(error.value)

    def test_trains_where_the_hub_cannot_be_reached(self, model_dir, dataset_path, tmp_path, monkeypatch, caplog):
        class Unreachable:
            def create_repo(self, *args, **kwargs):
                raise httpx.ConnectError("[Errno -2] Name or service not known")

        monkeypatch.setattr("transformers.trainer.hf_api", Unreachable)
        changes = {"push_to_hub": True, "hub_strategy": "every_save", "save_strategy": "steps", "save_steps": 1}
        with pytest.raises(SystemExit) as error:
            main(command_line(settings(model_dir, dataset_path, tmp_path / "out", **changes)))
        assert "The Hub cannot be reached (ConnectError: [Errno -2]" in caplog.text
        saved, command = str(error.value).split("Push it with: ")
        assert f"saved in {tmp_path / 'out'}, but pushing it to out failed (the Hub cannot be reached: " in saved
        assert shlex.split(command)[:4] == ["hf", "upload", "out", str(tmp_path / "out")]
        assert load_file(tmp_path / "out" / "model.safetensors") and len(log_history(tmp_path / "out")) == 2

    def test_evaluates_on_the_test_split(self, model_dir, tmp_path):
        directory = tmp_path / "data"
        directory.mkdir()
        for split in ("train", "test"):
            write_rows(directory / f"{split}.jsonl", [{"prompt": prompt, "solution": SOLUTION} for prompt in PROMPTS])
        changes = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 4}
        main(command_line(settings(model_dir, directory, tmp_path / "out", **changes)))
        state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
        assert [log["step"] for log in state["log_history"] if "eval_reward" in log] == [2]

    def test_reads_a_recipe_that_the_command_line_overrides(self, model_dir, dataset_path, tmp_path):
        recipe = tmp_path / "recipe.yaml"
        arguments = settings(
            model_dir, dataset_path, tmp_path / "from-recipe", coefficients='{"rule": "entropy", "horizon": 4}'
        )
        recipe.write_text(yaml.safe_dump(arguments))
        main(["--config", str(recipe), "--output_dir", str(tmp_path / "out"), "--max_steps", "3"])
        assert not (tmp_path / "from-recipe").exists()
        assert [log["rest/progress"] for log in log_history(tmp_path / "out")] == pytest.approx([0, 1 / 3, 2 / 3])

    @pytest.mark.parametrize(("schedule", "worst"), [("static", -3), ("released", -4)])
    def test_takes_the_reward_schedule(self, model_dir, dataset_path, tmp_path, schedule, worst):
        changes = {"reward_schedule": schedule, "max_steps": 1, "max_completion_length": 4}
        main(command_line(settings(model_dir, dataset_path, tmp_path / "out", **changes)))
        assert log_history(tmp_path / "out")[0]["reward"] == worst

    def test_trains_ten_steps_on_the_rows_of_the_paper(self, paper_data, model_dir, varied_reward, tmp_path):
        path = paper_data / "rlla" / "rlla_rl_48.parquet"
        changes = {"max_steps": 10, "tool_call_syntax": "rlla", "max_completion_length": 8} | varied_reward
        main(command_line(settings(model_dir, path, tmp_path / "out", **changes)))
        logs = log_history(tmp_path / "out")
        assert [log["step"] for log in logs] == list(range(1, 11))
        assert all(log["grad_norm"] > 0 for log in logs)
        assert all(log["rest/reward/unreadable_solution"] == 0 for log in logs)

    def test_shows_its_arguments(self, capsys):
        with pytest.raises(SystemExit) as error:
            main(["--help"])
        assert error.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith("usage: rest_trl.train [-h] [--config RECIPE]")
        # Before Python 3.13 the value's name stands after each spelling of an option, since then after the last.
        names = ("dataset_name", "entropy_decay", "lora_r", "learning_rate")
        assert all(re.search(rf"--{name}[ ,]", shown) for name in names)


class TestBadInput:
    def error(self, arguments):
        """The one line that the program ends with."""
        with pytest.raises(SystemExit) as error:
            main(arguments)
        message = error.value.code
        assert isinstance(message, str) and "\n" not in message
        assert message.startswith("rest_trl.train: error: ")
        return message

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"dataset_name": "no/such/file.jsonl"},
                "There is no file or directory no/such/file.jsonl: check",
            ),
            ({"dataset_name": "no-such-org/no-such-data"}, "no-such-org/no-such-data"),
            ({"dataset_train_split": "dev"}, "it has the split 'train'"),
            ({"model_name_or_path": "/no/such/model"}, "there is no model directory /no/such/model"),
            ({"model_name_or_path": "no-such-org/no-such-model"}, "couldn't"),
            ({"tool_call_syntax": "xml"}, "unknown tool_call_syntax 'xml': choose one of "),
            ({"coefficients": "entropie"}, "coefficients='entropie' cannot be imported"),
            ({"coefficients": '{"minimum": -1}'}, "minimum must be a number from 0 on, got -1"),
            ({"coefficients": '{"minimum": 2}'}, "minimum=2, maximum=1.5: swap or widen them"),
            ({"coefficients": '{"surrogate": "log"}'}, "unknown surrogate 'log'"),
            ({"num_generations": 3}, "must be divisible by num_generations"),
            ({"num_generations": 0}, "num_generations must be at least 1, got 0"),
            ({"temperature": 0}, "temperature must be positive, got 0.0"),
            ({"model_init_kwargs": "nope"}, "model_init_kwargs='nope' is not a JSON object"),
            ({"max_prompt_length": 1}, "All 8 prompts are longer than max_prompt_length=1"),
            ({"max_prompt_length": 0}, "max_prompt_length is 0: give a number of tokens from 1"),
            ({"entropy_decai": 1}, "unknown argument --entropy_decai (do you mean entropy_decay?)"),
            ({"model_name_or_path": "no/such/model"}, "there is no model directory no/such/model"),
            ({"dataset_streaming": True}, "dataset_streaming=True is not supported, because all rows are checked"),
            ({"ignore_bias_buffers": True}, "ignore_bias_buffers=True is not supported: leave it out"),
            ({"resume_from_checkpoint": True}, "out has no whole checkpoint to resume from. To start from the beg"),
            ({"resume_from_checkpoint": "no/such"}, "there is no checkpoint no/such to resume from"),
            ({"resume_from_checkpoint": "x", "overwrite_output_dir": True}, "there is no checkpoint x"),
            (
                {"report_to": "mlflow"},
                "report_to=mlflow needs the package mlflow, which is not installed: pip",
            ),
            ({"report_to": "none-such"}, "none-such"),
        ],
        ids=lambda value: "" if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
    )
    def test_on_the_command_line(self, model_dir, dataset_path, tmp_path, change, message):
        arguments = settings(model_dir, dataset_path, tmp_path / "out", **change)
        assert message in self.error(command_line(arguments))

    @pytest.mark.parametrize("name", ["dataset_name", "model_name_or_path"])
    def test_without_an_argument_that_is_needed(self, model_dir, dataset_path, tmp_path, name):
        arguments = settings(model_dir, dataset_path, tmp_path / "out")
        del arguments[name]
        assert f"give --{name}" in self.error(command_line(arguments))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("entropy_decai: 0.5\n", "unknown argument entropy_decai (do you mean entropy_decay?): --help"),
            ("learning_rate: [1, 2]\n", "the recipe's learning_rate must be a number, but is [1, 2]"),
            ("entropy_decay: [0.5\n", "expected ',' or ']'"),
        ],
    )
    def test_in_a_recipe(self, tmp_path, content, message):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"output_dir: {tmp_path / 'out'}\nuse_cpu: true\nbf16: false\n{content}")
        assert message in self.error(["--config", str(recipe)])

    @pytest.mark.parametrize("name", ["output_dir", "model_name_or_path"])
    def test_of_a_file_for_a_directory(self, model_dir, dataset_path, tmp_path, name):
        arguments = settings(model_dir, dataset_path, tmp_path / "out") | {name: dataset_path}
        assert "data.jsonl is a file: give " in self.error(command_line(arguments))

    def test_of_a_partial_checkpoint(self, model_dir, dataset_path, tmp_path):
        (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
        arguments = settings(model_dir, dataset_path, tmp_path / "out", resume_from_checkpoint=True)
        message = self.error(command_line(arguments))
        assert "checkpoint-3 is not whole (it has no trainer_state.json, which is written last)" in message

    def test_of_a_recipe_that_is_not_there(self, tmp_path):
        assert "none.yaml" in self.error(["--config", str(tmp_path / "none.yaml")])

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "data.jsonl is empty"),
            ([1, "a"], "data.jsonl has no row that can be read: row 0: it is a int, not an object; row 1"),
            ([{"prompt": "a"}], "the columns prompt match no supported schema"),
            ([{"question": "a", "solution": "b"}], "the columns question, solution match no supported schema"),
            ([{"prompt": 3, "solution": "b"}], "none is left"),
        ],
    )
    def test_in_the_data_set(self, model_dir, tmp_path, rows, message):
        path = write_rows(tmp_path / "data.jsonl", rows)
        assert message in self.error(command_line(settings(model_dir, path, tmp_path / "out")))

    def test_in_a_row_is_an_error_only_if_strict(self, model_dir, tmp_path):
        rows = [{"prompt": prompt, "solution": SOLUTION} for prompt in PROMPTS]
        path = write_rows(tmp_path / "data.jsonl", [*rows, {"prompt": "a", "solution": 3}])
        arguments = settings(model_dir, path, tmp_path / "out", max_steps=1, max_completion_length=4)
        assert "data.jsonl, row 4" in self.error(command_line(arguments | {"strict": True}))
        main(command_line(arguments))
        assert len(log_history(tmp_path / "out")) == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"entropy_decay": "abc"}, "argument --entropy_decay/--entropy-decay: invalid float value: 'abc'"),
            ({"reward_schedule": "linear"}, "invalid choice: 'linear' (choose from 'static', 'released', 'horizon')"),
        ],
    )
    def test_of_another_type_is_told_by_the_parser(self, model_dir, dataset_path, tmp_path, capsys, change, message):
        with pytest.raises(SystemExit) as error:
            main(command_line(settings(model_dir, dataset_path, tmp_path / "out", **change)))
        assert error.value.code == 2
        usage, shown = capsys.readouterr().err.strip().splitlines()[-2:]
        assert usage.startswith("usage: rest_trl.train")
        assert message in shown


class TestOutputDir:
    def test_with_another_runs_results_is_refused_or_cleared(self, model_dir, dataset_path, tmp_path):
        arguments = settings(model_dir, dataset_path, tmp_path / "out", save_strategy="steps", save_steps=1)
        main(command_line(arguments))
        before = log_history(tmp_path / "out")
        with pytest.raises(SystemExit) as error:
            main(command_line(arguments | {"max_steps": 1}))
        assert "out holds results of an earlier run (checkpoint-2 and 3 more): give another" in error.value.code
        assert log_history(tmp_path / "out") == before
        (tmp_path / "out" / "notes.txt").touch()
        main(command_line(arguments | {"max_steps": 1, "overwrite_output_dir": True}))
        assert len(log_history(tmp_path / "out")) == 1
        assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-1"]
        assert (tmp_path / "out" / "notes.txt").exists()


class TestInterrupt:
    @pytest.fixture(autouse=True)
    def heeded(self):
        """A shell starts what runs in the background with the signal ignored, and the tests with it."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def test_says_the_step_and_how_to_go_on(self, model_dir, dataset_path, tmp_path, monkeypatch, capsys):
        class Interrupt(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 3:
                    signal.raise_signal(signal.SIGINT)

        make = train.make_trainer
        monkeypatch.setattr(train, "make_trainer", lambda *arguments: make(*arguments, callbacks=[Interrupt()]))
        changes = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2}
        with pytest.raises(SystemExit) as error:
            main(command_line(settings(model_dir, dataset_path, tmp_path / "out", **changes)))
        assert error.value.code == 130
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"rest_trl.train: interrupted after step 3 of 5; {tmp_path / 'out' / 'checkpoint-2'} is whole: run the "
            "same command with --resume_from_checkpoint true to go on from it"
        )

    def test_before_training_is_said_too(self, model_dir, dataset_path, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(train, "make_trainer", lambda *arguments: signal.raise_signal(signal.SIGINT))
        with pytest.raises(SystemExit) as error:
            main(command_line(settings(model_dir, dataset_path, tmp_path / "out")))
        assert error.value.code == 130
        assert capsys.readouterr().err.splitlines()[-1] == "rest_trl.train: interrupted before training started"


class TestFullDisk:
    @pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json"])
    def test_ends_with_one_line(self, model_dir, dataset_path, tmp_path, monkeypatch, name):
        """In a checkpoint, and after the last step, where only the trained model is saved."""

        def fail(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        if name == "optimizer.pt":
            monkeypatch.setattr(torch, "save", fail)
        else:
            monkeypatch.setattr(train.ResTGRPOTrainer, "save_state", fail)
        saves = {"save_strategy": "steps", "save_steps": 1} if name == "optimizer.pt" else {}
        with pytest.raises(SystemExit) as error:
            main(command_line(settings(model_dir, dataset_path, tmp_path / "out", **saves)))
        step, written = (1, "out/checkpoint-1") if saves else (2, "the trained model in")
        message = error.value.code
        assert "\n" not in message and f"training stopped after step {step}: the disk is full: " in message
        assert written in message and "has no whole checkpoint" in message

    def test_a_bug_keeps_its_traceback(self, model_dir, dataset_path, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise ValueError("a bug")

        monkeypatch.setattr(train.ResTGRPOTrainer, "compute_loss", fail)
        with pytest.raises(ValueError, match="a bug"):
            main(command_line(settings(model_dir, dataset_path, tmp_path / "out")))


class TestResume:
    def test_after_a_kill_ends_with_the_weights_of_a_run_never_interrupted(
        self, model_dir, dataset_path, varied_reward, tmp_path, fork_server
    ):
        driver = tmp_path / "driver.py"
        driver.write_text(DRIVER)

        def start(kind, output_dir, **changes):
            changes = (
                {"max_steps": 8, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
                | varied_reward
                | changes
            )
            arguments = command_line(settings(model_dir, dataset_path, tmp_path / output_dir, **changes))
            return fork_server.start(driver, kind, *arguments)

        whole, killed = start("whole", "whole"), start("killed", "resumed")
        (end,) = killed.wait()
        assert end.returncode == -signal.SIGKILL, end.stderr
        assert sorted(path.name for path in (tmp_path / "resumed").glob("checkpoint-*")) == [
            "checkpoint-4",
            "checkpoint-5",
        ]
        assert not (tmp_path / "resumed" / "model.safetensors").exists()
        resumed = start("whole", "resumed", resume_from_checkpoint=True)
        for process in (whole, resumed):
            (end,) = process.wait()
            assert end.returncode == 0, end.stderr
        expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
        start_weights = load_file(model_dir / "model.safetensors")
        at_kill = load_file(tmp_path / "whole" / "checkpoint-7" / "model.safetensors")
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        for other in (start_weights, at_kill):  # every step counts
            assert any(not torch.equal(expected[name], other[name]) for name in expected)
        states = [json.loads((tmp_path / name / "trainer_state.json").read_text()) for name in ("whole", "resumed")]
        assert [state["global_step"] for state in states] == [8, 8]
        assert (
            states[0]["stateful_callbacks"]["RegionStatistics"] == states[1]["stateful_callbacks"]["RegionStatistics"]
        )
        logs = [[log for log in state["log_history"] if "loss" in log] for state in states]
        for first, second in zip(*logs, strict=True):
            assert {name: value for name, value in first.items() if name != "step_time"} == {
                name: value for name, value in second.items() if name != "step_time"
            }
