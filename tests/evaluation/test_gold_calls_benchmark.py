"""Single steps with gold completions: what is exact, what is reported apart, and own data from file to comparison."""

import json

import pytest
from replay import Replay

from rest_trl.data import load_rest_dataset
from rest_trl.lab.evaluation.benchmark import Sample
from rest_trl.lab.evaluation.comparison import compare_runs
from rest_trl.lab.evaluation.evaluate import main
from rest_trl.lab.evaluation.generation import Completion
from rest_trl.lab.evaluation.gold_calls_benchmark import WITH_CALLS, WITHOUT_CALLS, OwnData, TinyWorld
from rest_trl.lab.evaluation.summary import evaluate, read_scores


GOLD = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
RUN = {"model": "m", "adapter": None, "generation": {}}


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class TestTinyWorld:
    def test_tells_golds_with_and_without_calls_apart(self, tokenizer, tmp_path):
        golds = {"a": GOLD, "b": "Hello.", "c": "Hello."}
        samples = [Sample(id, "one", id, f"prompt {id}", gold) for id, gold in golds.items()]
        texts = dict.fromkeys(golds, "gibberish")
        summary = evaluate(TinyWorld(samples), Replay(tokenizer, texts), tmp_path, RUN)
        shares = {name: (group["n"], group["exact"]["accuracy"]) for name, group in summary["groups"].items()}
        assert shares == {WITH_CALLS: (1, 0), WITHOUT_CALLS: (2, 1)}

    @pytest.mark.parametrize(
        ("text", "truncated", "why"),
        [
            (GOLD, False, None),
            (GOLD, True, "truncated; calls ['f'], gold ['f']"),
            ("No.", False, "calls [], gold ['f']"),
            ("No.", True, "truncated; calls [], gold ['f']"),
        ],
    )
    def test_a_completion_that_was_cut_off_is_named_so_and_never_exact(self, text, truncated, why):
        sample = Sample("tiny_0", "one", "dialogue_0", "prompt", GOLD)
        score = TinyWorld([sample]).score(sample, Completion("tiny_0", [1], text, truncated))
        assert (score.why, score.scores) == (why, {"exact": float(why is None)})


ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Is it raining in {city}?"},
            {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": {"city": city}}}]},
            {"role": "tool", "content": "rain"},
            {"role": "assistant", "content": "Yes."},
        ],
        "tools": [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
            for name in ("get_weather", "get_rain")
        ],
    }
    for city, name in [("Oslo", "get_weather"), ("Rome", "get_weather"), ("Bonn", "get_rain"), ("Kyiv", "get_rain")]
]
OPTIONS = {"split": None, "test_size": None, "limit": None, "tool_call_syntax": None, "chat_template_kwargs": None}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


class TestOwnData:
    def run(self, data, tokenizer, path, texts, truncated=(), **options):
        benchmark = OwnData.from_options({**OPTIONS, "data": data, **options}, tokenizer, None)
        golds = {sample.id: sample.gold for sample in benchmark.samples}
        texts = {id: texts.get(id, gold) for id, gold in golds.items()}
        summary = evaluate(benchmark, Replay(tokenizer, texts, truncated=truncated), path, RUN)
        return summary, {score.id: score for score in read_scores(path)}

    def test_of_the_golds_is_all_right_and_a_row_is_a_cluster(self, data, tokenizer, tmp_path):
        summary, scores = self.run(data, tokenizer, tmp_path / "run", {})
        assert list(scores)[:2] == ["my.jsonl#0/0", "my.jsonl#0/1"]
        for metric in ("exact", "format"):
            figure = summary["overall"][metric]
            assert (figure["accuracy"], figure["clusters"]) == (1, 4) and 0 < figure["low"] < figure["high"] == 1
        rows = {name: row["n"] for name, row in (summary["subsets"] | summary["groups"]).items()}
        assert rows == {WITH_CALLS: 4, WITHOUT_CALLS: 4, "tool get_rain": 2, "tool get_weather": 2}

    def test_tells_tools_and_golds_without_calls_apart(self, data, tokenizer, tmp_path):
        wrong = {f"my.jsonl#{row}/0": "gibberish" for row in range(4)}
        wrong["my.jsonl#0/0"] = call("get_weather", city="Oslo")
        summary, scores = self.run(data, tokenizer, tmp_path / "run", wrong)
        rows = summary["subsets"] | summary["groups"]
        shares = {name: row["exact"]["accuracy"] for name, row in rows.items()}
        # Overall, gibberish is right for every gold without a call.
        assert summary["overall"]["exact"]["accuracy"] == 5 / 8
        assert shares == {WITH_CALLS: 0.25, WITHOUT_CALLS: 1, "tool get_rain": 0, "tool get_weather": 0.5}
        assert scores["my.jsonl#2/0"].why == "calls [], gold ['get_rain']"

    def test_what_is_unreadable_or_cut_off_is_neither_exact_nor_well_formed(self, data, tokenizer, tmp_path):
        texts = {"my.jsonl#0/1": "<tool_call>\nnot JSON\n</tool_call>"}
        _, scores = self.run(data, tokenizer, tmp_path / "run", texts, truncated={"my.jsonl#1/1"})
        assert [id for id, score in scores.items() if score.scores == {"exact": 0, "format": 0}] == [
            "my.jsonl#0/1",
            "my.jsonl#1/1",
        ]

    def test_tools_tell_strings_from_numbers_where_the_syntax_does_not(self, tokenizer, tmp_path):
        gold = "<tool_call>\n<function=f>\n<parameter=v>\n3.10\n</parameter>\n</function>\n</tool_call>"
        for kind, exact in (("string", [0, 1]), ("number", [1, 1])):
            tools = [{"name": "f", "parameters": {"type": "object", "properties": {"v": {"type": kind}}}}]
            row = {"prompt": f"{json.dumps(tools)} Which?", "solution": gold, "tools": tools}
            (tmp_path / f"{kind}.jsonl").write_text(2 * (json.dumps(row) + "\n"))
            texts = {f"{kind}.jsonl#0/0": gold.replace("3.10", "3.1")}
            _, scores = self.run(
                str(tmp_path / f"{kind}.jsonl"), tokenizer, tmp_path / kind, texts, tool_call_syntax="qwen3_coder"
            )
            assert [score.scores["exact"] for score in scores.values()] == exact

    def test_takes_the_rows_that_training_held_out(self, data, tokenizer, tmp_path):
        trained_on = load_rest_dataset(data, tokenizer, test_size=0.25)
        _, scores = self.run(data, tokenizer, tmp_path / "run", {}, test_size=0.25)
        held_out = {score.cluster for score in scores.values()}
        assert len(held_out) == 1 and held_out | set(trained_on["source"]) == {f"my.jsonl#{row}" for row in range(4)}
        assert not held_out & set(trained_on["source"])

    def test_refuses_golds_of_another_syntax(self, tokenizer, tmp_path):
        path = tmp_path / "other.jsonl"
        path.write_text(json.dumps({"prompt": "x", "solution": "<tool_call>f(x=1)</tool_call>"}) + "\n")
        with pytest.raises(ValueError, match=r"1 of 1 golds cannot be read as hermes, the first is other.jsonl#0/0 "):
            OwnData.from_options({**OPTIONS, "data": str(path)}, tokenizer, None)

    def test_before_and_after_are_two_commands_and_a_comparison(self, data, tmp_path, monkeypatch, capsys):
        (tmp_path / "my_syntax.py").write_text(
            "from rest_trl.tool_calls.markers import HermesSyntax\n"
            "class Mine(HermesSyntax):\n    name = 'mine_for_evaluation'\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        options = ["--data", data, "--model_name_or_path", "tiny", "--dtype", "float32", "--max_new_tokens", "8"]
        for name in ("before", "after"):
            path = tmp_path / name
            summary = main([*options, "--tool_call_syntax", "my_syntax.Mine", "--output_dir", str(path)])
            assert (summary["benchmark"], summary["tool_call_syntax"]) == ("data", "my_syntax.Mine")
        assert "tool get_rain" in capsys.readouterr().out
        (comparison,) = compare_runs(tmp_path / "before", tmp_path / "after")
        assert comparison.names == ("before", "after") and comparison.warnings == ()
        (comparison,) = compare_runs(tmp_path / "before", tmp_path / "after", subset=WITH_CALLS)
        assert (comparison.benchmark, comparison.paired.difference.n) == ("data, golds with calls", 4)
        with pytest.raises(ValueError, match=r"has the subsets golds with calls, golds without, not 'calls'"):
            compare_runs(tmp_path / "before", tmp_path / "after", subset="calls")
