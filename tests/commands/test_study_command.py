"""One study from end to end, with the true trainer, in processes."""

import re
import sys
import time

import pandas as pd
import pytest
import yaml
from synthetic_study import make_results

from rest_trl.lab.commands.study import main
from rest_trl.lab.study.arms import StudyFolder, load_study


# A step of eight completions: the cheapest that has two groups, and rewards that differ within them.
RECIPE = {
    "model_name_or_path": "tiny",
    "dataset_name": "tiny",
    "tool_call_syntax": "hermes",
    "coefficients": "uniform",
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 72,
    "learning_rate": 1e-3,
    "max_steps": 2,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
}
# How long something took, and which arm it is: all else must be the same.
DIFFERENT = r"arm|step_time|train_runtime|train_\w+_per_second"


def write_study(directory, **changes):
    (directory / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    content = {
        "recipe": "recipe.yaml",
        "arms": {"first": {}, "second": {}},
        "baseline": "first",
        "seeds": 1,
        "held_out": 8,
        "evaluations": 1,
        "workers": 2,
        "output_dir": str(directory / "out"),
        **changes,
    }
    path = directory / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, fork_server):
    """The study of two arms that are the same; its runs are forks, while that of the test of a failure is not."""
    directory = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", fork_server.python)
        main(["--config", str(write_study(directory))])
    return directory


class TestStudy:
    def test_two_identical_arms_are_the_same_to_the_bit(self, finished):
        results = pd.read_parquet(finished / "out/results.parquet")
        first, second = (
            results[results["arm"] == arm].drop(columns=[name for name in results if re.fullmatch(DIFFERENT, name)])
            for arm in ("first", "second")
        )
        pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True), check_exact=True)
        assert (first["grad_norm"] > 0).all() and first["step"].tolist() == [1, 2]
        assert first["rollouts"].tolist() == [8, 16] and first["generated_tokens"].is_monotonic_increasing
        assert first["held_out/exact"].notna().tolist() == [False, True]

    def test_is_reported(self, finished):
        text = (finished / "out/report.md").read_text()
        assert "| second | held-out, at the end | 1 | +0.0000 | 0 of 1, 1 tied |" in text
        assert f"rest-trl study --config {finished / 'study.yaml'}\n" in text
        assert (finished / "out/report.png").exists()

    def test_makes_no_run_again(self, finished, capsys):
        results = StudyFolder(finished / "out").result(("first", 0))
        before = results.stat().st_mtime_ns
        begin = time.monotonic()
        main(["--config", str(finished / "study.yaml")])
        assert results.stat().st_mtime_ns == before and time.monotonic() - begin < 60
        assert "Report:" in capsys.readouterr().out


class TestMain:
    def register(self, directory, results, **changes):
        study = load_study(write_study(directory, arms={"base": {}, "better": {}}, baseline="base", **changes))
        folder = StudyFolder(study.output_dir)
        folder.register(study)
        for run, table in results.groupby(["arm", "seed"]):
            folder.save(run, table)
        return directory / "study.yaml", folder

    def test_report_only_starts_no_run(self, tmp_path, monkeypatch):
        path, folder = self.register(tmp_path, make_results(seeds=2), seeds=3)
        monkeypatch.setattr("rest_trl.lab.study.scheduler.run_study", None)
        main(["--config", str(path), "--report_only", "--seeds", "4"])
        text = (folder.directory / "report.md").read_text()
        assert f"rest-trl study --config {path} --seeds 4\n" in text
        assert "- base: without 2 of 4 seeds (2 not finished)" in text

    def test_report_only_refuses_other_settings_than_the_runs(self, tmp_path):
        path, _ = self.register(tmp_path, make_results(seeds=2))
        path.write_text(path.read_text().replace("held_out: 8", "held_out: 9"))
        with pytest.raises(SystemExit, match="holds another study"):
            main(["--config", str(path), "--report_only"])

    def test_a_failed_run_ends_with_its_line_and_status_1(self, tmp_path, capsys):
        path, folder = self.register(tmp_path, make_results(seeds=2))
        folder.failure(("better", 5)).parent.mkdir(parents=True)
        folder.failure(("better", 5)).write_text("status 1: no memory")
        with pytest.raises(SystemExit) as error:
            main(["--config", str(path), "--report_only", "--seeds", "6"])
        assert error.value.code == 1
        assert "arm better, seed 5 failed: status 1: no memory" in capsys.readouterr().out
        # The failure is none of a study without that seed.
        main(["--config", str(path), "--report_only", "--seeds", "2"])
        assert "no memory" not in capsys.readouterr().out

    def test_names_all_runs_of_a_cause_in_one_line(self, tmp_path, capsys):
        path, folder = self.register(tmp_path, make_results(seeds=2))
        for seed, cause in ((3, "no memory"), (4, "no memory"), (5, "no disk")):
            folder.failure(("better", seed)).parent.mkdir(parents=True)
            folder.failure(("better", seed)).write_text(cause)
        with pytest.raises(SystemExit):
            main(["--config", str(path), "--report_only", "--seeds", "6"])
        lines = [line for line in capsys.readouterr().out.splitlines() if "failed" in line]
        one, other = "arm better, seed 3; arm better, seed 4 failed: no memory", "arm better, seed 5 failed: no disk"
        assert lines == [one, other]

    def test_a_run_that_fails_says_why_in_its_own_words(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "failing.py").write_text("def paid(completions, **kwargs):\n    return [kwargs['city']]\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        path = write_study(tmp_path, arms={"first": {"reward_funcs": ["failing.paid"]}}, workers=1)
        with pytest.raises(SystemExit, match="no run of the baseline first is finished"):
            main(["--config", str(path)])
        (line,) = StudyFolder(tmp_path / "out").failures().values()
        assert line.startswith("status 1: rest-trl study: error: training stopped after step 0: the reward function")
        assert "'paid' raised KeyError: 'city' (failing.py, line 2)" in line

    def test_shows_an_error_that_looks_like_markup_as_it_is(self, tmp_path, capsys):
        path, folder = self.register(tmp_path, make_results(seeds=2))
        folder.failure(("better", 1)).parent.mkdir(parents=True)
        folder.failure(("better", 1)).write_text("status 1: no [/INST] :smile:")
        with pytest.raises(SystemExit):
            main(["--config", str(path), "--report_only", "--seeds", "2"])
        assert "seed 1 failed: status 1: no [/INST] :smile:\n" in capsys.readouterr().out

    def test_report_only_of_nothing_says_so(self, tmp_path):
        with pytest.raises(SystemExit, match="holds no study"):
            main(["--config", str(write_study(tmp_path)), "--report_only"])

    def test_a_wrong_file_is_one_line(self, tmp_path):
        with pytest.raises(SystemExit, match=r"rest-trl study: error: .*there is no arm 'nobody'"):
            main(["--config", str(write_study(tmp_path, baseline="nobody"))])
