import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from rest_trl.lab import demo
from rest_trl.lab.commands.study import make_parser as make_study_parser
from rest_trl.lab.evaluation.gold_calls_benchmark import kind_of_gold
from rest_trl.lab.study.arms import load_study
from rest_trl.lab.tiny import load_tiny_dataset
from rest_trl.runs.recipes import find_recipe
from rest_trl.tool_calls import get_syntax
from rest_trl.train import make_parser


class TestResultsTable:
    def test_shows_wilson_intervals(self):
        console = Console(width=120)
        with console.capture() as capture:
            exact = {"golds with calls": (50, 100), "golds without": (8, 10)}
            console.print(demo.results_table("ResT", [("start", exact)]))
        # Wilson (1927) for 50 of 100
        assert "0.500 [0.404, 0.596]" in capture.get() and "golds with calls (100)" in capture.get()
        assert "0.800 [0.490, 0.943]" in capture.get() and "110 held-out prompts" in capture.get()


class TestNextCommand:
    ARGS = (
        "--config",
        "recipes/demo.yaml",
        "--coefficients",
        "entropy",
        "--credit",
        "region",
        "--credit_baseline=leave_one_out",
        "--max_steps",
        "9",
        "--output_dir=outputs/demo",
    )

    BASELINE = ("--credit", "completion", "--coefficients", "uniform", "--gold_weight", "0")

    def test_is_the_other_arm_with_the_same_arguments(self, tmp_path):
        words = shlex.split(demo.next_command(self.ARGS, tmp_path / "a demo"))
        method = ["--config", "recipes/demo.yaml", "--max_steps", "9"]
        assert words[1:] == [
            *("-m", "rest_trl.lab.demo", *method, *self.BASELINE),
            *("--output_dir", f"{tmp_path}/a demo-grpo"),
        ]
        words = shlex.split(demo.next_command(self.ARGS, tmp_path / "a demo-grpo"))
        assert words[1:] == ["-m", "rest_trl.lab.demo", *method, "--output_dir", f"{tmp_path}/a demo"]

    def test_of_an_arm_is_the_baseline_of_the_demo_and_not_of_the_arm(self, tmp_path):
        method = ["--config", "recipes/demo.yaml", "--max_steps", "9"]
        for arm in (["--arm", "rest"], ["--arm=rest"]):
            words = shlex.split(demo.next_command([*method, *arm], tmp_path / "demo-rest"))
            assert words[3:] == [
                *method,
                *(*self.BASELINE, "--output_dir", f"{tmp_path}/demo-grpo"),
            ]

    @pytest.mark.parametrize("name", ["demo", "demo-rest"])
    def test_is_a_study_once_both_are_there(self, tmp_path, name):
        (tmp_path / "demo-grpo").mkdir()
        (tmp_path / "demo-grpo" / demo.RESULTS).touch()
        words = shlex.split(demo.next_command(self.ARGS, tmp_path / name))
        arguments = make_study_parser().parse_args(words[words.index("study") + 1 :])
        assert load_study(find_recipe(arguments.config), name=arguments.study).arms


class TestOtherArm:
    def test_is_the_baseline(self, tmp_path):
        for name in ("demo", "demo-rest", "demo-region"):
            assert demo.other_arm(tmp_path / name) == tmp_path / "demo-grpo"

    def test_of_the_baseline_is_the_method_that_has_run(self, tmp_path):
        baseline = tmp_path / "demo-grpo"
        assert demo.other_arm(baseline) == tmp_path / "demo"
        for name in ("demo-grpo", "demo-rest"):
            (tmp_path / name).mkdir()
            (tmp_path / name / demo.RESULTS).touch()
        assert demo.other_arm(baseline) == tmp_path / "demo-rest"
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / demo.RESULTS).touch()
        assert demo.other_arm(baseline) == tmp_path / "demo"

    def test_a_directory_whose_name_ends_otherwise_is_no_arm(self, tmp_path):
        assert demo.other_arm(tmp_path / "my-demo") == tmp_path / "my-demo-grpo"


class TestMake:
    @pytest.mark.parametrize(
        ("arm", "directory", "name"),
        [
            ("", "outputs/demo", "GRPO, with the gold call"),
            ("ARM=gold", "outputs/demo", "GRPO, with the gold call"),
            ("ARM=region", "outputs/demo-region", "region credit, uniform"),
            ("ARM=rest", "outputs/demo-rest", "ResT (entropy)"),
            ("ARM=grpo", "outputs/demo-grpo", "GRPO"),
            ("ARM=kl", "outputs/demo-kl", "ResT (entropy)"),
        ],
    )
    def test_demo_runs_an_arm_with_the_rewards_of_the_recipe(self, arm, directory, name):
        command = ["make", "--dry-run", "--no-print-directory", "--assume-old=install", "demo", *filter(None, [arm])]
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        words = shlex.split(line)
        _, args, _ = make_parser().parse_args_and_config(words[words.index("rest_trl.lab.demo") + 1 :])
        assert (args.output_dir, demo.arm_name(args), args.reward_schedule) == (directory, name, "horizon")


class TestArmName:
    @pytest.mark.parametrize(
        ("credit", "coefficients", "gold_weight", "name"),
        [
            ("completion", "uniform", 0.0, "GRPO"),
            ("completion", "uniform", 1.0, "GRPO, with the gold call"),
            ("completion", "entropy", 0.0, "ResT (entropy)"),
            ("region", "uniform", 0.0, "region credit, uniform"),
        ],
    )
    def test_tells_the_arms_apart(self, credit, coefficients, gold_weight, name):
        args = SimpleNamespace(credit=credit, coefficients=coefficients, gold_weight=gold_weight)
        assert demo.arm_name(args) == name


class TestMain:
    def test_clears_what_an_earlier_demo_has_left_but_no_other_run(self, tmp_path, monkeypatch):
        class Stop(Exception):
            pass

        def stop(*args):
            raise Stop

        monkeypatch.setattr(demo, "_run", stop)
        arguments = ["--config", "recipes/demo.yaml", "--output_dir", str(tmp_path)]
        (tmp_path / "notes.md").touch()
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(SystemExit, match="holds results of an earlier run"):
            demo.main(arguments)
        with pytest.raises(Stop):
            demo.main([*arguments, "--overwrite_output_dir"])
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(Stop):  # interrupted as it was, that was a demo
            demo.main(arguments)
        assert sorted(path.name for path in tmp_path.iterdir()) == [demo.SHOWN, "notes.md"]

    def test_is_imported_without_a_word(self):
        done = subprocess.run([sys.executable, "-c", "import rest_trl.lab.demo"], capture_output=True, text=True)
        assert done.returncode == 0
        assert not done.stderr  # nothing of the kernels that bitsandbytes misses, which the demo does not use

    def test_trains_measures_and_plots(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(demo, "HELD_OUT", 16)
        output, baseline = tmp_path / "demo", tmp_path / "demo-grpo"
        baseline.mkdir()
        logs = [{"step": step, "rest/progress": 0.0, "reward": 1.0} for step in (1, 2)]
        kinds = [kind_of_gold(get_syntax("hermes").parse(gold)) for gold in load_tiny_dataset("test", 16)["solution"]]
        exact = {kind: (1, kinds.count(kind)) for kind in sorted(set(kinds))}
        results = {"name": "GRPO", "exact": exact, "log_history": logs}
        (baseline / demo.RESULTS).write_text(json.dumps(results))
        trainer = demo.main(
            shlex.split(
                f"--config recipes/demo.yaml --max_steps 2 --num_generations 4 --per_device_train_batch_size 8 "
                f"--output_dir {output}"
            )
        )
        assert trainer.state.global_step == 2
        assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert (output / "model.safetensors").exists()
        assert json.loads((output / demo.RESULTS).read_text())["log_history"][0]["step"] == 1
        assert "16 held-out prompts" in " ".join((output / demo.SHOWN).read_text().split())
        out = capsys.readouterr().out
        assert "16 held-out prompts" in " ".join(out.split())
        lines = [line for line in out.splitlines() if line.strip()]
        ends = [line.split() for line in lines if line.startswith("│")]
        assert [words[1] for words in ends] == ["start", "end", "end,"]
        assert f"{1 / kinds.count('golds with calls'):.3f}" in ends[2]
        assert f"Curves  {output / 'curves.png'}" in lines[-2]
        assert lines[-1].startswith("Next    ") and "study" in lines[-1]
