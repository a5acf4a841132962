import json
import subprocess
from collections import Counter

import bfcl_golds
import pytest
from bfcl_replay import BENCHMARKS, BFCLReplay, dialogue_texts, run
from chat_templates import TEMPLATES, syntax_of_template, tokenizer_with
from transformers import AutoTokenizer

from rest_trl.lab.evaluation.benchmark import Score
from rest_trl.lab.evaluation.bfcl.multi_turn import Rollout
from rest_trl.lab.evaluation.bfcl.process import OfficialBFCL
from rest_trl.lab.evaluation.bfcl.prompts import PromptRenderer
from rest_trl.lab.evaluation.bfcl.questions import (
    CATEGORIES,
    BFCLError,
    Case,
    clusters,
    expand_categories,
    tool_schema,
)
from rest_trl.lab.evaluation.sandbox import Limits
from rest_trl.lab.evaluation.summary import summarize
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.tool_calls import ToolCall, get_syntax


MEASURES = {"unreadable_percent": 0.0}
UNREADABLE = "<tool_call>\nnot JSON\n</tool_call>"


@pytest.fixture(scope="module", params=["v3", "v4"])
def official(request):
    bfcl_golds.need_environment(request.param)
    with OfficialBFCL(request.param, limits=Limits(wall_seconds=20.0, cpu_seconds=5)) as official:
        yield official


def written(calls):
    """What a model writes that makes these calls; `None` are calls that cannot be read."""
    if calls is None:
        return UNREADABLE
    return f"<think>\nLet me see.\n</think>\n\n{bfcl_golds.write(calls, 'hermes')}" if calls else "There is none."


def gold_texts(official, category, limit=None, spoilt=lambda number, calls: calls):
    """Completions by id that answer a category rightly, but for the samples whose calls are `spoilt`."""
    answers, texts = official.answers(category), {}
    for number, case in enumerate(official.cases(category)[:limit]):
        calls = spoilt(number, bfcl_golds.gold(case, answers[case.id], category))
        if category.startswith("multi_turn"):
            texts |= dialogue_texts(case.id, [[written(step) for step in bfcl_golds.as_steps(turn)] for turn in calls])
        else:
            texts[case.id] = written(calls)
    return texts


def wrong(scores):
    return {id for id, score in scores.items() if score.scores["valid"] == 0}


class TestGolds:
    def test_single_turn_categories_reach_their_ceilings(self, official, tokenizer, tmp_path):
        categories = bfcl_golds.SINGLE_TURN[official.version]
        texts = {id: text for name in categories for id, text in gold_texts(official, name).items()}
        summary, scores, model = run(official, categories, texts, tokenizer, tmp_path)
        assert wrong(scores) == bfcl_golds.UNSATISFIABLE
        assert sorted(model.asked) == sorted(scores) and summary["missing"] == []
        sizes = Counter(score.subset for score in scores.values())
        assert {name: row["n"] for name, row in summary["subsets"].items()} == sizes
        # Of these the official averages need Java and JavaScript as well, but for that over the live categories.
        assert summary["groups"]["live"]["valid"]["accuracy"] == pytest.approx(
            1 - 4 / summary["groups"]["live"]["n"], abs=1e-4
        )
        assert list(summary["groups"]) == ["live"]
        assert summary["overall"]["valid"]["refused"].startswith("not given: ")

    def test_dialogues_reach_their_ceiling(self, official, tokenizer, tmp_path):
        texts = gold_texts(official, "multi_turn_base")
        summary, scores, model = run(official, ["multi_turn_base"], texts, tokenizer, tmp_path)
        assert wrong(scores) == bfcl_golds.UNFINISHABLE[official.version] and len(scores) == 200
        unasked = texts.keys() - set(model.asked)
        assert len(model.asked) == len(set(model.asked)) and unasked == {
            f"{id}/5.{step}" for id in wrong(scores) for step in (0, 1)
        }
        assert summary["subsets"]["multi_turn_base"]["n"] == 200
        assert summary["groups"] == {} and "refused" in summary["overall"]["valid"]

    def test_averages_are_given_over_categories_that_were_run(self, official, tokenizer):
        categories = expand_categories(official.version, ["multi_turn"])
        benchmark = BENCHMARKS[official.version](official, categories, tokenizer, "hermes")
        scores = [
            Score(case.id, name, f"multi_turn/{number}", {"valid": float(number < 33)}, None, [], [], "", MEASURES)
            for name in categories
            for number, case in enumerate(official.cases(name))
        ]
        summary = summarize(scores, benchmark)
        group = summary["groups"]["multi_turn"]
        assert (group["n"], group["valid"]["accuracy"], group["valid"]["clusters"]) == (800, 0.165, 200)
        assert group["valid"]["low"] < 0.165 < group["valid"]["high"]
        assert list(summary["groups"]) == ["multi_turn"] and "refused" in summary["overall"]["valid"]
        assert summarize(scores[:-1], benchmark)["groups"] == {}


class TestPlantedErrors:
    def test_each_of_them_and_nothing_else_is_wrong(self, official, tokenizer, tmp_path):
        categories = ["multiple", "irrelevance", "live_simple", "parallel"]
        texts, planted = {}, set(bfcl_golds.UNSATISFIABLE)
        for category in categories:
            texts |= gold_texts(
                official,
                category,
                spoilt=lambda number, calls: bfcl_golds.spoil(calls, number % 6) if number % 4 == 0 else calls,
            )
            planted |= {case.id for case in official.cases(category)[::4]}
        _, scores, _ = run(official, categories, texts, tokenizer, tmp_path)
        assert wrong(scores) == planted & scores.keys()
        assert all((score.why is None) == (score.scores["valid"] == 1) for score in scores.values())

    def test_an_unreadable_call_is_an_abstention_and_counted_as_unreadable(self, official, tokenizer, tmp_path):
        texts = gold_texts(official, "irrelevance", 10)
        texts |= dict.fromkeys(["irrelevance_0", "irrelevance_3"], UNREADABLE)
        summary, scores, _ = run(official, ["irrelevance"], texts, tokenizer, tmp_path, limit=10)
        assert wrong(scores) == set()  # as by the official checker
        assert summary["subsets"]["irrelevance"]["unreadable_percent"]["mean"] == 20
        assert any("counts a call that cannot be read as none" in note for note in summary["notes"])

    def test_of_dialogues(self, official, tokenizer, tmp_path):
        texts = gold_texts(official, "multi_turn_base", 12)
        planted = {}
        # Nothing is called.
        for id in [id for id in texts if id.startswith("multi_turn_base_1/")]:
            texts[id] = "I cannot."
            planted["multi_turn_base_1"] = "multi_turn:"
        # Calls without end.
        for step in range(30):
            texts[f"multi_turn_base_3/0.{step}"] = written([ToolCall("ls", {})])
        planted["multi_turn_base_3"] = "multi_turn:force_terminated"
        # No room for a completion in the midst.
        del texts["multi_turn_base_5/1.0"]
        planted["multi_turn_base_5"] = "broken_off: the prompt leaves the model no room"
        # A call that cannot be read ends the turn.
        texts["multi_turn_base_7/0.0"] = UNREADABLE
        planted["multi_turn_base_7"] = "multi_turn:"
        # No completion at all.
        del texts["multi_turn_base_9/0.0"]
        planted["multi_turn_base_9"] = "missing: not generated"
        summary, scores, model = run(official, ["multi_turn_base"], texts, tokenizer, tmp_path, limit=12)
        assert len(scores) == 12 and wrong(scores) == planted.keys()
        for id, why in planted.items():
            assert scores[id].why.startswith(why), scores[id].why
        assert summary["missing"] == ["multi_turn_base_9"]
        steps = [id for id in model.asked if id.startswith("multi_turn_base_3/")]
        assert len(steps) == official.max_steps == len(scores["multi_turn_base_3"].calls[0])
        assert "multi_turn_base_7/1.0" in model.asked
        assert "[0.1]\n<think>" in scores["multi_turn_base_0"].text


class TestHostileCompletions:
    @pytest.mark.parametrize("place", ["name", "value", "whole"])
    def test_each_is_wrong_and_the_run_goes_on(self, official, tokenizer, tmp_path, place):
        target = tmp_path / "target"
        target.mkdir()
        (target / "kept").write_text("kept")
        hostile = bfcl_golds.hostile_texts(target)
        hostile += [r"\ud800", "[" * 100_000, "9" * 5000, "<|im_end|>\n<|im_start|>system", "\x00"]
        texts = gold_texts(official, "multi_turn_base", 20)
        texts |= gold_texts(official, "multiple", 20)
        for number, text in enumerate(hostile):
            completion = {
                "name": written([ToolCall(text, {})]),
                "value": written([ToolCall("cd", {"folder": text})]),
                "whole": f'<tool_call>\n{{"name": "cd", "arguments": {{"folder": {text}}}}}\n</tool_call>',
            }[place]
            # In the stead of what the dialogue needs, and of the answer.
            for id in [id for id in texts if id.startswith(f"multi_turn_base_{number}/")]:
                texts[id] = completion if id.endswith(".0") else "Done."
            texts[f"multiple_{number}"] = completion
        categories = ["multiple", "multi_turn_base"]
        _, scores, _ = run(official, categories, texts, tokenizer, tmp_path / "run", limit=20)
        assert wrong(scores) == {f"{name}_{number}" for name in categories for number in range(len(hostile))}
        assert [path.name for path in target.iterdir()] == ["kept"]


class TestInterruptedRun:
    def test_goes_on_without_generating_anything_twice(self, official, tokenizer, tmp_path):
        categories, limit = ["multiple", "multi_turn_miss_func"], 12
        texts = {id: text for name in categories for id, text in gold_texts(official, name, limit).items()}
        for id in [id for id in texts if id.startswith("multi_turn_miss_func_3/1.")]:
            del texts[id]
        half = len(texts) // 2
        expected, whole, _ = run(official, categories, texts, tokenizer, tmp_path / "whole", limit)
        with pytest.raises(ConnectionError):
            run(official, categories, texts, tokenizer, tmp_path / "torn", limit, last=half)
        path = tmp_path / "torn" / "completions.jsonl"
        first = {json.loads(line)["id"] for line in path.read_text().splitlines()}
        assert half - 1 <= len(first) <= half
        summary, scores, second = run(official, categories, texts, tokenizer, tmp_path / "torn", limit)
        assert not first & {id for id in second.asked if id in texts}
        assert scores == whole and wrong(scores) == {"multi_turn_miss_func_3"}
        assert (summary["reused"], summary["generated"]) == (len(first), expected["generated"] - len(first))
        assert summary["subsets"] == expected["subsets"]
        # Once more: nothing is asked but what there is no room for.
        assert run(official, categories, texts, tokenizer, tmp_path / "torn", limit)[2].asked == [
            "multi_turn_miss_func_3/1.0"
        ]


class TestPrompts:
    # How the template shows the function of that name.
    @pytest.mark.parametrize(("template", "form"), [("tiny", "\n{}("), ("qwen3", '{{"name": "{}", "description"')])
    def test_functions_come_with_their_turn(self, official, tmp_path, template, form):
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
        if template != "tiny":
            tokenizer.chat_template = TEMPLATES[template]
        category = "multi_turn_miss_func"
        texts = gold_texts(official, category, 10)
        _, scores, model = run(official, [category], texts, tokenizer, tmp_path, 10)
        assert wrong(scores) == set()
        for case in official.cases(category)[:10]:
            for id, prompt in model.prompts.items():
                if not id.startswith(f"{case.id}/"):
                    continue
                turn = int(id.rpartition("/")[2].partition(".")[0])
                assert all(form.format(function["name"]) in prompt for function in case.functions)
                for start, functions in case.functions_added.items():
                    for function in functions:
                        assert (form.format(function["name"]) in prompt) == (turn >= start)
                assert all(message["content"] in prompt for turns in case.turns[: turn + 1] for message in turns)

    def test_history_has_calls_results_and_the_reasoning_of_the_turn(self, official, tokenizer, tmp_path, monkeypatch):
        monkeypatch.setattr(tokenizer, "chat_template", TEMPLATES["qwen3"])
        texts = gold_texts(official, "multi_turn_base", 1)
        _, scores, model = run(official, ["multi_turn_base"], texts, tokenizer, tmp_path, 1)
        first = scores["multi_turn_base_0"].calls[0][0][0]
        call = (
            f'<tool_call>\n{{"name": "{first["name"]}", "arguments": {json.dumps(first["arguments"])}}}\n</tool_call>'
        )
        second, later = model.prompts["multi_turn_base_0/0.1"], model.prompts["multi_turn_base_0/1.0"]
        for prompt in (second, later):
            assert call in prompt and '<tool_response>\n{"current_working_directory"' in prompt
        assert second.count("Let me see.") == 1 and later.count("Let me see.") == 0

    def test_every_question_of_a_version_is_rendered(self, official, tokenizer, monkeypatch):
        monkeypatch.setattr(tokenizer, "chat_template", TEMPLATES["qwen3"])
        benchmark = BENCHMARKS[official.version](official, CATEGORIES[official.version], tokenizer, "hermes")
        assert benchmark.name == f"bfcl_{official.version}"
        assert any(official.sandbox in note for note in benchmark.notes)

    def test_a_template_without_tools_is_refused(self, official, tokenizer, monkeypatch):
        monkeypatch.setattr(
            tokenizer, "chat_template", "{% for message in messages %}{{ message.content }}{% endfor %}"
        )
        with pytest.raises(ValueError, match="prompt of multiple_0 does not show the function 'triangle_properties"):
            BENCHMARKS[official.version](official, ["multiple"], tokenizer, "hermes", limit=2)
        with pytest.raises(ValueError, match="has no category 'nonsense': choose one of "):
            BENCHMARKS[official.version](official, ["nonsense"], tokenizer, "hermes")


def case():
    functions = [{"name": "a.f", "description": "", "parameters": {"type": "dict", "properties": {}}}]
    turns = [[{"role": "user", "content": f"question {number}"}] for number in range(2)]
    return Case("x_0", turns, functions, {})


# The official process where no sandbox can be made: the C library, which all levels go through, is not to be had.
WITHOUT_SANDBOX = """
import ctypes, runpy, sys
library = ctypes.CDLL
def refuse(name, *args, **kwargs):
    if name is None:
        raise OSError(1, "not allowed")
    return library(name, *args, **kwargs)
ctypes.CDLL = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class TestWithoutSandbox:
    @pytest.fixture
    def unprotected(self, official, monkeypatch):
        start = subprocess.Popen

        def start_unprotected(command, **kwargs):
            return start([*command[:2], "-c", WITHOUT_SANDBOX, *command[2:]], **kwargs)

        monkeypatch.setattr(subprocess, "Popen", start_unprotected)
        with OfficialBFCL(official.version) as unprotected:
            yield unprotected

    def test_single_turn_categories_are_scored_as_ever(self, unprotected, tokenizer, tmp_path):
        assert unprotected.sandbox == ""
        texts = gold_texts(unprotected, "multiple", limit=5)
        summary, scores, _ = run(unprotected, ["multiple"], texts, tokenizer, tmp_path, limit=5)
        assert wrong(scores) == set() and len(scores) == 5
        assert not any("sandbox" in note for note in summary["notes"])

    def test_dialogues_are_refused_and_never_executed(self, unprotected, tokenizer, tmp_path):
        with pytest.raises(
            ValueError, match=r"multi_turn_base executes .*this machine allows no sandbox .*single_turn runs"
        ):
            BENCHMARKS[unprotected.version](unprotected, ["multiple", "multi_turn_base"], tokenizer, "hermes")
        for attempt in (
            lambda: unprotected.check("multi_turn_base", "multi_turn_base_0", [[[ToolCall("ls", {})]]] * 4),
            lambda: unprotected.open("a", "multi_turn_base", "multi_turn_base_0"),
        ):
            with pytest.raises(BFCLError, match="this machine allows no sandbox"):
                attempt()


class TestPromptRenderer:
    def test_parses_a_completion_once(self, tokenizer, monkeypatch):
        syntax, parsed = type(get_syntax("hermes")), []
        parse = syntax.parse
        monkeypatch.setattr(syntax, "parse", lambda self, text: parsed.append(text) or parse(self, text))
        renderer = PromptRenderer(tokenizer, "hermes")
        texts = [written([ToolCall("f", {"x": number})]) for number in range(3)]
        calls = [renderer.read(text) for text in texts]
        for text, asked in zip(texts, calls, strict=True):
            assert renderer.with_results(text, asked, ["1"])[0]["tool_calls"] and renderer.turn(text)
        assert parsed == texts

    @pytest.mark.parametrize("template", [name for name in sorted(TEMPLATES) if syntax_of_template(name)])
    def test_history_is_rendered_or_refused_at_the_start(self, template):
        renderer = PromptRenderer(tokenizer_with(TEMPLATES[template]), syntax_of_template(template))
        try:
            renderer.check_dialogues()
        except ValueError as error:
            assert template.removesuffix("_training") in ("deepseek_r1_distill", "deepseekv3", "lfm2"), error
            assert "leave them out of --categories" in str(error)
            return
        calls = [ToolCall("a.f", {"key": "value 1"}), ToolCall("a.f", {"key": "value 2"})]
        messages = [{"role": "user", "content": "q"}, *renderer.with_results("", calls, ["result 1", "result 2"])]
        prompt = renderer.render(messages, case().functions)
        assert [prompt.count(text) for text in ("value 1", "value 2", "result 1", "result 2")] == [1, 1, 1, 1]
        assert renderer.one_call_per_message == template.startswith(("llama3", "gptoss"))

    @pytest.mark.parametrize(
        ("shown", "key"), [("thinking", "thinking"), ("nowhere", "reasoning")], ids=["another key", "no key"]
    )
    def test_a_key_that_the_template_refuses_is_not_that_of_the_reasoning(self, tokenizer, monkeypatch, shown, key):
        refusal = "{% if message.reasoning_content %}{{ raise_exception('an unknown key') }}{% endif %}"
        template = tokenizer.chat_template.replace("reasoning_content", shown)
        start = "{%- for message in messages %}"
        monkeypatch.setattr(tokenizer, "chat_template", template.replace(start, start + refusal))
        renderer = PromptRenderer(tokenizer, "hermes")
        renderer.check_dialogues()
        (message,) = renderer.turn("<think>\na\n</think>\n\nHello.")
        assert message == {"role": "assistant", "content": "Hello.", key: "a"}

    def test_shows_no_reasoning_to_a_template_that_refuses_all_keys(self, tokenizer, monkeypatch):
        refusal = "{% if message.keys() | reject('in', known) | list %}{{ raise_exception('unknown') }}{% endif %}"
        known = "{% set known = ['role', 'content', 'tool_calls', 'tool_call_id', 'name'] %}"
        start = "{%- for message in messages %}"
        monkeypatch.setattr(
            tokenizer, "chat_template", known + tokenizer.chat_template.replace(start, start + refusal)
        )
        renderer = PromptRenderer(tokenizer, "hermes")
        renderer.check_dialogues()
        (message,) = renderer.turn("<think>\na\n</think>\n\nHello.")
        assert message == {"role": "assistant", "content": "Hello."}

    def test_reads_calls_none_and_unreadable_ones(self, tokenizer):
        renderer = PromptRenderer(tokenizer, "hermes")
        call = ToolCall("f", {"x": 1})
        assert renderer.read(written([call])) == [call]
        assert renderer.read("No.") == []
        assert renderer.read(UNREADABLE) is None

    @pytest.mark.parametrize(
        ("text", "content"),
        [
            ("<think>\na\n</think>\n\nHello.", "Hello."),
            (f"<think>\na\n</think>\n{UNREADABLE}", UNREADABLE),
            (UNREADABLE, UNREADABLE),
            ("", ""),
        ],
    )
    def test_turns_without_calls_keep_their_text(self, tokenizer, text, content):
        (message,) = PromptRenderer(tokenizer, "hermes").turn(text)
        assert message["content"] == content
        assert message.get("reasoning_content") == ("a" if "think" in text else None)

    def test_no_chat_template(self):
        with pytest.raises(ValueError, match="no chat template"):
            PromptRenderer(tokenizer_with(None), "hermes")


class TestRollout:
    def test_a_template_that_fails_on_a_history_ends_one_dialogue(self, tokenizer, monkeypatch):
        monkeypatch.setattr(
            tokenizer, "chat_template", "{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}x"
        )
        rollout = Rollout("multi_turn_base", case(), PromptRenderer(tokenizer, "hermes"), 21)
        assert rollout.step_id == "x_0/0.0" and rollout.prompt() == "x"
        replay = BFCLReplay(tokenizer, {"x_0/0.0": "Done."})
        assert rollout.take(next(replay.generate({"x_0/0.0": "x"}))) is None
        assert rollout.step_id == "x_0/1.0" and not rollout.is_over
        assert rollout.prompt() is None
        assert rollout.is_over and "cannot render the history" in rollout.failure


class TestToolSchema:
    def test_types_are_those_of_json_schema(self):
        inner = {"type": "dict", "properties": {"a": {"type": "tuple", "items": {"type": "float"}}}}
        schema = tool_schema({"name": "a.b", "description": "", "parameters": inner})
        assert schema["type"] == "function" and schema["function"]["name"] == "a.b"
        inner = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}}
        assert schema["function"]["parameters"] == inner

    def test_no_official_type_is_left(self, official):
        def types(schema):
            yield schema.get("type")
            for child in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
                yield from types(child)

        found = Counter()
        for category in CATEGORIES[official.version]:
            for question in official.cases(category):
                for function in question.functions:
                    found.update(types(tool_schema(function)["function"]["parameters"]))
        assert found.keys() == {"object", "number", "array", "string", "integer", "boolean"}


class TestClusters:
    def test_variants_of_a_dialogue_and_questions_of_the_same_functions_share_one(self, official):
        names = CATEGORIES[official.version]
        found = clusters({name: official.cases(name) for name in names})
        assert {found[f"{name}_17"] for name in bfcl_golds.MULTI_TURN} == {"multi_turn/17"}
        live = {id: cluster for id, cluster in found.items() if id.startswith("live")}
        assert live["live_simple_1-1-0"] != live["live_simple_0-0-0"]
        assert live["live_simple_2-2-0"] == live["live_simple_3-2-1"]
        assert all(cluster.startswith("live/live_") for cluster in live.values())
        assert found["multiple_3"] == "multiple_3"


class TestExpandCategories:
    def test_names_of_groups(self):
        assert expand_categories("v3", ["all"]) == list(CATEGORIES["v3"])
        assert expand_categories("v3", ["multi_turn", "multi_turn_base"]) == list(CATEGORIES["v3"][-4:])
        assert "java" not in expand_categories("v3", ["python"]) and len(expand_categories("v4", ["python"])) == 15
        assert len(expand_categories("v4", ["single_turn"])) == 13

    def test_what_cannot_be_run_is_refused(self):
        with pytest.raises(ValueError, match="not supported: it sends"):
            expand_categories("v4", ["web_search_base"])
