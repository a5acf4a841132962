import json

import pytest
from cases import load_syntaxes
from hypothesis import given, settings
from hypothesis import strategies as st

from rest_trl.tool_calls import get_syntax
from rest_trl.tool_calls.written import written_calls


CASES = [(name, case) for name, syntax in load_syntaxes().items() for case in syntax.cases]
READABLE = [
    pytest.param(name, case, id=f"{name}-{case.title}")
    for name, case in CASES
    if case.calls and not get_syntax(name).parse(case.text).errors
]
NAME_LAST = {"arguments first", "empty arguments, name last"}

# How the syntaxes with JSON objects write a list of them: before, between and after.
OBJECTS = {
    "granite": ("<|tool_call|>[", ", ", "]"),
    "granite4": ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    "hermes": ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    "llama3_json": ("", "; ", ""),
    "mistral": ("[TOOL_CALLS][", ", ", "]"),
    "phi4_mini_json": ("functools[", ", ", "]"),
    "rlla": ("<tool_call>\n", "\n", "\n</tool_call>"),
}
ARGUMENTS_KEYS = {"llama3_json": "parameters", "rlla": "parameters"}

# How the syntaxes with a name outside of the JSON arguments write a call without arguments, and one of `{}`.
HEADERS = {
    "deepseek_v3": ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}", "\n```json\n{}\n```<｜tool▁call▁end｜>"),
    "deepseek_v31": ("<｜tool▁call▁begin｜>{}<｜tool▁sep｜>", "{}<｜tool▁call▁end｜>"),
    "kimi_k2": ("<|tool_call_begin|>functions.{}:0<|tool_call_argument_begin|>", "{}<|tool_call_end|>"),
    "mistral": ("[TOOL_CALLS]{}[ARGS]", "{}"),
}
SECTIONS = {
    "deepseek_v3": "<｜tool▁calls▁begin｜>",
    "deepseek_v31": "<｜tool▁calls▁begin｜>",
    "kimi_k2": "<|tool_calls_section_begin|>",
}

# How the syntaxes with tags write a name, a parameter, and the end of a call.
TAGS = {
    "glm45": ("<tool_call>{}\n", "<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n", "</tool_call>"),
    "qwen3_coder": (
        "<tool_call>\n<function={}>\n",
        "<parameter={}>\n{}\n</parameter>\n",
        "</function>\n</tool_call>",
    ),
}

# Whether a call has a name, arguments, and more that says nothing.
kinds = st.sampled_from(["name, arguments", "name, more, arguments", "arguments, name", "name", "arguments"])


def names(name, text):
    syntax = get_syntax(name)
    return [call.name for call in written_calls(text, syntax.parse(text).parts, syntax)]


def tool(index):
    return f"tool_{index}"


class TestNames:
    @pytest.mark.parametrize(("name", "case"), READABLE)
    def test_are_those_of_the_calls_that_a_parse_finds(self, name, case):
        # What was written when the arguments started holds no name that comes later.
        expected = ["" if case.title in NAME_LAST else call for call, _ in case.calls]
        assert names(name, case.text) == expected

    @given(kinds=st.lists(kinds, min_size=1, max_size=5))
    @settings(deadline=None)
    @pytest.mark.parametrize("name", sorted(OBJECTS))
    def test_come_from_the_same_json_object(self, name, kinds):
        opening, between, closing = OBJECTS[name]
        objects, expected = [], []
        for index, kind in enumerate(kinds):
            values = {
                "name": tool(index),
                "arguments": {"a": {"b": index}},
                "more": {"id": [{}], "text": 'a "}" {'},
            }
            keys = {"arguments": ARGUMENTS_KEYS.get(name, "arguments")}
            objects.append({keys.get(key, key): values[key] for key in kind.split(", ")})
            if "arguments" in kind:
                expected.append(tool(index) if kind.startswith("name") else "")
        text = opening + between.join(map(json.dumps, objects)) + closing
        assert names(name, text) == expected

    @given(kinds=st.lists(st.sampled_from(["name, arguments", "name", "arguments"]), min_size=1, max_size=5))
    @settings(deadline=None)
    @pytest.mark.parametrize("name", sorted(HEADERS))
    def test_come_from_the_header_of_the_same_call(self, name, kinds):
        header, arguments = HEADERS[name]
        text, expected = SECTIONS.get(name, ""), []
        for index, kind in enumerate(kinds):
            text += header.format(tool(index) if "name" in kind else "")
            text += arguments.replace("{}", '{"a": 1}' if "arguments" in kind else "")
            if "arguments" in kind:
                expected.append(tool(index) if "name" in kind else "")
        assert names(name, text) == expected

    @pytest.mark.parametrize(
        "unfinished",
        ['{"name": "f"', '{"name": "f', '{"name": "f", "more": "abc', '{"name": f', '{"name": "f", "more": {'],
    )
    @pytest.mark.parametrize("name", ["granite4", "hermes", "rlla"])
    def test_of_a_call_that_breaks_off_stay_with_it(self, name, unfinished):
        other = {ARGUMENTS_KEYS.get(name, "arguments"): {"b": 2}, "name": "g"}
        text = f"<tool_call>{unfinished}</tool_call><tool_call>{json.dumps(other)}</tool_call>"
        assert names(name, text) == [""]

    def test_are_not_lent_to_a_call_that_names_its_tool_later(self):
        objects = ['{"arguments": {"a": 1}, "name": "f"}', '{"arguments": {"b": 2}, "name": "g"}']
        text = "".join(f"<tool_call>{block}</tool_call>" for block in objects)
        assert names("hermes", text) == ["", ""]
        assert [call.name for call in get_syntax("hermes").parse(text).calls] == ["f", "g"]


class TestParameters:
    @given(
        calls=st.lists(
            st.tuples(st.lists(st.sampled_from(["1", "<b", "{"]), min_size=1, max_size=3), st.booleans()),
            min_size=1,
            max_size=4,
        )
    )
    @settings(deadline=None)
    @pytest.mark.parametrize("name", sorted(TAGS))
    def test_stay_with_their_call_whether_or_not_it_ends(self, name, calls):
        header, parameter, end = TAGS[name]
        text, expected = "", []
        for index, (values, is_ended) in enumerate(calls):
            written = [parameter.format(f"a{number}", value) for number, value in enumerate(values)]
            text += header.format(tool(index)) + "".join(written) + (end if is_ended else "")
            expected.append((tool(index), [f"a{number}" for number in range(len(values))]))
        syntax = get_syntax(name)
        found = written_calls(text, syntax.parse(text).parts, syntax)
        assert [(call.name, [parameter.name for parameter in call.parameters]) for call in found] == expected
