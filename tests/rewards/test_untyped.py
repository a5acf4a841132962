"""Syntaxes that do not tell `3.10` from a number: the tools of the row do."""

import json

import pytest
from datasets import Dataset

from rest_trl.regions import Partitioner, Turn
from rest_trl.rewards import ToolCallReward, ToolSchemaReward
from rest_trl.rewards.binding import Binding, bind_rewards
from rest_trl.rewards.scoring import json_equal
from rest_trl.rewards.segments import call_segments
from rest_trl.rewards.tool_schemas import ToolSchemas
from rest_trl.tool_calls import SYNTAXES, ToolCall, get_syntax


WRITTEN = {
    "qwen3_coder": "<tool_call>\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>",
    "glm45": "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
    "functiongemma": "<start_function_call>call:f{{a:<escape>{}<escape>}}<end_function_call>",
}
# What each schema makes of two texts: whether they are the same value.
PAIRS = [("3.10", "3.1"), ("1.0", "1"), ("true", "True"), ("null", "None"), ('{"b": 1}', '{"b":1}')]
STRINGS = [
    {"type": "string"},
    {"type": "string", "nullable": True},
    {"type": ["string", "null"], "enum": [text for pair in PAIRS for text in pair]},
    {"anyOf": [{"type": "string"}, {"type": "string", "pattern": "x"}]},
    {"enum": [text for pair in PAIRS for text in pair]},
    {"const": "3.10"},
]
UNTOLD = [{}, {"type": "number"}, {"type": ["string", "number"]}, {"anyOf": [{"type": "string"}, {"type": "number"}]}]


def tools(schema, name="a"):
    return [{"name": "f", "parameters": {"type": "object", "properties": {name: schema}}}]


def reward_of(syntax, sampled, gold, row_tools, **kwargs):
    write = WRITTEN[syntax].format
    columns = {} if row_tools is None else {"tools": [row_tools]}
    return ToolCallReward(syntax, **kwargs)([write(sampled)], solution=[write(gold)], **columns)[0]


@pytest.mark.parametrize("syntax", WRITTEN)
class TestDeclaredStrings:
    @pytest.mark.parametrize(("gold", "other"), PAIRS[:3])
    @pytest.mark.parametrize("schema", STRINGS[:2] + STRINGS[3:5])
    def test_stay_strings(self, schema, gold, other, syntax):
        for row_tools in (tools(schema), json.dumps(tools(schema))):
            assert reward_of(syntax, gold, gold, row_tools) == 3.0
            assert reward_of(syntax, other, gold, row_tools) < 3.0
            assert reward_of(syntax, gold, other, row_tools) < 3.0

    def test_that_may_be_null_are_null_where_null_is_written(self, syntax):
        for schema in STRINGS[1:3]:
            assert reward_of(syntax, "null", "None", tools(schema)) == 3.0
        assert reward_of(syntax, "null", "None", tools(STRINGS[0])) < 3.0

    @pytest.mark.parametrize("schema", UNTOLD)
    def test_are_none_where_the_schema_leaves_it_open(self, schema, syntax):
        assert reward_of(syntax, "3.1", "3.10", tools(schema)) == 3.0

    def test_are_none_without_tools_or_without_the_tool(self, syntax):
        for row_tools in (None, [], tools({"type": "string"}, name="b")):
            assert reward_of(syntax, "3.1", "3.10", row_tools) == 3.0

    def test_count_turn_by_turn(self, syntax):
        write = WRITTEN[syntax].format
        gold, row_tools = [write("3.10"), write("1")], tools({"type": "string"})
        messages = [{"role": "assistant", "content": write(text)} for text in ("3.10", "1", "3.1")]
        right, wrong = messages[:2], messages[2:0:-1]
        assert ToolCallReward(syntax)([right, wrong], solution=[gold] * 2, tools=[row_tools] * 2)[0] == 3.0
        assert ToolCallReward(syntax)([right, wrong], solution=[gold] * 2, tools=[row_tools] * 2)[1] < 3.0

    def test_are_those_of_the_trainers_tools_where_it_has_some(self, syntax):
        def f(a: str) -> str:
            """
            Anything.

            Args:
                a: Something.
            """
            return a

        write = WRITTEN[syntax].format
        binding = Binding(
            syntax, lambda ids: [[Turn(get_syntax(syntax).parse(write("3.1")), "", 0, [])]], "static", 1, {None: [f]}
        )
        (reward,) = bind_rewards([ToolCallReward()], [Dataset.from_dict({"solution": [write("3.10")]})], binding)
        assert reward([""], solution=[write("3.10")], completion_ids=[[0]])[0] < 3.0

    def test_need_tools_that_can_be_read(self, syntax):
        solution = WRITTEN[syntax].format("3.10")
        binding = Binding(syntax, lambda ids: [], "static", 1, {})
        rows = Dataset.from_dict({"prompt": [""] * 2, "solution": [solution] * 2, "tools": ["[]", "no JSON"]})
        with pytest.raises(ValueError, match=r"row 1 of the data set: .*not valid JSON"):
            bind_rewards([ToolCallReward()], [rows], binding)

    def test_are_judged_as_strings(self, syntax):
        schema = {"type": "string", "pattern": r"^\d\.\d\d$"}
        judged = ToolSchemaReward(syntax)([WRITTEN[syntax].format("3.10")], tools=[tools(schema)])
        assert judged == [[0.0]]

    def test_are_credited_as_strings(self, syntax, tokenizer):
        partitioner = Partitioner(tokenizer, get_syntax(syntax))
        for sampled, is_right in (("3.10", True), ("3.1", False)):
            ids = tokenizer(WRITTEN[syntax].format(sampled))["input_ids"]
            turns = partitioner.read_lists([ids]).turns[0]
            gold, schemas = [ToolCall("f", {"a": "3.10"})], ToolSchemas(tools({"type": "string"}))
            segments = call_segments(turns, gold, get_syntax(syntax), 1.0, json_equal, schemas)
            assert sum(segment[4] for segment in segments) == is_right


class TestNestedStrings:
    SCHEMA = {"type": "object", "properties": {"b": {"type": "array", "items": {"type": "string"}}}}

    def test_stay_strings_where_text_is_delimited(self):
        write = (
            WRITTEN["functiongemma"]
            .replace("<escape>{}<escape>", "{{b:[<escape>{}<escape>,<escape>x<escape>]}}")
            .format
        )
        reward = ToolCallReward("functiongemma")
        assert reward([write("3.10")], solution=[write("3.10")], tools=[tools(self.SCHEMA)]) == [3.0]
        assert reward([write("3.1")], solution=[write("3.10")], tools=[tools(self.SCHEMA)])[0] < 3.0


class TestTypedSyntaxes:
    def test_are_all_others(self):
        assert {name for name, syntax in SYNTAXES.items() if syntax.untyped} == WRITTEN.keys()

    def test_read_no_tools(self):
        call = '<tool_call>{"name": "f", "arguments": {"a": 3.1}}</tool_call>'
        assert ToolCallReward("hermes")([call], solution=[call], tools=["no JSON"]) == [3.0]
