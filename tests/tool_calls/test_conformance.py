import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from cases import load_syntaxes
from chat_templates import TEMPLATES, template_of
from transformers.utils.chat_template_utils import render_jinja_template

from rest_trl.tool_calls import SYNTAXES, Part, Region, get_syntax


TESTED = load_syntaxes()
CASES = [(name, case) for name, syntax in TESTED.items() for case in syntax.cases]
ALL = [pytest.param(name, case, id=f"{name}-{case.title}") for name, case in CASES]


def character_regions(parsed, length):
    spans = parsed.spans
    assert [span[0] for span in spans] == [0, *(span[1] for span in spans)][: len(spans)]
    assert (spans[-1][1] if spans else 0) == length
    return [region for start, end, region in spans for _ in range(start, end)]


class TestConformance:
    def test_covers_every_syntax(self):
        assert set(TESTED) == set(SYNTAXES)
        assert all(len({case.text for case in syntax.cases}) >= 12 for syntax in TESTED.values())

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


def calls_of_parts(text, parts):
    """Tool name and parameter names of every call, read off the parts: a tool name starts a call."""
    calls = []
    for start, end, part in parts:
        if part is Part.TOOL_NAME:
            calls.append((text[start:end], []))
        elif part is Part.PARAMETER_NAME:
            calls[-1][1].append(text[start:end])
    return calls


def unescaped(name):
    return json.loads(f'"{name}"') if "\\" in name else name


# A tool name starts a call, so parameters that stand before it are told apart only by the tags around the call.
ARGUMENTS_FIRST = {("llama3_json", "arguments first")}
READABLE = [
    pytest.param(name, case, id=f"{name}-{case.title}")
    for name, case in CASES
    if case.calls and not get_syntax(name).parse(case.text).errors and (name, case.title) not in ARGUMENTS_FIRST
]


class TestParts:
    @pytest.mark.parametrize(("name", "case"), READABLE)
    def test_name_the_parameters_of_every_call_in_order(self, name, case):
        parsed = get_syntax(name).parse(case.text)
        found = calls_of_parts(case.text, parsed.parts)
        # Parts hold names as they are written, calls as they are read.
        found = [(tool, [unescaped(parameter) for parameter in parameters]) for tool, parameters in found]
        assert found == [(call.name, list(call.arguments)) for call in parsed.calls]

    @pytest.mark.parametrize(
        ("arguments", "in_parts", "in_call"),
        [
            ('{"p\\u00e4th": 1}', ["p\\u00e4th"], ["päth"]),
            ('{"a": 1, "b": 2, "a": 3}', ["a", "b", "a"], ["a", "b"]),
            ('{"": 1, "b": 2}', ["b"], ["", "b"]),
        ],
        ids=["escaped name", "duplicate key", "empty name"],
    )
    def test_differ_from_the_call_in_names_that_json_changes(self, arguments, in_parts, in_call):
        text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
        parsed = get_syntax("hermes").parse(text)
        assert calls_of_parts(text, parsed.parts) == [("f", in_parts)]
        assert list(parsed.calls[0].arguments) == in_call

    def test_of_parameters_before_the_name_come_before_it(self):
        text = '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>'
        parts = [part for _, _, part in get_syntax("hermes").parse(text).parts]
        assert parts.index(Part.PARAMETER_NAME) < parts.index(Part.TOOL_NAME)


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


WELL_FORMED = [(name, case) for name, case in CASES if case.well_formed and SYNTAXES[name].vllm_parser]


def vllm_line(name, case):
    """What `vllm_parsers.py` is asked about a case."""
    vllm = case.vllm or TESTED[name].vllm
    reasons = any(letter == "R" for _, letter in case.pieces)
    tokens = (*SYNTAXES[name].markers, *vllm.extra_tokens)
    return {
        "parser": vllm.parser or SYNTAXES[name].vllm_parser,
        "reasoning_parser": vllm.reasoning_parser if reasons or vllm.harmony else None,
        "harmony": vllm.harmony,
        "tokens": [token for token in tokens if token not in vllm.missing_tokens],
        "text": case.text,
        "tools": tool_schemas(case.calls),
    }


def expected_failure(case):
    return [pytest.mark.xfail(reason=case.vllm.fails, strict=True)] if case.vllm and case.vllm.fails else []


@pytest.fixture(scope="module")
def vllm_answers():
    """What vLLM's parsers find in the well-formed cases, by syntax and title."""
    script = Path(__file__).with_name("vllm_parsers.py")
    installed = script.parents[2] / ".venv-vllm" / "bin" / "python"
    python = os.environ.get("VLLM_PYTHON") or str(installed)
    if "VLLM_PYTHON" not in os.environ and not installed.exists():
        pytest.skip("no vLLM: set VLLM_PYTHON to a Python that has it, or install it into .venv-vllm")
    lines = [json.dumps(vllm_line(name, case)) for name, case in WELL_FORMED]
    run = subprocess.run([python, str(script)], input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    return {(name, case.title): answer for (name, case), answer in zip(WELL_FORMED, answers, strict=True)}


class TestAgainstVLLM:
    @pytest.mark.parametrize(
        ("name", "case"),
        [
            pytest.param(name, case, id=f"{name}-{case.title}", marks=expected_failure(case))
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
REASONING = "I should look {this} up."
RENDERED = [
    pytest.param(name, file, template, id=file)
    for file in sorted(TEMPLATES)
    for name, template in [template_of(file)]
    if template and template.calls
]


def render_turn(file, calls, takes_text):
    """The assistant turn that a chat template of TRL makes of a message with these calls."""
    message = {"role": "assistant", "content": "", "reasoning_content": REASONING, "thinking": REASONING}
    message["tool_calls"] = [
        {
            "type": "function",
            "id": f"functions.{name}:{index}",
            "function": {
                "name": name,
                "arguments": json.dumps(arguments) if takes_text else arguments,
            },
        }
        for index, (name, arguments) in enumerate(calls)
    ]
    if takes_text:
        message["content"] = None
    user = {"role": "user", "content": "Hi?"}
    # Not `apply_chat_template`: in transformers 5.23 it drops the null content that DeepSeek's templates ask for.
    settings = {"tools": tool_schemas(calls), "chat_template": TEMPLATES[file]}
    (prompt,), _ = render_jinja_template([[user]], add_generation_prompt=True, **settings)
    (text,), _ = render_jinja_template([[user, message]], **settings)
    if not text.startswith(prompt):  # where the prompt opens the reasoning, it may look different afterwards
        prompt = re.sub(r"<think>\s*(</think>\s*)?$", "", prompt)
    assert text.startswith(prompt)
    return text.removeprefix(prompt)


def without_end(text, ends_of_turn):
    for end in ends_of_turn:
        text = text.rstrip().removesuffix(end) if text.rstrip().endswith(end) else text
    return text


class TestChatTemplates:
    @pytest.mark.parametrize(("name", "file", "template"), RENDERED)
    def test_calls_come_back(self, name, file, template):
        calls = TEMPLATE_CALLS[: template.calls]
        text = without_end(render_turn(file, calls, template.takes_text), TESTED[name].ends_of_turn)
        parsed = get_syntax(name).parse(text)
        assert parsed.errors == []
        assert [(call.name, call.arguments) for call in parsed.calls] == calls
        regions = character_regions(parsed, len(text))
        assert Region.RESPONSE not in regions
        start = text.find(REASONING)
        if start != -1:  # some templates drop the reasoning
            assert set(regions[start : start + len(REASONING)]) == {Region.REASONING}
