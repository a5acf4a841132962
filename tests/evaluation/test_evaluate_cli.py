import json
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants

from rest_trl import cli as rest_trl_cli
from rest_trl.lab.evaluation import evaluate, local_backends
from rest_trl.lab.evaluation.benchmark import find_benchmarks
from rest_trl.lab.evaluation.bfcl_benchmark import BFCLv3
from rest_trl.lab.evaluation.evaluate import main, make_parser
from rest_trl.lab.evaluation.summary import read_scores
from rest_trl.lab.tiny import TINY_MODEL_DIR


MODEL = ["--model_name_or_path", "tiny", "--dtype", "float32"]
BASE = ["--benchmark", "tiny", *MODEL, "--limit", "8", "--max_new_tokens", "96"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and its summary."""
    path = tmp_path_factory.mktemp("evaluate") / "run"
    return path, main([*BASE, "--output_dir", str(path)])


class TestEvaluate:
    def test_writes_scores_and_summary(self, finished, capsys):
        path, summary = finished
        assert json.loads((path / "summary.json").read_text()) == summary
        assert summary["benchmark"] == "tiny" and summary["model"] == "tiny" and summary["adapter"] is None
        assert summary["backend"] == "transformers" and summary["limit"] == 8 and summary["metrics"] == ["exact"]
        assert summary["generation"] == {"max_new_tokens": 96, "temperature": 0.0, "top_p": 1.0, "seed": 0}
        assert summary["versions"].keys() >= {"rest-trl", "transformers", "torch"}
        assert (summary["generated"], summary["reused"], summary["missing"]) == (8, 0, [])
        scores = read_scores(path)
        overall = summary["overall"]
        assert overall["n"] == len(scores) == 8 and overall["missing"] == 0
        assert overall["exact"]["accuracy"] == sum(score.scores["exact"] for score in scores) / 8
        assert overall["exact"]["low"] <= overall["exact"]["accuracy"] <= overall["exact"]["high"]
        assert sum(subset["n"] for subset in summary["subsets"].values()) == 8
        assert all((score.why is None) == (score.scores["exact"] == 1) for score in scores)

    def test_generates_nothing_twice(self, finished, capsys):
        path, summary = finished
        again = main([*BASE, "--output_dir", str(path)])
        assert (again["generated"], again["reused"]) == (0, 8) and again["overall"] == summary["overall"]
        printed = capsys.readouterr().out
        assert "0 completions generated, 8 reused" in printed and "only the first 8 samples" in printed

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--temperature", "1"], "holds another run (generation was"),
            (["--temperature", "-1"], "temperature >= 0"),
            (["--data", "x"], "--data is for --benchmark api_bank or data, not for tiny"),
            (["--concurrency", "3"], "--concurrency is for --backend server, not for transformers"),
            (["--model_name_or_path", "./absent"], "there is no model directory ./absent: check the path"),
            (["--benchmark", "api_bank"], "--benchmark api_bank needs --data"),
            (["--benchmark", "api_bank", "--data", "./absent"], "there is no folder ./absent"),
        ],
    )
    def test_says_in_one_line_what_is_wrong(self, finished, arguments, message):
        path, _ = finished
        with pytest.raises(SystemExit) as error:
            main([*BASE, "--output_dir", str(path), *arguments])
        assert str(error.value).startswith("rest-trl evaluate: error: ") and "\n" not in str(error.value)
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--revision", "x"], "--revision is for a run, and --setup only installs"),
            (["--model_name_or_path", "tiny"], "--model_name_or_path is for a run"),
            (["--seed", "1"], "--seed is for a run"),
            (["--categories", "simple"], "--categories is for a run"),
        ],
    )
    def test_refuses_options_that_do_nothing_for_a_setup(self, arguments, message, monkeypatch):
        monkeypatch.setattr(BFCLv3, "setup", lambda python: pytest.fail("it was set up"))
        with pytest.raises(SystemExit, match=f"rest-trl evaluate: error: {message}"):
            main(["--setup", "bfcl_v3", *arguments])

    def test_takes_no_abbreviations(self, tmp_path, capsys):
        with pytest.raises(SystemExit) as error:
            main(["--bench", "tiny", "--model_name_or_path", "tiny", "--output_dir", str(tmp_path)])
        assert error.value.code == 2 and "unrecognized arguments: --bench" in capsys.readouterr().err

    def test_prints_a_path_as_it_is(self, tmp_path, capsys):
        path = tmp_path / "[name] :key:"
        main([*BASE, "--limit", "1", "--output_dir", str(path)])
        assert str(path / "samples.jsonl").replace(" ", "") in "".join(capsys.readouterr().out.split())

    def test_says_that_no_server_answers(self, tmp_path):
        server = [
            "--benchmark",
            "tiny",
            "--model_name_or_path",
            "tiny",
            "--backend",
            "server",
            "--server_url",
            "http://127.0.0.1:9",
        ]
        with pytest.raises(
            SystemExit, match=r"error: no vLLM server answers at http://127.0.0.1:9 .*: start one with"
        ):
            main([*server, "--output_dir", str(tmp_path)])
        with pytest.raises(SystemExit, match=r"error: no vLLM server answers at nonsense"):
            main([*server, "--server_url", "nonsense", "--output_dir", str(tmp_path)])

    @pytest.mark.parametrize("option", [["--limit", "0"], ["--prompt_form", "x"], ["--chat_template_kwargs", "[1]"]])
    def test_refuses_values_that_cannot_be(self, option, capsys):
        with pytest.raises(SystemExit) as error:
            main([*BASE, "--output_dir", "x", *option])
        assert error.value.code == 2 and f"argument {option[0]}" in capsys.readouterr().err

    def test_names_a_broken_line_of_completions(self, finished, tmp_path):
        path, _ = finished
        (tmp_path / "run.json").write_bytes((path / "run.json").read_bytes())
        (tmp_path / "completions.jsonl").write_text("{}\n")
        with pytest.raises(SystemExit, match=r"completions.jsonl, line 1, is no completion"):
            main([*BASE, "--output_dir", str(tmp_path)])

    def test_imports_no_trainer_and_nothing_slow_before_the_arguments_are_right(self):
        slow = ("trl", "torch", "transformers", "datasets", "accelerate", "scipy", "pandas", "huggingface_hub")
        code = (
            "import sys, rest_trl.lab.evaluation.compare, rest_trl.lab.evaluation.evaluate as evaluate\n"
            "evaluate.make_parser(evaluate.find_benchmarks()).format_help()\n"
            f"print([name for name in {slow} if name in sys.modules], 'rest_trl.trainer' in sys.modules)\n"
            "import rest_trl.lab.evaluation.summary, rest_trl.lab.evaluation.local_backends\n"
            "print([name for name in sys.modules if name.split('.')[0] == 'trl'\n"
            "    or name in ('rest_trl.trainer', 'rest_trl.config', 'rest_trl.train')])\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[:2] == ["[] False", "[]"]

    def test_is_a_command_of_the_package(self, monkeypatch, capsys):
        for command in ("evaluate", "compare"):
            monkeypatch.setattr(sys, "argv", ["rest-trl", command, "--help"])
            with pytest.raises(SystemExit) as error:
                rest_trl_cli.main()
            assert error.value.code == 0 and f"usage: rest-trl {command}" in capsys.readouterr().out


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of the Hub with two revisions of one model, both of them the tiny one."""
    folder = tmp_path / "hub" / "models--someone--tiny"
    (folder / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("old", "b" * 40)):
        (folder / "refs" / name).write_text(commit)
        shutil.copytree(TINY_MODEL_DIR, folder / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


class TestRevision:
    def test_is_loaded_recorded_and_kept_when_a_run_goes_on(self, hub_cache, tmp_path):
        arguments = [*BASE, "--limit", "1", "--output_dir", str(tmp_path / "run")]
        arguments[arguments.index("--model_name_or_path") + 1] = "someone/tiny"
        summary = main([*arguments, "--revision", "old"])
        assert summary["revision"] == "old" and summary["trust_remote_code"] is False
        with pytest.raises(SystemExit, match=r"holds another run \(revision was 'old', is None\)"):
            main(arguments)
        with pytest.raises(SystemExit, match=r"trust_remote_code was False, is True"):
            main([*arguments, "--revision", "old", "--trust_remote_code"])
        with pytest.raises(
            SystemExit,
            match="tokenizer of someone/tiny at revision absent cannot be loaded",
        ):
            main([*arguments, "--revision", "absent"])

    def test_is_refused_for_a_folder(self, tmp_path):
        for model in ("tiny", str(TINY_MODEL_DIR)):
            with pytest.raises(SystemExit, match=r"--revision is for a model on the Hub, not for .*tiny"):
                main([*BASE, "--model_name_or_path", model, "--output_dir", str(tmp_path), "--revision", "main"])

    def test_reaches_the_engine_and_its_tokenizer(self, monkeypatch, tokenizer):
        engines = []
        monkeypatch.setattr(local_backends, "VLLMGenerator", lambda *args, **kwargs: engines.append(kwargs))
        options = ["--backend", "vllm", "--model_name_or_path", "a/b", "--revision", "old", "--trust_remote_code"]
        arguments = make_parser(find_benchmarks()).parse_args([*options, "--output_dir", "x"])
        _, settings = evaluate.make_generator(arguments, "a/b", tokenizer)
        assert engines == [
            {"dtype": "auto", "revision": "old", "tokenizer_revision": "old", "trust_remote_code": True}
        ]
        assert (settings["revision"], settings["trust_remote_code"]) == ("old", True)
