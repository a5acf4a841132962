import json

import pytest
from replay import Replay
from rich.console import Console

from rest_trl.lab.evaluation.benchmark import Sample, Score, SingleTurnBenchmark, find_benchmarks
from rest_trl.lab.evaluation.compare import main, protocol_differences
from rest_trl.lab.evaluation.comparison import columns, compare_runs, comparison_table, find_runs
from rest_trl.lab.evaluation.summary import evaluate


GENERATION = {"max_new_tokens": 4096, "temperature": 0.0, "top_p": 1.0, "seed": 0}


@pytest.fixture
def make_run(tokenizer, tmp_path):
    """A run in which the model answers the samples of the given numbers rightly."""

    def make(folder, right, name="api_bank", n=120, missing=(), metrics=("strict", "soft"), **settings):
        samples = [Sample(f"id_{i}", "level-1", f"dialogue_{i // 2}", f"prompt {i}", i) for i in range(n)]

        def score(self, sample, completion):
            correct = sample.gold in right
            scores = dict.fromkeys(metrics, float(correct))
            why = None if correct else "wrong"
            return Score(sample.id, sample.subset, sample.cluster, scores, why, [], completion.completion_ids, "")

        texts = {sample.id: "text" for sample in samples if sample.gold not in missing}
        stated = {"model": folder, "adapter": None, "prompt_form": "paper", "limit": None, "generation": GENERATION}
        protocol = find_benchmarks()[name].protocol
        members = {"name": name, "metrics": metrics, "protocol": protocol, "score": score, "from_options": None}
        benchmark = type("Scripted", (SingleTurnBenchmark,), members)
        evaluate(benchmark(samples), Replay(tokenizer, texts), tmp_path / folder / name, stated | settings)
        return tmp_path / folder

    return make


class TestCompareRuns:
    def test_pairs_the_samples_of_both_runs(self, make_run):
        (comparison,) = compare_runs(make_run("a", range(60)), make_run("b", range(20, 100)))
        paired = comparison.paired
        assert (comparison.benchmark, comparison.metric, comparison.warnings) == ("api_bank", "strict", ())
        assert (comparison.first.estimate, comparison.second.estimate) == (0.5, pytest.approx(80 / 120))
        assert (paired.gained, paired.lost, paired.difference.clusters) == (40, 20, 60)
        # The answers of a dialogue agree, so there is only half of the evidence that McNemar's test takes for granted.
        assert paired.mcnemar_p < 0.05 < paired.cluster_p == comparison.adjusted_p < 0.2

    def test_adjusts_for_the_number_of_benchmarks(self, make_run):
        for name in ("api_bank", "tiny"):
            a, b = make_run("a", range(60), name), make_run("b", range(8, 80), name)
        comparisons = compare_runs(a, b)
        assert [comparison.benchmark for comparison in comparisons] == ["api_bank", "tiny"]
        p = comparisons[0].paired.cluster_p
        assert p == comparisons[1].paired.cluster_p and 0 < p < 0.5
        assert [comparison.adjusted_p for comparison in comparisons] == pytest.approx([2 * p, 2 * p])

    def test_warns_of_other_protocols_and_missing_completions(self, make_run):
        a = make_run("a", range(60), prompt_form="native")
        b = make_run("b", range(60), missing=range(7), generation=GENERATION | {"temperature": 1.0})
        (comparison,) = compare_runs(a, b)
        assert comparison.warnings[0] == "prompt_form differs: native and paper"
        assert comparison.warnings[1].startswith("generation differs: ")
        assert comparison.warnings[2] == f"7 samples of {b / 'api_bank'} have no completion and count as wrong"

    @pytest.mark.parametrize(
        ("first", "second", "names"),
        [
            ("outputs/grpo", "outputs/rest", ("grpo", "rest")),
            ("grpo/eval", "rest/eval", ("grpo/eval", "rest/eval")),
            ("same", "same", ("A", "B")),
        ],
    )
    def test_names_runs_by_the_ends_of_their_paths_from_where_they_differ(self, make_run, first, second, names):
        (comparison,) = compare_runs(make_run(first, range(60)), make_run(second, range(60)))
        assert comparison.names == names and columns(comparison)[2:5] == (*names, f"{names[1]} - {names[0]}")

    def test_refuses_what_cannot_be_paired(self, make_run, tmp_path):
        a, b, tiny = make_run("a", range(60)), make_run("b", range(60), n=100), make_run("c", [1], "tiny")
        with pytest.raises(ValueError, match=r"20 samples are only in .*, 0 only in .*: run both on all of them"):
            compare_runs(a, b)
        with pytest.raises(ValueError, match=r"has runs of api_bank, .* of tiny: none in common"):
            compare_runs(a, tiny)
        with pytest.raises(ValueError, match="has the metrics strict, soft, not 'valid'"):
            compare_runs(a, a, "valid")
        with pytest.raises(FileNotFoundError, match="holds no finished run"):
            find_runs(tmp_path / "absent")
        (tmp_path / "a2").mkdir()
        (tmp_path / "a2" / "summary.json").write_text("{}")
        with pytest.raises(ValueError, match="is not the summary of a run"):
            find_runs(tmp_path / "a2")
        make_run("d/x", [1])
        make_run("d/y", [1])
        with pytest.raises(ValueError, match="holds two runs of api_bank"):
            find_runs(tmp_path / "d")


class TestReport:
    def test_fits_a_terminal_of_80_columns(self, make_run):
        (comparison,) = compare_runs(make_run("a", range(60)), make_run("b", range(20, 100)))
        console = Console(width=80, record=True)
        console.print(comparison_table(comparison))
        lines = console.export_text().splitlines()
        assert len(lines) == len(columns(comparison)) - 1 + 3 and "api_bank, strict" in lines[0]  # and title and frame
        assert any("b - a" in line and "[" in line and "]" in line for line in lines)


class TestMain:
    def test_writes_tables_and_a_figure(self, make_run, tmp_path, capsys):
        a, b = make_run("a", range(60)), make_run("b", range(20, 100), prompt_form="native")
        names = {"markdown": "t.md", "latex": "t.tex", "figure": "t.png"}
        files = {option: tmp_path / name for option, name in names.items()}
        options = [text for option, path in files.items() for text in (f"--{option}", str(path))]
        main([str(a), str(b), *options])
        printed = capsys.readouterr().out
        assert "api_bank, strict" in printed and "prompt_form differs: paper and native" in " ".join(printed.split())
        rows = files["markdown"].read_text().splitlines()
        assert rows[0].startswith("| benchmark | n (clusters) | a | b | b - a | only b / only a | p |")
        assert "50.0 [" in rows[2] and "66.7 [" in rows[2]
        latex = files["latex"].read_text()
        assert "api\\_bank" in latex and latex.count("&") == 2 * 9
        assert files["figure"].read_bytes().startswith(b"\x89PNG")

    def test_prints_brackets_as_they_are(self, make_run, capsys):
        a = make_run("[a] :key:", range(60), chat_template_kwargs={"chat_template": "[INST]{{ q }}[/INST]"})
        main([str(a), str(make_run("b", range(60)))])
        printed = "".join(capsys.readouterr().out.split())
        assert "[a]:key::" + str(a).replace(" ", "") in printed
        assert "chat_template_kwargsdiffers:{'chat_template':'[INST]{{q}}[/INST]'}andNone" in printed
        main([str(a), "--published"])
        assert "[a]:key:" in "".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "two runs are compared, A and B, not 1"),
            (
                ["--published", "--markdown", "x.md"],
                "--published only prints, .*: leave out --markdown",
            ),
        ],
    )
    def test_says_in_one_line_what_is_wrong(self, make_run, options, message):
        with pytest.raises(SystemExit, match=message):
            main([str(make_run("a", range(60))), *options])

    def test_says_that_a_file_cannot_be_written(self, make_run, tmp_path):
        a = str(make_run("a", range(60)))
        with pytest.raises(SystemExit, match=r"cannot write .*absent.t.md: No such file or directory"):
            main([a, a, "--markdown", str(tmp_path / "absent" / "t.md")])
        with pytest.raises(SystemExit, match="rest-trl compare: error: "):
            main([a, a, "--figure", str(tmp_path / "t.unknown")])

    def test_sets_a_run_beside_the_published_figures(self, make_run, capsys):
        generation = GENERATION | {"max_new_tokens": 512, "temperature": 0.7}
        path = make_run("a", range(60), prompt_form="native", limit=120, generation=generation)
        main([str(path), "--published"])
        printed = " ".join(capsys.readouterr().out.split())
        assert "this run" in printed and "50.00 [" in printed and "70.69" in printed
        for difference in (
            "only 120 samples were run",
            "sampled at temperature 0.7",
            "at most 512 new tokens",
            "tools and history go through the chat template",
            "a sample without a completion counts as wrong",
            "the published figures have no error bars",
        ):
            assert f"Other than in the paper: {difference}" in printed

    def test_says_that_nothing_is_published(self, make_run):
        with pytest.raises(SystemExit, match="nothing is published on tiny"):
            main([str(make_run("a", [1], "tiny", metrics=("exact",))), "--published"])


class TestPublished:
    def test_holds_the_figures_of_the_paper(self):
        published = [(name, row) for name, benchmark in find_benchmarks().items() for row in benchmark.published]
        rows = {(name, row.figure, row.model, row.method): (row.low, row.high) for name, row in published}
        assert len(rows) == len(published) == 22
        assert rows["api_bank", "overall", "Qwen3-8B", "ResT"] == (70.69, None)
        assert rows["bfcl_v3", "multi_turn", "Qwen3-4B-2507", "ResT"] == (50.38, None)
        method = "Dr.GRPO (range of two figures)"
        assert rows["bfcl_v3", "multi_turn", "Qwen3-4B-2507", method] == (45.75, 48.62)

    def test_a_run_as_in_the_paper_differs_in_little(self):
        summary = {"benchmark": "api_bank", "prompt_form": "paper", "generation": GENERATION}
        assert len(protocol_differences(json.loads(json.dumps(summary)))) == 3
