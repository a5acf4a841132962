import json
from collections import Counter

import pytest
from chat_templates import TEMPLATES
from replay import Replay

from rest_trl.lab.evaluation.api_bank import LEVELS, history_messages, load_samples, tool_schemas
from rest_trl.lab.evaluation.api_bank_benchmark import APIBank
from rest_trl.lab.evaluation.benchmark import Sample
from rest_trl.lab.evaluation.generation import Completion
from rest_trl.lab.evaluation.summary import evaluate, read_scores


SYSTEM = """You are a helpful assistant.

**Available Tools**
1. Name: AddAgenda
Description: Add an agenda.
Parameters: {"title": {"type": "str", "description": "The title."}, "minutes": {"type": "int", "description": "Long."}}
2. Name: Logout
Description: End.
Parameters: {}

**Steps for Each Turn**
1. Think
"""
USER = """**Dialogue Records History**
<user> Log in and add lunch. </user>

<response> I shall log in. </response>
<tool_call>
{"name": "Logout", "parameters": {}}
{"name": "AddAgenda", "parameters": {"title": "a", "minutes": "1"}}
</tool_call>

<obs> done </obs>

<user> And add dinner. </user>
"""
GOLD = {"name": "AddAgenda", "parameters": {"title": "dinner", "minutes": "30"}}
TYPES = {"title": "string", "minutes": "integer"}
SPRAYED = [{"name": f"Junk{i}", "parameters": {"x": str(i)}} for i in range(20)]


def rlla(*calls):
    lines = "\n".join(json.dumps(call) for call in calls)
    return f"<think> Let me see. </think>\n<tool_call>\n{lines}\n</tool_call>"


def hermes(call):
    arguments = {"name": call["name"], "arguments": call["parameters"]}
    return f"<tool_call>\n{json.dumps(arguments)}\n</tool_call>"


def scored(text, form="paper", syntax="rlla", gold=GOLD, truncated=False):
    sample = Sample("Level1_0", "level-1", "level-1/a", "prompt", {**gold, "types": TYPES})
    return APIBank([sample], form, syntax).score(sample, Completion(sample.id, [1], text, truncated))


def run(samples, texts, tokenizer, path, form="paper", syntax="rlla", **options):
    summary = evaluate(APIBank(samples, form, syntax), Replay(tokenizer, texts, **options), path, {"model": "gold"})
    return summary, {score.id: score for score in read_scores(path)}


@pytest.fixture
def paper_samples(tokenizer, paper_data):
    return load_samples(str(paper_data / "api_bank"), tokenizer)


@pytest.fixture
def make_data(tmp_path):
    """A folder with one sample a level, of which the first may be changed."""

    def make(**change):
        row = {"system": SYSTEM, "user": USER, "answer": [GOLD], "other": {"file": "a"}}
        for level in LEVELS:
            content = json.dumps([row | change if level == 1 else row])
            (tmp_path / f"level-{level}-api_processed.json").write_text(content)
        return str(tmp_path)

    return make


def gold_call(sample):
    return {"name": sample.gold["name"], "parameters": sample.gold["parameters"]}


def as_the_template_writes(tokenizer, sample):
    """The gold call in the template's own words."""
    function = {"name": sample.gold["name"], "arguments": sample.gold["parameters"]}
    user = {"role": "user", "content": "x"}
    turn = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    before = tokenizer.apply_chat_template([user], tokenize=False)
    return tokenizer.apply_chat_template([user, turn], tokenize=False).removeprefix(before)


class TestGold:
    def test_scores_100_in_the_form_of_the_paper(self, tokenizer, paper_samples, tmp_path):
        texts = {sample.id: rlla(gold_call(sample)) for sample in paper_samples}
        summary, scores = run(paper_samples, texts, tokenizer, tmp_path)
        assert len(scores) == 597 and summary["missing"] == []
        assert {name: subset["n"] for name, subset in summary["subsets"].items()} == {
            "level-1": 399,
            "level-2": 67,
            "level-3": 131,
        }
        for figures in (*summary["subsets"].values(), summary["overall"]):
            assert figures["strict"]["accuracy"] == figures["soft"]["accuracy"] == 1
        assert all(score.why is None for score in scores.values())

    @pytest.mark.parametrize(
        ("template", "syntax", "start", "end"),
        [
            ("qwen3", "hermes", "<|im_start|>assistant\n", "<|im_end|>"),
            ("llama3_1", "llama3_json", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
            ("qwen3_5_nothink", "qwen3_coder", "<|im_start|>assistant\n", "<|im_end|>"),
        ],
    )
    def test_scores_100_in_the_form_of_the_model(
        self, tokenizer, paper_data, tmp_path, monkeypatch, template, syntax, start, end
    ):
        monkeypatch.setattr(tokenizer, "chat_template", TEMPLATES[template])
        samples = load_samples(str(paper_data / "api_bank"), tokenizer, "native")
        texts = {}
        for sample in samples:
            turn = as_the_template_writes(tokenizer, sample).rpartition(start)[2]
            texts[sample.id] = turn.partition(end)[0]
        summary, scores = run(samples, texts, tokenizer, tmp_path, "native", syntax)
        assert [score for score in scores.values() if score.why is not None] == []
        assert summary["overall"]["strict"]["accuracy"] == summary["overall"]["soft"]["accuracy"] == 1

    @pytest.mark.parametrize("opened", [False, True], ids=["writes the tag", "tag in the prompt"])
    def test_may_come_after_reasoning(self, tokenizer, paper_data, tmp_path, opened):
        samples = load_samples(str(paper_data / "api_bank"), tokenizer, "native")[::10]
        thought = "I could write <tool_call> now, or {} first.\n</think>\n\n"
        texts = {
            sample.id: ("" if opened else "<think>\n") + thought + hermes(gold_call(sample)) for sample in samples
        }
        _, scores = run(samples, texts, tokenizer, tmp_path, "native", "hermes")
        assert [score.why for score in scores.values() if score.why is not None] == []

    def test_with_planted_errors_scores_what_was_planted(self, tokenizer, paper_samples, tmp_path):
        def damaged(sample, kind):
            name, parameters = sample.gold["name"], sample.gold["parameters"]
            first = next(iter(parameters), None)
            return {
                "tool": rlla({"name": name + "X", "parameters": parameters}),
                "value": rlla({"name": name, "parameters": {**parameters, first: "other"}}),
                "without": rlla({"name": name, "parameters": {k: v for k, v in parameters.items() if k != first}}),
                "unexpected": rlla({"name": name, "parameters": {**parameters, "extra": "1"}}),
                "no call": "<think> Hm. </think>\n<response> Hello. </response>",
                "unreadable": rlla(gold_call(sample)).replace("}}", "}"),
                "instead of 1": rlla(gold_call(sample), gold_call(sample)),
            }[kind]

        kinds = {
            "tool": 5,
            "value": 7,
            "without": 11,
            "unexpected": 13,
            "no call": 17,
            "unreadable": 19,
            "instead of 1": 23,
        }
        texts = {sample.id: rlla(gold_call(sample)) for sample in paper_samples}
        planted, with_parameters = {}, iter([sample for sample in paper_samples if sample.gold["parameters"]])
        for kind, count in kinds.items():
            for _ in range(count):
                sample = next(with_parameters)
                planted[sample.id] = kind
                texts[sample.id] = damaged(sample, kind)
        summary, scores = run(paper_samples, texts, tokenizer, tmp_path)
        wrong = {id: score.why for id, score in scores.items() if score.why is not None}
        assert wrong.keys() == planted.keys()
        words = {
            "tool": "tool '",
            "value": "is 'other' instead of",
            "without": "without parameter",
            "unexpected": "with unexpected parameter 'extra'",
            "no call": "no call",
            "unreadable": "unreadable: ",
            "instead of 1": "2 calls instead of 1",
        }
        assert all(words[planted[id]] in why for id, why in wrong.items())
        assert summary["overall"]["strict"]["accuracy"] == pytest.approx((597 - 95) / 597)
        # The released scorer takes a repeated call as one.
        assert summary["overall"]["soft"]["accuracy"] == pytest.approx((597 - 95 + 23) / 597)


class TestGaming:
    """Outputs that the released scorer is wrong about: there as there, and strictly as it should be."""

    @pytest.mark.parametrize(
        ("text", "soft", "why"),
        [
            (rlla(GOLD), 1, None),
            (rlla(*SPRAYED, GOLD), 1, "21 calls instead of 1"),
            (rlla(GOLD["parameters"]), 1, "unreadable: "),
            (rlla({"parameters": GOLD["parameters"]}), 0, "unreadable: "),
            (rlla(5, GOLD), 0, "unreadable: "),
            (rlla(None, GOLD), 0, "unreadable: "),
            (rlla([1], GOLD), 1, "unreadable: "),
            (rlla("text", GOLD), 0, "unreadable: "),
            (rlla(json.dumps(GOLD)), 1, "unreadable: "),
            (json.dumps(GOLD), 1, "no call"),
            (f"I might call\n{json.dumps(GOLD)}\nor not", 1, "no call"),
        ],
        ids=["gold", "spray", "nameless", "no key", "number", "null", "list", "string", "text", "bare", "prose"],
    )
    def test_of_the_released_scorer(self, text, soft, why):
        score = scored(text)
        assert score.scores["soft"] == soft
        assert score.scores["strict"] == (why is None)
        assert (score.why or "").startswith(why or "")

    def test_by_leaving_out_samples(self, tokenizer, paper_samples, tmp_path):
        texts = {sample.id: rlla(gold_call(sample)) for sample in paper_samples[::2]}
        summary, scores = run(paper_samples, texts, tokenizer, tmp_path)
        missing = [sample.id for sample in paper_samples[1::2]]
        assert summary["missing"] == missing and summary["overall"]["missing"] == len(missing) == 298
        assert sum(subset["missing"] for subset in summary["subsets"].values()) == 298
        for metric in ("strict", "soft"):
            assert summary["overall"][metric]["accuracy"] == pytest.approx(299 / 597)
            # What the released code would report.
            assert summary["overall"][metric]["accuracy_of_generated"] == 1
        assert {scores[id].why for id in missing} == {"missing: not generated"}

    def test_by_values_of_another_type(self):
        as_number = {"name": "AddAgenda", "parameters": {"title": "dinner", "minutes": 30}}
        assert scored(rlla(as_number)).why == "'minutes' is 30 instead of '30'"
        assert scored(hermes(as_number), "native", "hermes").scores == {"strict": 1, "soft": 1}
        assert scored(hermes(GOLD), "native", "hermes").scores == {"strict": 1, "soft": 1}
        wrong = {"name": "AddAgenda", "parameters": {"title": ["dinner"], "minutes": True}}
        assert scored(hermes(wrong), "native", "hermes").scores == {"strict": 0, "soft": 0}

    def test_by_values_in_a_syntax_without_types(self):
        call = "<tool_call>\n<function=Call>\n<parameter=number>\n{}\n</parameter>\n</function>\n</tool_call>"
        gold = {"name": "Call", "parameters": {"number": "555"}}
        for number, right in (("555", 1), ("556", 0), ("[555]", 0), ("five", 0)):
            assert scored(call.format(number), "native", "qwen3_coder", gold).scores["strict"] == right
        as_number = {"name": "Call", "parameters": {"number": 555}}
        assert scored(hermes(as_number), "native", "hermes", gold).scores["strict"] == 0

    def test_a_completion_that_was_cut_off_is_named_so(self):
        assert scored(rlla(GOLD)[:-30], truncated=True).why.startswith("truncated; unreadable: ")
        assert scored(rlla(GOLD), truncated=True).why is None


class TestLoadSamples:
    def test_gives_all_levels_with_unique_ids(self, paper_samples):
        assert Counter(sample.id.split("_")[0] for sample in paper_samples) == {
            "Level1": 399,
            "Level2": 67,
            "Level3": 131,
        }
        assert len({sample.id for sample in paper_samples}) == 597
        clusters = {level: {s.cluster for s in paper_samples if s.subset == f"level-{level}"} for level in LEVELS}
        assert {level: len(found) for level, found in clusters.items()} == {1: 212, 2: 45, 3: 50}

    def test_six_prompts_do_not_show_the_gold_tool(self, paper_samples):
        hidden = [sample for sample in paper_samples if sample.gold["parameters"] and not sample.gold["types"]]
        assert len(hidden) == 6 and {sample.subset for sample in hidden} == {"level-2"}

    @pytest.mark.parametrize("template", [name for name in TEMPLATES if "qwen3" in name or "llama3_" in name])
    def test_templates_render_the_native_form(self, tokenizer, paper_data, monkeypatch, template):
        monkeypatch.setattr(tokenizer, "chat_template", TEMPLATES[template])
        try:
            samples = load_samples(str(paper_data / "api_bank"), tokenizer, "native")
        except ValueError as error:  # Llama's refuse two calls in a turn, which the data has
            assert "the chat template cannot render" in str(error)
        else:
            assert len(samples) == 597

    def test_refuses_what_is_no_data(self, tokenizer, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            load_samples(str(tmp_path / "absent"), tokenizer)
        with pytest.raises(FileNotFoundError, match=r"must hold one file level-1-api_processed.json, and holds 0"):
            load_samples(str(tmp_path), tokenizer)
        for level in LEVELS:
            (tmp_path / f"level-{level}-api_processed.json").write_text('[{"system": "a", "user": "b"}]')
        with pytest.raises(ValueError, match="Level1_0 is not an API-Bank sample as processed by ToolRL: KeyError"):
            load_samples(str(tmp_path), tokenizer)
        (tmp_path / "level-1-api_processed.json").write_text("[")
        with pytest.raises(ValueError, match=r"level-1-api_processed.json is not JSON"):
            load_samples(str(tmp_path), tokenizer)
        with pytest.raises(ValueError, match="unknown prompt form 'other': choose one of paper, native"):
            load_samples(str(tmp_path), tokenizer, "other")

    def test_takes_a_template_from_the_arguments(self, make_data, tokenizer, monkeypatch):
        monkeypatch.setattr(tokenizer, "chat_template", None)
        with pytest.raises(ValueError, match="the tokenizer has no chat template"):
            load_samples(make_data(), tokenizer)
        template = "{% for message in messages %}{{ message.content }}{% endfor %}"
        samples = load_samples(make_data(), tokenizer, chat_template_kwargs={"chat_template": template})
        assert [sample.prompt for sample in samples] == [SYSTEM + USER] * 3

    @pytest.mark.parametrize(
        "template",
        ["{{ raise_exception('no') }}", "{{ messages + 1 }}", "{{ messages | sum }}"],
        ids=["refuses", "type", "sum"],
    )
    def test_a_template_that_fails_is_named_as_such(self, make_data, tokenizer, template):
        with pytest.raises(
            ValueError, match=r"template cannot render Level1_0 in the paper form \(.*use the other form"
        ):
            load_samples(make_data(), tokenizer, chat_template_kwargs={"chat_template": template})

    @pytest.mark.parametrize(
        "change",
        [
            {"other": "text"},
            {"other": None},
            {"answer": []},
            {"answer": {"name": "AddAgenda"}},
            {"system": SYSTEM.replace('"type": "str"', '"type": "date"')},
            {"system": SYSTEM.replace('{"title": {', "{title: {")},
            {"user": USER.replace('{"name": "Logout"', '{"name": Logout')},
        ],
        ids=["other", "no other", "no answer", "no parameters", "type", "parameters", "call"],
    )
    def test_names_a_sample_of_another_structure(self, make_data, tokenizer, change):
        with pytest.raises(ValueError, match="Level1_0 is not an API-Bank sample as processed by ToolRL: "):
            load_samples(make_data(**change), tokenizer, "native")


class TestDialogue:
    def test_holds_the_history_as_messages(self):
        messages = history_messages(SYSTEM, USER)
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "user"]
        assert messages[0]["content"] == "You are a helpful assistant."
        calls = [call["function"] for call in messages[2]["tool_calls"]]
        assert messages[2]["content"] == "I shall log in."
        assert calls == [
            {"name": "Logout", "arguments": {}},
            {"name": "AddAgenda", "arguments": {"title": "a", "minutes": "1"}},
        ]

    def test_tools_become_schemas(self):
        first, second = (tool["function"] for tool in tool_schemas(SYSTEM))
        assert (first["name"], first["description"]) == ("AddAgenda", "Add an agenda.")
        assert first["parameters"]["properties"]["minutes"] == {"type": "integer", "description": "Long."}
        assert second["parameters"]["properties"] == {}
