"""The commands of the README, and those of the docs that need no GPU, are run; `test_docs.py` parses all others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from documents import README, ROOT, blocks, commands
from transformers import AutoTokenizer

from rest_trl import train
from rest_trl.lab.commands.study import make_parser as make_study_parser
from rest_trl.lab.study.arms import load_study
from rest_trl.lab.study.worker import check_arms
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset


TEXT = README.read_text()
OF_README = [list(command.words) for command in commands(README)]
LOOK_INSIDE = ROOT / "docs" / "look_inside.md"
TOUR = ROOT / "docs" / "tour.md"
EVALUATE = ROOT / "docs" / "evaluate.md"
# Shortened to a step; the rest of the command is the README's.
SHORT = ["--max_steps", "1", "--per_device_train_batch_size", "8", "--max_completion_length", "8"]


class TestCommands:
    def test_are_found(self):
        assert {command[0] for command in OF_README} == {"make", "pip", "rest-trl"}

    def test_make_targets_exist(self):
        for command in OF_README:
            if command[0] == "make":
                assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)

    def test_training_runs(self, tmp_path):
        command = next(command for command in OF_README if command[:2] == ["rest-trl", "train"])
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        run = subprocess.run(
            [*command, *SHORT, "--output_dir", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert (tmp_path / "model.safetensors").exists()

    def test_training_runs_with_accelerate_launch(self, tmp_path, fork_server):
        command = next(command.words for command in commands(TOUR) if command.words[0] == "accelerate")
        assert command[1] == "launch"
        fork_server.run("-m", "accelerate.commands.launch", *command[2:], *SHORT, "--output_dir", tmp_path)
        assert (tmp_path / "model.safetensors").exists()

    def test_inspect_shows_a_table_of_completions(self, tmp_path, monkeypatch, capsys):
        from rest_trl.cli import main

        command = next(list(command.words) for command in commands(LOOK_INSIDE) if "inspect" in command.words)
        table = tmp_path / "completions.parquet"
        pandas.DataFrame({"step": [10], "completion": ["<think> a </think> b"]}).to_parquet(table)
        page = tmp_path / "page.html"
        AutoTokenizer.from_pretrained(TINY_MODEL_DIR).save_pretrained(tmp_path)  # a run has it
        replaced = [{command[2]: str(table), command[-1]: str(page)}.get(word, word) for word in command]
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", replaced)
        main()
        assert "Completion 0, step 10" in capsys.readouterr().out
        assert page.exists()

    def test_studies_name_arms_that_can_be_trained(self):
        (command,) = (command.words for command in commands(TOUR) if "study" in command.words)
        arguments = make_study_parser().parse_args(command[2:])
        study = load_study(ROOT / arguments.config, name=arguments.study)
        check_arms(study)

    def test_doctor_finds_no_problem_here(self, monkeypatch, capsys):
        from rest_trl.cli import main

        (command,) = (command for command in OF_README if "doctor" in command)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as exit_info:
            main()
        assert exit_info.value.code == 0, capsys.readouterr().out

    def test_evaluations_are_compared(self, tmp_path, monkeypatch, capsys):
        from rest_trl.cli import main

        found = [list(command.words) for command in commands(EVALUATE)][:3]
        assert [command[1] for command in found] == ["evaluate", "evaluate", "compare"]
        monkeypatch.chdir(tmp_path)
        for command in found:
            # Some of the samples, and shorter completions; the rest of the command is the README's.
            shortened = ["--limit", "8", "--max_new_tokens", "8"] if command[1] == "evaluate" else []
            monkeypatch.setattr(sys, "argv", [*command, *shortened])
            main()
        assert "tiny" in capsys.readouterr().out
        assert (tmp_path / "outputs/comparison.md").exists() and (tmp_path / "outputs/comparison.png").exists()

    def test_help_lists_the_arguments(self, capsys, monkeypatch):
        from rest_trl.cli import main

        monkeypatch.setattr(sys, "argv", ["rest-trl", "train", "--help"])
        with pytest.raises(SystemExit) as exit_info:
            main()
        assert exit_info.value.code == 0
        out = capsys.readouterr().out
        assert all(
            argument in out for argument in ("--tool_call_syntax", "--coefficients", "--learning_rate", "--lora_r")
        )


class TestPythonExample:
    def test_trains(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        rows = load_tiny_dataset(size=16)
        Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (code,) = (block.text for block in blocks(README) if block.language == "python")
        # A model that needs no download, and a step on a CPU instead of an epoch on a GPU.
        code = code.replace('"Qwen/Qwen3-1.7B"', repr(str(TINY_MODEL_DIR)))
        code = code.replace(
            'ResTGRPOConfig("outputs/qwen3")',
            'ResTGRPOConfig("outputs/qwen3", max_steps=1, use_cpu=True, bf16=False, report_to="none", '
            "per_device_train_batch_size=8, max_completion_length=8)",
        )
        scope: dict = {}
        exec(code, scope)
        assert scope["trainer"].state.global_step == 1
        assert scope["trainer"].tool_call_syntax == "hermes"
        assert "rewards/tool_call_reward/mean" in scope["trainer"].state.log_history[0]


class TestText:
    def test_is_short(self):
        assert len(TEXT.splitlines()) < 120

    def test_names_options_that_exist(self):
        arguments = train.ResTGRPOConfig.__dataclass_fields__ | train.ResTScriptArguments.__dataclass_fields__
        assert set(re.findall(r"--(\w+)", TEXT)) <= {*arguments, "config", "arm", "study"}

    def test_says_which_method_is_the_default(self):
        (default,) = re.findall(r"^\| \*\*\w+\*\* \(default\) \|.*`coefficients: (\w+)` \|$", TEXT, re.MULTILINE)
        fields = train.ResTGRPOConfig.__dataclass_fields__
        assert (fields["coefficients"].default, fields["credit"].default) == (default, "completion")
