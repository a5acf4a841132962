import pytest
from user_benchmark import Lengths

from rest_trl.lab.evaluation.benchmark import Benchmark, find_benchmarks, get_benchmark
from rest_trl.lab.evaluation.comparison import compare_runs
from rest_trl.lab.evaluation.evaluate import main
from rest_trl.lab.tiny import TINY_DATASETS


BASE = ["--model_name_or_path", "tiny", "--dtype", "float32", "--max_new_tokens", "8"]


class TestFindBenchmarks:
    def test_finds_every_module_of_the_package(self):
        found = find_benchmarks()
        assert found.keys() == {"api_bank", "bfcl_v3", "bfcl_v4", "data", *TINY_DATASETS}
        assert all(issubclass(benchmark, Benchmark) and benchmark.metrics for benchmark in found.values())
        assert {name for name, benchmark in found.items() if benchmark.needs_setup} == {"bfcl_v3", "bfcl_v4"}

    def test_a_benchmark_with_published_figures_says_of_which_metric(self):
        for benchmark in find_benchmarks().values():
            assert (benchmark.published_metric in benchmark.metrics) == bool(benchmark.published)

    def test_what_needs_no_setup_refuses_it(self):
        with pytest.raises(ValueError, match="tiny needs no setup"):
            find_benchmarks()["tiny"].setup(None)


class TestGetBenchmark:
    def test_takes_names_and_dotted_paths(self):
        assert get_benchmark("tiny") is find_benchmarks()["tiny"]
        assert get_benchmark("user_benchmark.Lengths") is Lengths

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "api-bank",
                r"'api-bank': do you mean api_bank\? choose one of api_bank, .*, tiny, .*, or give the",
            ),
            ("absent.Lengths", "cannot be imported .*No module named 'absent'"),
            ("user_benchmark.Absent", "cannot be imported .*KeyError: 'Absent'"),
            (".Lengths", "unknown benchmark|cannot be imported"),
            (".user_benchmark.Lengths", "unknown benchmark|cannot be imported"),
            ("user_benchmark.A_NUMBER", "is not a subclass of rest_trl.lab.evaluation.benchmark.Benchmark"),
            ("user_benchmark.Unfinished", "it lacks from_options, score, name, metrics"),
        ],
    )
    def test_refuses_what_is_none(self, name, message):
        with pytest.raises(ValueError, match=message):
            get_benchmark(name)


class TestUserBenchmark:
    def test_runs_goes_on_and_is_compared(self, tmp_path):
        arguments = ["--benchmark", "user_benchmark.Lengths", *BASE]
        summary = main([*arguments, "--output_dir", str(tmp_path / "a"), "--most_tokens", "99", "--limit", "3"])
        assert (summary["benchmark"], summary["most_tokens"], summary["overall"]["n"]) == ("lengths", 99, 3)
        assert summary["overall"]["short"]["accuracy"] == 1 and summary["notes"] == ["says nothing"]
        with pytest.raises(SystemExit, match=r"holds another run .most_tokens was 99, is 2"):
            main([*arguments, "--output_dir", str(tmp_path / "a"), "--most_tokens", "2", "--limit", "3"])
        main([*arguments, "--output_dir", str(tmp_path / "b"), "--most_tokens", "2", "--limit", "3"])
        (comparison,) = compare_runs(tmp_path / "a", tmp_path / "b")
        assert comparison.warnings == ("most_tokens differs: 99 and 2",)

    def test_its_options_are_for_it_alone(self, tmp_path, capsys):
        with pytest.raises(SystemExit, match=r"--data is for --benchmark api_bank or data, not for user_"):
            main(["--benchmark", "user_benchmark.Lengths", *BASE, "--output_dir", str(tmp_path), "--data", "x"])
        with pytest.raises(SystemExit):
            main(["--benchmark", "tiny", *BASE, "--output_dir", str(tmp_path), "--most_tokens", "3"])
        assert "unrecognized arguments: --most_tokens" in capsys.readouterr().err
        with pytest.raises(SystemExit, match="rest-trl evaluate: error: unknown benchmark 'lengths'"):
            main(["--benchmark", "lengths", *BASE, "--output_dir", str(tmp_path)])
