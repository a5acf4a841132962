"""What the chat templates that TRL ships write for calls, compared with the calls that were meant."""

import copy
import json

import pytest
from chat_templates import TEMPLATES, syntax_of_template, tokenizer_with
from datasets import Dataset

from rest_trl.data import prepare_dataset
from rest_trl.data.messages import MalformedRowError, Step
from rest_trl.data.rendering import StepRenderer
from rest_trl.tool_calls import get_syntax


PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "more": {"type": "object"}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather.",
        "parameters": {"type": "object", "properties": PROPERTIES},
    },
}
USER = {"role": "user", "content": "?"}
# Values that a syntax might lose: markup, quotes, digits in a string, nesting, constants.
ARGUMENTS = [
    {"city": "Oslo", "days": 3},
    {"city": 'a "b" <c> {d} \\e\nf, g=[1]', "more": {"x": [1, 2.5, True, None], "y": {}}},
    {"city": "007", "days": -1},
    {"city": "get_weather"},
    {},
]


def call(arguments, name="get_weather"):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*arguments, **keys):
    return {"role": "assistant", "content": "", "tool_calls": [call(each) for each in arguments], **keys}


def result(content):
    return {"role": "tool", "name": "get_weather", "content": content}


def tokenizer_of(template, **changes):
    tokenizer = tokenizer_with(changes.get("text", TEMPLATES.get(template)))
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token = "<s>", "</s>", "<unk>"
    return tokenizer


def render(template, history, turn, **changes):
    renderer = StepRenderer(tokenizer_of(template, **changes))
    renderer._added_bos_token = ""  # the tokenizer knows no text
    return renderer.render(Step(history, turn, [WEATHER]))


# Those that write the calls of a turn after their own generation prompt.
WRITES_CALLS = sorted(
    name
    for name in TEMPLATES
    if syntax_of_template(name)
    and not name.startswith(("nemotron", "deepseek"))
    and name not in ("lfm2", "lfm2_training")
)
ONE_CALL = {"gptoss", "gptoss_training", "llama3_1", "llama3_2"}


class TestCallsOfGolds:
    @pytest.mark.parametrize("name", WRITES_CALLS)
    def test_are_written_as_meant_whatever_their_arguments(self, name):
        for arguments in ARGUMENTS:
            _, solution = render(name, [USER], calling(arguments))
            (written,) = get_syntax(syntax_of_template(name)).parse(solution).calls
            assert written.name == "get_weather" and set(written.arguments) == set(arguments)

    @pytest.mark.parametrize("name", [name for name in WRITES_CALLS if name not in ONE_CALL])
    def test_of_which_there_are_several_are_all_written(self, name):
        _, solution = render(name, [USER], calling(*ARGUMENTS[:3]))
        assert len(get_syntax(syntax_of_template(name)).parse(solution).calls) == 3

    @pytest.mark.parametrize("name", ["gptoss", "gptoss_training"])
    def test_that_the_template_drops_make_a_row_malformed(self, name):
        with pytest.raises(
            MalformedRowError, match=r"renders 1 of 2 calls \(get_weather, get_weather\): use one that"
        ):
            render(name, [USER], calling(*ARGUMENTS[:2]))

    @pytest.mark.parametrize("strict", [True, False])
    def test_that_the_template_drops_are_reported_by_the_loader(self, strict, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = TEMPLATES["gptoss"]
        rows = [
            {"messages": [USER, calling(*cities)], "tools": [WEATHER]}
            for cities in ([ARGUMENTS[0]] * 2, ARGUMENTS[:1])
        ]
        rows = Dataset.from_dict({key: [json.dumps(row[key]) for row in rows] for key in rows[0]})
        if strict:
            with pytest.raises(ValueError, match="row 0, step 0: the chat template renders 1 of 2 calls"):
                prepare_dataset(rows, tokenizer, strict=True)
        else:
            assert prepare_dataset(rows, tokenizer)["source"] == ["dataset#1"]

    def test_whose_name_only_stands_elsewhere_are_missed(self):
        text = TEMPLATES["qwen2_5"].replace("tool_call.name", "'search'")
        with pytest.raises(MalformedRowError, match=r"renders the call get_weather\(.*\) as search\("):
            render("", [USER], calling({"city": "get_weather"}), text=text)

    def test_whose_arguments_are_lost_are_missed(self):
        text = TEMPLATES["qwen2_5"].replace("tool_call.arguments | tojson", "'{}'")
        assert text != TEMPLATES["qwen2_5"]
        with pytest.raises(
            MalformedRowError, match=r'get_weather\(\{"city": "Oslo", "days": 3\}\) as get_weather\(\{\}\)'
        ):
            render("", [USER], calling(ARGUMENTS[0]), text=text)

    def test_are_looked_for_as_words_where_no_syntax_is_known(self):
        text = (
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}"
            "forget_weather {{ c.function.arguments | tojson }}{% endfor %}\n{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}"
        )
        with pytest.raises(MalformedRowError, match="does not render the call of 'get_weather'"):
            render("", [USER], calling({"city": "Oslo"}), text=text)


class TestCallsOfHistories:
    HISTORY = [USER, calling(*ARGUMENTS[:2]), result("Rain."), result("Sun.")]
    ANSWER = {"role": "assistant", "content": "Rain, then sun."}

    @pytest.mark.parametrize("name", [name for name in WRITES_CALLS if name not in ONE_CALL])
    def test_are_all_in_the_prompt(self, name):
        prompt, _ = render(name, self.HISTORY, self.ANSWER)
        assert "Oslo" in prompt and "Sun." in prompt

    @pytest.mark.parametrize(("name", "count"), [("gptoss", 1), ("gptoss_training", 1), ("lfm2", 0)])
    def test_that_the_template_drops_make_a_row_malformed(self, name, count):
        with pytest.raises(MalformedRowError, match=rf"renders {count} of 2 calls"):
            render(name, self.HISTORY, self.ANSWER)

    def test_of_earlier_turns_count_in_each_place(self):
        # This template writes the calls of the last message alone.
        text = TEMPLATES["qwen2_5"].replace("in message.tool_calls", "in (message.tool_calls if loop.last else [])")
        history = [*self.HISTORY, calling(ARGUMENTS[2]), result("Fog.")]
        with pytest.raises(MalformedRowError, match="does not render the calls of message 1 in the prompt"):
            render("", history, self.ANSWER, text=text)

    @pytest.mark.parametrize("name", ["gptoss", "qwen3", "qwen3_5_think", "glm4moe"])
    def test_are_found_beside_reasoning_that_the_template_drops_or_adds(self, name):
        history = [USER, calling(ARGUMENTS[0], reasoning_content="I look."), result("Rain."), self.ANSWER, USER]
        prompt, _ = render(name, [*history, calling(ARGUMENTS[2]), result("Fog.")], self.ANSWER)
        assert "Oslo" in prompt and "007" in prompt


class TestReasoning:
    @pytest.mark.parametrize("key", ["thinking", "reasoning_content", "reasoning"])
    @pytest.mark.parametrize("name", ["gptoss", "qwen3"])
    def test_is_read_under_every_key(self, name, key):
        _, solution = render(name, [USER], {"role": "assistant", "content": "Rain.", key: "I look."})
        assert "I look." in solution and "Rain." in solution
