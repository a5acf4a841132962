import json

import pytest

from rest_trl.rewards import ToolSchemaReward
from rest_trl.tool_calls.declared import declared_tools, json_schemas


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
KEYS = ["parameters", "inputSchema", "input_schema", "parametersJsonSchema", "parameters_json_schema"]


class TestDeclaredTools:
    @pytest.mark.parametrize("key", KEYS)
    @pytest.mark.parametrize("is_wrapped", [True, False])
    @pytest.mark.parametrize("encode", [dict, json.dumps], ids=["object", "text"])
    def test_have_their_parameters_where_templates_look_for_them(self, key, is_wrapped, encode):
        kept = {"name": "get_weather", "description": "Weather.", "annotations": {"a": 1}}
        function = {**kept, key: encode(SCHEMA)}
        (tool,) = declared_tools([{"type": "function", "function": function} if is_wrapped else function])
        assert (tool["function"] if is_wrapped else tool) == {**kept, "parameters": SCHEMA}
        assert json_schemas([tool])[0]["function"]["parameters"] == SCHEMA

    def test_of_bedrock_have_a_schema_under_json(self):
        assert declared_tools([{"name": "f", "inputSchema": {"json": SCHEMA}}])[0]["parameters"] == SCHEMA

    @pytest.mark.parametrize("parameters", [{}, None, ""])
    def test_may_have_no_parameters(self, parameters):
        for key in KEYS:
            (tool,) = json_schemas([{"name": "f", key: parameters, "returns": {"type": "object"}}])
            assert tool["function"]["parameters"] == {"type": "object", "properties": {}}

    @pytest.mark.parametrize(
        ("tool", "message"),
        [
            (
                {"schema": SCHEMA},
                r"tools\[0\] \(f\) has its parameters under 'schema': rename the key to one of param",
            ),
            ({"args": [{"name": "city"}]}, "has its parameters under 'args'"),
            (
                {"inputSchema": SCHEMA, "parameters": {"a": {}}},
                "has parameters under parameters and inputSchema: keep",
            ),
            ({"parameters": [{"name": "city"}]}, r"tools\[0\]\.parameters is a list, not an object"),
            ({"input_schema": "{"}, r"tools\[0\]\.input_schema is not valid JSON"),
            (
                {"function": {"name": "f"}, "parameters": SCHEMA},
                "has the key 'parameters' beside its function: move it",
            ),
        ],
    )
    @pytest.mark.parametrize("read", [declared_tools, json_schemas])
    def test_are_refused_by_name_where_their_parameters_would_be_lost(self, read, tool, message):
        with pytest.raises(ValueError, match=message):
            read([{"name": "f", **tool}])


class TestToolSchemaReward:
    @pytest.mark.parametrize("key", KEYS)
    def test_pays_the_right_call_more_than_a_wrong_one(self, key):
        written = '<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>'
        completions = [written % text for text in ('{"city": "Oslo"}', "{}", '{"town": "Oslo"}')]
        reward = ToolSchemaReward("hermes", tools=[{"name": "get_weather", key: SCHEMA}])
        assert reward(completions=completions) == [[0.0], [-1.0], [-1.0]]
