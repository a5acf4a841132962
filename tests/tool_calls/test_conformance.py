import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from cases import load_cases
from chat_templates import TEMPLATES, TEMPLATES_OF_SYNTAX, syntax_of_template, tokenizer_with

from rest_trl.tool_calls import SYNTAXES, Region, get_syntax


CASES = load_cases()
ALL = [pytest.param(name, case, id=f"{name}-{case.title}") for name, cases in CASES.items() for case in cases]


def character_regions(parsed, length):
    spans = parsed.spans
    assert [span[0] for span in spans] == [0, *(span[1] for span in spans)][: len(spans)]
    assert (spans[-1][1] if spans else 0) == length
    return [region for start, end, region in spans for _ in range(start, end)]


class TestConformance:
    @pytest.mark.parametrize("name", sorted(SYNTAXES))
    def test_covers_every_syntax(self, name):
        assert len({case.text for case in CASES[name]}) >= 12

    @pytest.mark.parametrize(("name", "case"), ALL)
    def test_calls(self, name, case):
        parsed = get_syntax(name).parse(case.text)
        assert [(call.name, call.arguments) for call in parsed.calls] == case.calls
        assert parsed.errors or case.calls or case.well_formed

    @pytest.mark.parametrize(("name", "case"), ALL)
    def test_regions(self, name, case):
        parsed = get_syntax(name).parse(case.text)
        found = character_regions(parsed, len(case.text))
        wrong = [
            (case.text[max(0, i - 20) : i], case.text[i : i + 20], got.name, want.name)
            for i, (got, want) in enumerate(zip(found, case.regions, strict=True))
            if got is not want
        ]
        assert not wrong, wrong[0]

    @pytest.mark.parametrize(("name", "case"), ALL)
    def test_truncation_anywhere_covers_and_invents_no_call(self, name, case):
        whole = [(call.name, call.arguments) for call in get_syntax(name).parse(case.text).calls]
        for length in range(len(case.text)):
            parsed = get_syntax(name).parse(case.text[:length])
            character_regions(parsed, length)
            if case.well_formed:
                calls = [(call.name, call.arguments) for call in parsed.calls]
                assert calls == whole[: len(calls)], case.text[:length]


JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def json_schema(value):
    """A schema that this value fits."""
    if isinstance(value, dict):
        return {"type": "object", "properties": {key: json_schema(inner) for key, inner in value.items()}}
    if isinstance(value, list):
        if value and all(isinstance(inner, dict) for inner in value):
            value = [{key: item for inner in value for key, item in inner.items()}]
        kinds = list({str(kind): kind for kind in map(json_schema, value)}.values())
        return {"type": "array", "items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}}
    return {"type": JSON_TYPES[type(value)]}


def tool_schemas(calls):
    """Schemas of tools that take these calls."""
    tools = {}
    for name, arguments in calls:
        tools.setdefault(name, {}).update(arguments)
    return [
        {"type": "function", "function": {"name": name, "description": name, "parameters": json_schema(arguments)}}
        for name, arguments in tools.items()
    ]


WITHOUT_VLLM_PARSER = {"rlla"}
# No model of the syntax reasons, so vLLM's parser is never handed what follows reasoning.
NO_SPACE_BEFORE_LIST = pytest.mark.xfail(reason="vLLM takes no white space before the list", strict=True)
VLLM_FAILS = {
    ("pythonic", "reasoning"): NO_SPACE_BEFORE_LIST,
    ("pythonic", "reasoning that quotes calls"): NO_SPACE_BEFORE_LIST,
}
WELL_FORMED = [
    (name, case)
    for name, cases in CASES.items()
    for case in cases
    if case.well_formed and name not in WITHOUT_VLLM_PARSER
]


@pytest.fixture(scope="module")
def vllm_answers():
    """What vLLM's parsers find in the well-formed cases, by syntax and title."""
    script = Path(__file__).with_name("vllm_parsers.py")
    installed = script.parents[2] / ".venv-vllm" / "bin" / "python"
    python = os.environ.get("VLLM_PYTHON") or str(installed)
    if "VLLM_PYTHON" not in os.environ and not installed.exists():
        pytest.skip("no vLLM: set VLLM_PYTHON to a Python that has it, or install it into .venv-vllm")
    lines = [
        json.dumps(
            {
                "format": name,
                "markers": get_syntax(name).markers,
                "text": case.text,
                "reasons": any(letter == "R" for _, letter in case.pieces),
                "tools": tool_schemas(case.calls),
            }
        )
        for name, case in WELL_FORMED
    ]
    run = subprocess.run([python, str(script)], input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    return {(name, case.title): answer for (name, case), answer in zip(WELL_FORMED, answers, strict=True)}


class TestAgainstVLLM:
    @pytest.mark.parametrize(
        ("name", "case"),
        [
            pytest.param(name, case, id=f"{name}-{case.title}", marks=VLLM_FAILS.get((name, case.title), ()))
            for name, case in WELL_FORMED
        ],
    )
    def test_calls_are_the_same(self, vllm_answers, name, case):
        answer = vllm_answers[name, case.title]
        assert answer["error"] is None
        assert [(name, arguments) for name, arguments in answer["calls"]] == case.calls


TEMPLATE_CALLS = [
    ("get_weather", {"city": "Zürich", "days": 3, "units": {"t": ["C", "F"], "wind": True}}),
    ("say", {"text": 'a "b" {c} \\ 東京'}),
]
# What templates cannot render: calls at all, more than one, arguments that are no JSON text.
RENDER_NO_CALLS = {"lfm2"}
RENDER_ONE_CALL = {"gptoss", "llama3_1", "llama3_2"}
TAKE_JSON_TEXT = {"deepseekv3", "deepseek_r1_distill", "deepseek_r1_distill_training"}
REASONING = "I should look {this} up."
END_OF_TURN = re.compile(
    r"(<\|im_end\|>|<\|eot_id\|>|<｜end▁of▁sentence｜>|<turn\|>|<\|tool_response>|<\|observation\|>)\s*$"
)


def render_turn(template, calls):
    """The assistant turn that a chat template of TRL makes of a message with these calls."""
    message = {"role": "assistant", "content": "", "reasoning_content": REASONING, "thinking": REASONING}
    message["tool_calls"] = [
        {
            "type": "function",
            "id": f"functions.{name}:{index}",
            "function": {
                "name": name,
                "arguments": json.dumps(arguments) if template in TAKE_JSON_TEXT else arguments,
            },
        }
        for index, (name, arguments) in enumerate(calls)
    ]
    if template in TAKE_JSON_TEXT:
        message["content"] = None
    tokenizer = tokenizer_with(TEMPLATES[template])
    user = {"role": "user", "content": "Hi?"}
    settings = {"tools": tool_schemas(calls), "tokenize": False}
    prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True, **settings)
    text = tokenizer.apply_chat_template([user, message], **settings)
    if not text.startswith(prompt):  # where the prompt opens the reasoning, it may look different afterwards
        prompt = re.sub(r"<think>\s*(</think>\s*)?$", "", prompt)
    assert text.startswith(prompt)
    return END_OF_TURN.sub("", text.removeprefix(prompt))


class TestChatTemplates:
    def test_some_syntaxes_have_no_template(self):
        assert set(SYNTAXES) - set(TEMPLATES_OF_SYNTAX) == {
            "deepseek_v31",
            "functiongemma",
            "granite",
            "granite4",
            "kimi_k2",
            "mistral",
            "phi4_mini_json",
            "pythonic",
            "rlla",
        }

    @pytest.mark.parametrize(
        "template",
        [
            template
            for template in sorted(TEMPLATES)
            if syntax_of_template(template) in SYNTAXES and template.removesuffix("_training") not in RENDER_NO_CALLS
        ],
    )
    def test_calls_come_back(self, template):
        count = 1 if template.removesuffix("_training") in RENDER_ONE_CALL else len(TEMPLATE_CALLS)
        calls = TEMPLATE_CALLS[:count]
        text = render_turn(template, calls)
        parsed = get_syntax(syntax_of_template(template)).parse(text)
        assert parsed.errors == []
        assert [(call.name, call.arguments) for call in parsed.calls] == calls
        regions = character_regions(parsed, len(text))
        assert Region.RESPONSE not in regions
        start = text.find(REASONING)
        if start != -1:  # some templates drop the reasoning
            assert set(regions[start : start + len(REASONING)]) == {Region.REASONING}
