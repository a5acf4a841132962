import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats
from synthetic_study import make_results

from rest_trl.lab.study import study_report
from rest_trl.lab.study.arms import Study
from rest_trl.lab.study.study_picture import plot_study
from rest_trl.lab.study.study_report import write_report


COMMAND = "rest-trl study --config study.yaml"


def make_study(directory, seeds=8, arms=("base", "better")):
    settings = {arm: {"learning_rate": 1e-4, "credit": "completion"} for arm in arms}
    if "better" in settings:
        settings["better"]["credit"] = "region"
    return Study(settings, "base", tuple(range(seeds)), Path(directory))


def report(directory, results, study=None, failures=None):
    study = study or make_study(directory)
    path = write_report(study, results, failures or {}, {"rest_trl": "0.1.0", "trl": "1.16.0"}, COMMAND)
    assert path == Path(directory) / "report.md"
    return path.read_text()


def section(text, title):
    """Rows of the section's table, without its head."""
    (found,) = (part for part in text.split("\n## ") if part.startswith(title))
    lines = [line.strip("| ").split(" | ") for line in found.splitlines() if line.startswith("|")]
    return lines[2:]


class TestText:
    @pytest.fixture(autouse=True)
    def without_picture(self, monkeypatch):
        """Drawing takes most of the time, and is tested below."""
        monkeypatch.setattr(study_report, "plot_study", lambda *arguments: None)

    def test_names_command_settings_and_versions(self, tmp_path):
        text = report(tmp_path, make_results())
        assert f"```shell\n{COMMAND}\n```" in text and "rest_trl 0.1.0, trl 1.16.0" in text
        # What all arms share tells them not apart.
        assert "| arm | credit |\n| --- | --- |\n| base | `completion` |\n| better | `region` |" in text

    def test_gives_paired_differences_with_the_interval_of_student(self, tmp_path):
        rows = section(report(tmp_path, make_results()), "Paired differences to base")
        differences = [0.03, 0.01] * 4
        interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        expected = f"+0.0200 [{interval.low:+.4f}, {interval.high:+.4f}]"
        assert rows[0] == ["better", "held-out, at the end", "8", expected, "8 of 8"]
        assert rows[1] == ["better", "held-out, half way", "8", expected, "8 of 8"]
        assert [row[1] for row in rows[2:]] == ["training, second half"]

    def test_training_counts_the_second_half(self, tmp_path):
        (base, better) = section(report(tmp_path, make_results(noise=0.0)), "Accuracy")
        # Steps 26 to 50 of .1 + .004 step, without spread over seeds.
        assert base[-1] == "0.2520" == better[-1]

    def test_gives_the_price_of_the_level(self, tmp_path):
        rows = section(report(tmp_path, make_results(noise=0.0, fast=2.0)), "Price of base's final level")
        # Half of the steps, each of which takes half as long again.
        assert rows == [["better", "training", "8", "0.50", "0.50", "0.75", "8 of 8"]]

    def test_gives_the_price_in_held_out_accuracy_where_it_was_measured_often(self, tmp_path):
        results = make_results(evaluations=10, fast=2.0, noise=0.0, gain=0.01)
        rows = section(report(tmp_path, results), "Price of base's final level")
        # The baseline ends at .3 + .2; the arm has .01 more on average, so it is there after 23.75 steps of 50. Seeds
        # differ by .01 to either side.
        (row,) = (row for row in rows if row[1] == "held-out")
        value, low, high = map(float, re.findall(r"[\d.]+", row[4]))
        assert value == 0.47 and 0.45 <= low < value <= high <= 0.5
        assert row[2] == "8" and row[-1] == "8 of 8"

    def test_counts_no_measurements_that_were_not_made(self, tmp_path):
        rows = section(report(tmp_path, make_results(evaluations=4)), "Price of base's final level")
        assert [row[1] for row in rows] == ["training"]

    def test_without_times_there_is_no_price_in_seconds(self, tmp_path):
        results = make_results(noise=0.0, fast=2.0).drop(columns="step_time")
        rows = section(report(tmp_path, results), "Price of base's final level")
        assert rows == [["better", "training", "8", "0.50", "0.50", "undefined", "8 of 8"]]

    @pytest.mark.parametrize(("steps", "named"), [(50, "last 10 steps"), (20, "last 4 steps")])
    def test_names_the_window_that_the_price_was_taken_with(self, tmp_path, steps, named):
        results = make_results(noise=0.0, fast=2.0)
        text = report(tmp_path, results[(results["arm"] == "base") | (results["step"] <= steps)])
        assert f"in training over its {named}, " in text
        assert f"smoothed over windows of {named.removeprefix('last ')}," in text

    def test_says_that_an_arm_never_gets_there(self, tmp_path):
        rows = section(report(tmp_path, make_results(noise=0.0, fast=0.5)), "Price of base's final level")
        assert rows == [["better", "training", "8", "never", "never", "never", "0 of 8"]]

    def test_gives_gradient_norms_and_entropies(self, tmp_path):
        rows = section(report(tmp_path, make_results()), "Gradient norms")
        norm = np.mean([1 / step + 0.1 for step in range(1, 11)])
        assert rows[0] == ["base", "`grad_norm`", "8", f"{norm:.4f}", rows[0][-1]]
        assert [row[1] for row in rows[1:4]] == [
            "`rest/entropy/parameters`",
            "`rest/entropy/tool_name`",
            "`rest/entropy/reasoning`",
        ]

    def test_counts_collapses_and_missing_runs(self, tmp_path):
        results = make_results(noise=0.0)
        fallen = (results["arm"] == "better") & (results["seed"] == 3) & (results["step"] > 30)
        results.loc[fallen, "rest/reward/exact"] = 0.0
        results = results[(results["arm"] != "base") | (results["seed"] < 6)]
        text = report(tmp_path, results, failures={("base", 6): "status 1"})
        assert "- base: 0 of 6\n" in text and re.search(r"- better: 1 of 8: seed 3 at step 3\d\n", text)
        assert "- base: without 2 of 8 seeds (seed 6 failed, 1 not finished)" in text

    def test_reports_what_the_command_makes_whatever_else_there_is(self, tmp_path):
        results = make_results()
        other = results[results["arm"] == "better"].assign(arm="other")
        study = make_study(tmp_path, seeds=6)
        text = report(tmp_path, pd.concat([results, other]), study)
        assert "other" not in text and section(text, "Paired")[0][2] == "6"

    def test_a_seed_gives_figures_without_intervals(self, tmp_path):
        text = report(tmp_path, make_results(seeds=1, noise=0.0, fast=2.0), make_study(tmp_path, seeds=1))
        assert section(text, "Paired")[0] == ["better", "held-out, at the end", "1", "+0.0300", "1 of 1"]
        assert section(text, "Price")[0] == ["better", "training", "1", "0.50", "0.50", "0.75", "1 of 1"]
        assert "too few seeds" in text and "nan" not in text

    def test_two_seeds_have_no_interval(self, tmp_path):
        text = report(tmp_path, make_results(seeds=2), make_study(tmp_path, seeds=2))
        assert not re.search(r"\d \[", text) and "too few seeds" in text

    def test_arms_that_are_the_same_have_a_difference_and_no_interval(self, tmp_path):
        results = make_results(seeds=4)
        same = results[results["arm"] == "base"].assign(arm="better")
        text = report(tmp_path, pd.concat([results[results["arm"] == "base"], same]), make_study(tmp_path, seeds=4))
        assert section(text, "Paired")[0][3:] == ["+0.0000", "0 of 4, 4 tied"] and "[+0.0000" not in text

    def test_a_run_of_two_steps_gives_one_too(self, tmp_path):
        text = report(tmp_path, make_results(seeds=1, steps=2), make_study(tmp_path, seeds=1))
        assert "nan" not in text

    def test_an_uneven_number_of_evaluations_has_none_half_way(self, tmp_path):
        text = report(tmp_path, make_results(evaluations=1))
        assert [row[1] for row in section(text, "Paired")] == ["held-out, at the end", "training, second half"]
        assert section(text, "Accuracy")[0][3] == "not measured"

    def test_the_baseline_alone_has_no_pair(self, tmp_path):
        text = report(tmp_path, make_results().query("arm == 'base'"))
        assert text.count("There is no pair") == 2

    def test_tells_golds_with_and_without_calls_apart(self, tmp_path):
        results = make_results(noise=0.0, gain=0.0)
        for metric in ("rest/reward/exact", "held_out/exact"):
            results[f"{metric}_without_calls"] = results[metric].where(results[metric].isna(), 1.0)
            results[f"{metric}_with_calls"] = 2 * results[metric] - results[f"{metric}_without_calls"]
        fallen = (results["arm"] == "better") & (results["seed"] == 3) & (results["step"] > 30)
        results.loc[fallen, "rest/reward/exact_with_calls"] = -0.9
        text = report(tmp_path, results)
        arms = [row[0] for row in section(text, "Accuracy")]
        assert arms[:3] == ["base", "base, golds with calls", "base, golds without"]
        measures = [row[1] for row in section(text, "Paired")]
        assert measures[3:5] == ["held-out, at the end, golds with calls", "held-out, half way, golds with calls"]
        assert len(measures) == 9 and "collapses are those of golds with calls" in text
        assert "- better: 1 of 8: seed 3" in text  # which golds without calls would hide

    def test_refuses_to_report_without_the_baseline(self, tmp_path):
        with pytest.raises(ValueError, match="no run of the baseline base is finished"):
            report(tmp_path, make_results().query("arm == 'better'"))

    def test_without_exact_calls_reports_the_rest(self, tmp_path):
        results = make_results().drop(columns="rest/reward/exact")
        text = report(tmp_path, results)
        assert [row[1] for row in section(text, "Paired")] == ["held-out, at the end", "held-out, half way"]


class TestPicture:
    @pytest.mark.parametrize(("seeds", "steps"), [(1, 2), (8, 50)])
    def test_shows_curves_of_every_arm(self, tmp_path, seeds, steps):
        report(tmp_path, make_results(seeds=seeds, steps=steps), make_study(tmp_path, seeds=seeds))
        with Image.open(tmp_path / "report.png") as image:
            assert min(image.size) > 1000
            colors = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
        # The first two of matplotlib's colours.
        assert {(31, 119, 180), (255, 127, 14)} <= colors
        assert not list(tmp_path.glob("*.tmp*"))

    @pytest.mark.parametrize("seeds", [2, 4])
    def test_has_axes_of_accuracies_between_0_and_1(self, tmp_path, monkeypatch, seeds):
        kept = []
        savefig = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, *args, **_: (kept.append(self), savefig(self, *args)))
        results = make_results(seeds=seeds, steps=10)
        # All right or all wrong: means have intervals that reach far beyond.
        for metric in ("rest/reward/exact", "held_out/exact"):
            results[metric] = results[metric].where(results[metric].isna(), (results["seed"] % 2).astype(float))
        report(tmp_path, results, make_study(tmp_path, seeds=seeds))
        for axis in (kept[0].axes[0], kept[0].axes[1], kept[0].axes[3]):
            low, high = axis.get_ylim()
            assert 0 <= low < high <= 1

    def test_has_readable_axes(self, tmp_path, monkeypatch):
        kept = []
        savefig = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, *args, **_: (kept.append(self), savefig(self, *args)))
        report(tmp_path, make_results(evaluations=1))
        held_out, tokens = kept[0].axes[1], kept[0].axes[3]
        assert [label.get_text() for label in held_out.get_xticklabels()] == ["50"]
        assert any(label.get_text().endswith("k") for label in tokens.get_xticklabels())

    def test_tells_many_arms_apart_in_one_legend(self, tmp_path, monkeypatch):
        kept = []
        savefig = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, *args, **_: (kept.append(self), savefig(self, *args)))
        results = make_results(seeds=2)
        arms = [f"arm_{number}" for number in range(14)]
        results = pd.concat([results[results["arm"] == "base"].assign(arm=arm) for arm in arms], ignore_index=True)
        plot_study(results, arms, arms[0], tmp_path / "report.png")
        (figure,) = kept
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == arms
        assert len({line.get_color() for line in legend.get_lines()}) == len(arms)
        assert all(axis.get_legend() is None for axis in figure.axes)
        assert len(figure.axes[0].get_lines()) == len(arms) and not figure.axes[0].collections
