import json
import subprocess
import sys
import time

import pytest
from replay import Replay

from rest_trl.lab.evaluation.benchmark import Sample, Score, SingleTurnBenchmark
from rest_trl.lab.evaluation.generation import (
    Completion,
    CompletionStore,
    GenerationSettings,
    complete,
    prompt_seed,
    prompt_token_ids,
)
from rest_trl.lab.evaluation.summary import evaluate, read_scores


SETTINGS = {"model": "m", "generation": {"temperature": 0.0}, "parts": (1, 2)}
PROMPTS = {f"id_{i}": f"prompt {i}" for i in range(8)}
TEXTS = {id: f"text of {id} - ünïcode\u2028\x85\r\n" for id in PROMPTS}


def completion(id="a", text="text"):
    return Completion(id, [1, 2], text, False)


class TestCompletionStore:
    def test_gives_back_what_was_added(self, tmp_path):
        texts = ["text", "ünïcode\u2028\x85\r\n", 'lone \ud83d surrogate, escaped \\ud83d, \\\ud83d"', "\x00"]
        with CompletionStore(tmp_path, SETTINGS) as store:
            for index, text in enumerate(texts):
                store.add(completion(str(index), text), "prompt")
        with CompletionStore(tmp_path, SETTINGS) as store:
            assert [store.get(str(index), "prompt").text for index in range(len(texts))] == texts

    def test_drops_a_torn_last_line_and_nothing_else(self, tmp_path, caplog):
        with CompletionStore(tmp_path, SETTINGS) as store:
            store.add(completion("a", "ü"), "prompt")
            store.add(completion("b", "ü" * 20), "prompt")
        path = tmp_path / "completions.jsonl"
        whole = path.read_bytes()
        first = whole.index(b"\n") + 1
        for end in range(first + 1, len(whole)):
            path.write_bytes(whole[:end])
            with CompletionStore(tmp_path, SETTINGS) as store:
                assert len(store) == 1 and store.get("b", "prompt") is None
            assert path.read_bytes() == whole[:first]

    @pytest.mark.parametrize("line", ["{", "[]", "{}", '{"id": "a"}', "null", "\xff"])
    def test_names_a_broken_line_in_the_middle(self, tmp_path, line):
        with CompletionStore(tmp_path, SETTINGS) as store:
            store.add(completion(), "prompt")
        path = tmp_path / "completions.jsonl"
        path.write_bytes(
            path.read_bytes() + line.encode("latin-1") + b"\n" + path.read_bytes().replace(b'"a"', b'"b"')
        )
        with pytest.raises(ValueError, match=r"completions.jsonl, line 2, is no completion .*: remove that line"):
            CompletionStore(tmp_path, SETTINGS)

    def test_refuses_two_completions_of_an_id(self, tmp_path):
        with CompletionStore(tmp_path, SETTINGS) as store:
            store.add(completion(), "prompt")
            with pytest.raises(ValueError, match="a has been generated twice"):
                store.add(completion(), "prompt")
        path = tmp_path / "completions.jsonl"
        path.write_bytes(path.read_bytes() * 2)
        with pytest.raises(ValueError, match=r"line 2, is no completion \(a second one of a\)"):
            CompletionStore(tmp_path, SETTINGS)

    def test_refuses_other_settings_and_other_prompts(self, tmp_path):
        with CompletionStore(tmp_path, SETTINGS) as store:
            store.add(completion(), "prompt")
        with pytest.raises(ValueError, match=r"holds another run \(model was 'm', is 'other'; new was None, is 1\)"):
            CompletionStore(tmp_path, {**SETTINGS, "model": "other", "new": 1})
        with CompletionStore(tmp_path, SETTINGS) as store, pytest.raises(ValueError, match="of a for another prompt"):
            store.get("a", "other prompt")

    def test_refuses_completions_of_unknown_settings(self, tmp_path):
        with CompletionStore(tmp_path, SETTINGS) as store:
            store.add(completion(), "prompt")
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(ValueError, match=r"run.json is broken"):
            CompletionStore(tmp_path, SETTINGS)
        (tmp_path / "run.json").unlink()
        with pytest.raises(ValueError, match=r"run.json is gone"):
            CompletionStore(tmp_path, SETTINGS)

    def test_is_open_once_at_a_time(self, tmp_path):
        with CompletionStore(tmp_path, SETTINGS), pytest.raises(ValueError, match="another process is at work in"):
            CompletionStore(tmp_path, SETTINGS)
        CompletionStore(tmp_path, SETTINGS).__exit__()

    def test_a_full_disk_is_named_and_loses_nothing(self, tmp_path):
        code = (
            "import resource, sys\n"
            "from pathlib import Path\n"
            "from rest_trl.lab.evaluation.generation import Completion, CompletionStore\n"
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "with CompletionStore(Path(sys.argv[1]), {}) as store:\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "    for i in range(100):\n"
            "        store.add(Completion(str(i), [1] * 20, 'text', False), 'prompt')\n"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert done.returncode == 1
        assert f"cannot write {tmp_path / 'completions.jsonl'}: File too large. The " in done.stderr
        assert (tmp_path / "completions.jsonl").stat().st_size == 1000
        with CompletionStore(tmp_path, {}) as store:
            kept = len(store)
            assert 3 < kept < 10 and f"The {kept} completions in it are kept" in done.stderr


class TestComplete:
    def test_generates_only_what_is_missing(self, tokenizer, tmp_path):
        first, second = Replay(tokenizer, TEXTS, breaks_after=5), Replay(tokenizer, TEXTS)
        with CompletionStore(tmp_path, SETTINGS) as store, pytest.raises(ConnectionError, match="the server is gone"):
            complete(PROMPTS, first, store)
        with CompletionStore(tmp_path, SETTINGS) as store:
            completions = complete(PROMPTS, second, store)
        assert first.asked + second.asked == list(PROMPTS)
        assert {id: found.text for id, found in completions.items()} == TEXTS and list(completions) == list(PROMPTS)

    def test_leaves_out_what_was_not_generated(self, tokenizer, tmp_path):
        with CompletionStore(tmp_path, SETTINGS) as store:
            assert list(complete(PROMPTS, Replay(tokenizer, {"id_3": "text"}), store)) == ["id_3"]


class TestPromptTokenIds:
    def test_leaves_out_prompts_without_room(self, tokenizer, caplog):
        prompts = {"short": "a", "long": "word " * 40}
        length = len(tokenizer(prompts["long"])["input_ids"])
        assert list(prompt_token_ids(prompts, tokenizer, length + 1)) == ["long", "short"]
        with caplog.at_level("WARNING"):
            assert list(prompt_token_ids(prompts, tokenizer, length)) == ["short"]
        assert "1 prompts have no room" in caplog.text and "counted as wrong: long" in caplog.text


class TestGenerationSettings:
    @pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}])
    def test_refuses_what_cannot_be_sampled(self, wrong):
        with pytest.raises(ValueError, match="max_new_tokens must be positive"):
            GenerationSettings(**wrong)


class TestPromptSeed:
    def test_is_one_of_each_prompt_and_of_each_seed(self):
        ids = [f"task_{task}/{trial}.{turn}" for task in range(50) for trial in range(4) for turn in range(10)]
        seeds = [prompt_seed(seed, id) for seed in (-1, 0, 1, 17) for id in ids]
        assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds)
        assert prompt_seed(0, "lone \ud83d surrogate") != prompt_seed(0, "lone surrogate")


def lists(depth):
    """As many lists as that, each in the next."""
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


class Fixed(SingleTurnBenchmark):
    """A benchmark of the samples in PROMPTS, all right with the same calls, that has no overall figure."""

    name = "fixed"
    metrics = ("exact",)

    def __init__(self, calls=()):
        self.calls = list(calls)
        super().__init__([Sample(id, "all", id, prompt, None) for id, prompt in PROMPTS.items()])

    @classmethod
    def from_options(cls, options, tokenizer, resources):
        return cls()

    def score(self, sample, completion):
        ids, text = completion.completion_ids, completion.text
        return Score(sample.id, sample.subset, sample.cluster, {"exact": 1.0}, None, self.calls, ids, text)

    def overall(self, scores, metric):
        return "not all of it was run"


class TestEvaluate:
    @pytest.mark.parametrize(
        "value",
        ["lone \ud83d surrogate", float("inf"), 10**4000, "\u2028\x85", lists(700)],
        ids=["surrogate", "inf", "big", "lines", "deep"],
    )
    def test_writes_whatever_a_model_may_have_called(self, tokenizer, tmp_path, value):
        calls = [{"name": "f", "arguments": {"x": value}}]
        evaluate(Fixed(calls), Replay(tokenizer, TEXTS), tmp_path, {"model": "m"})
        assert [score.calls for score in read_scores(tmp_path)] == [calls] * len(PROMPTS)

    def test_leaves_out_calls_that_are_too_deep_to_be_written(self, tokenizer, tmp_path):
        calls = [{"name": "f", "arguments": {"x": lists(20_000)}}]
        summary = evaluate(Fixed(calls), Replay(tokenizer, TEXTS), tmp_path, {"model": "m"})
        assert summary["subsets"]["all"]["exact"]["accuracy"] == 1
        scores = read_scores(tmp_path)
        assert [(score.calls, score.text) for score in scores] == [([], text) for text in TEXTS.values()]

    def test_gives_the_reason_why_there_is_no_overall_figure(self, tokenizer, tmp_path):
        summary = evaluate(Fixed(), Replay(tokenizer, TEXTS), tmp_path, {"model": "m"})
        assert summary["overall"]["exact"] == {"refused": "not all of it was run"}
        assert summary["subsets"]["all"]["exact"]["accuracy"] == 1
        assert (summary["generated"], summary["reused"]) == (8, 0)
        again = evaluate(Fixed(), Replay(tokenizer, {}), tmp_path, {"model": "m"})
        assert (again["generated"], again["reused"]) == (0, 8)

    def test_says_what_is_wrong_with_a_run_it_cannot_read(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no finished run"):
            read_scores(tmp_path)
        (tmp_path / "samples.jsonl").write_text('{"id": 1}\n')
        with pytest.raises(ValueError, match=r"samples.jsonl cannot be read"):
            read_scores(tmp_path)


class TestKilledRun:
    """The whole program with the tiny model in transformers, killed in the middle and started again."""

    def command(self, path):
        options = ["--limit", "48", "--batch_size", "2", "--max_new_tokens", "96", "--dtype", "float32"]
        program = ["-m", "rest_trl.lab.evaluation.evaluate", "--benchmark", "tiny", "--model_name_or_path", "tiny"]
        return [*program, "--output_dir", str(path), *options]

    def test_goes_on_where_it_was(self, tmp_path, fork_server):
        path = tmp_path / "killed" / "completions.jsonl"
        process = fork_server.start(*self.command(path.parent))
        deadline = time.monotonic() + 240
        while not path.exists() or path.read_bytes().count(b"\n") < 24:
            assert process.returncodes == [None] and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        before = path.read_bytes()
        kept = before.splitlines()
        with path.open("ab") as file:
            file.write(b'{"id": "tiny_47", "completion_ids": [1, 2')  # as if the kill had come in the middle of a line
        fork_server.run(*self.command(path.parent))
        lines = path.read_bytes().splitlines()
        assert 24 <= len(kept) < 48 and lines[: len(kept)] == kept
        ids = [json.loads(line)["id"] for line in lines]
        assert len(ids) == len(set(ids)) == 48
        summary = json.loads((path.parent / "summary.json").read_text())
        assert (summary["reused"], summary["generated"]) == (len(kept), 48 - len(kept))

        fork_server.run(*self.command(tmp_path / "whole"))
        whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
        assert (tmp_path / "whole" / "samples.jsonl").read_bytes() == (path.parent / "samples.jsonl").read_bytes()
        for name in ("subsets", "overall", "missing"):
            assert summary[name] == whole[name]
