import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tagged_completions import (
    KEYS,
    NASTY_STRINGS,
    assert_cover,
    both_syntaxes,
    pieces,
    region_pieces,
    relaxed,
    render,
    tool_calls,
)

from rest_trl.tool_calls import Block, Part, Region, ToolCall, get_syntax


class TestCalls:
    @both_syntaxes
    def test_one_call(self, name):
        text = render(name, [ToolCall("f", {"a": 1, "b": "x"})])
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {"a": 1, "b": "x"})]
        assert parsed.errors == []
        assert parsed.blocks == [Block("tool_call", closed=True)]
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f"]
        assert pieces(text, parsed, Part.PARAMETER_NAME) == ["a", "b"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['{"a": 1, "b": "x"}']
        assert pieces(text, parsed, Part.TAG) == ["<tool_call>", "</tool_call>"]
        assert pieces(text, parsed, Part.STRUCTURE) == ['\n{"name": "', f'", "{KEYS[name]}": ', "}\n"]

    @both_syntaxes
    def test_several_calls_keep_their_order(self, name):
        calls = [ToolCall("f", {"a": 1}), ToolCall("g", {}), ToolCall("f", {"a": 2})]
        text = render(name, calls)
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == calls
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f", "g", "f"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['{"a": 1}', "{}", '{"a": 2}']

    @both_syntaxes
    def test_nested_objects_are_one_parameter(self, name):
        arguments = {"name": "not the tool", KEYS[name]: {"name": "nor this", "x": [{"name": 1}]}, "c": [[], {}]}
        text = render(name, [ToolCall("f", arguments)])
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", arguments)]
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f"]
        assert pieces(text, parsed, Part.PARAMETER_NAME) == ["name", KEYS[name], "c"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == [json.dumps(arguments)]

    @pytest.mark.parametrize("value", NASTY_STRINGS)
    @pytest.mark.parametrize("ensure_ascii", [False, True])
    @both_syntaxes
    def test_strings_may_hold_anything(self, name, ensure_ascii, value):
        calls = [ToolCall("f", {"a": value, "b": [value]}), ToolCall("g", {})]
        text = "<think> t </think>\n" + render(name, calls, ensure_ascii=ensure_ascii)
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == calls
        assert region_pieces(text, parsed, Region.PARAMETERS) == [
            json.dumps(call.arguments, ensure_ascii=ensure_ascii) for call in calls
        ]

    @both_syntaxes
    def test_keys_may_come_in_any_order_and_with_others(self, name):
        text = f'<tool_call>{{"id": {{"name": "x"}}, "{KEYS[name]}": {{"a": 1}}, "n": [2], "name": "f"}}</tool_call>'
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {"a": 1})]
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['{"a": 1}']

    @both_syntaxes
    def test_white_space_is_free(self, name):
        text = f'<tool_call>{{\n  "name"\t:"f" ,\n  "{KEYS[name]}"  :\n {{ "a" : 1 }} }}  \n\n</tool_call>\n'
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {"a": 1})]
        assert pieces(text, parsed, Part.PARAMETER_NAME) == ["a"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['{ "a" : 1 }']

    @both_syntaxes
    @given(
        calls=st.lists(tool_calls, min_size=1, max_size=3), ensure_ascii=st.booleans(), indent=st.none() | st.just(2)
    )
    @relaxed
    def test_survive_the_round_trip(self, name, calls, ensure_ascii, indent):
        text = render(name, calls, ensure_ascii=ensure_ascii, indent=indent)
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == calls
        assert parsed.errors == []
        assert_cover(text, parsed)
        assert pieces(text, parsed, Part.TOOL_NAME) == [
            json.dumps(call.name, ensure_ascii=ensure_ascii)[1:-1] for call in calls
        ]
        assert pieces(text, parsed, Part.PARAMETER_NAME) == [
            json.dumps(key, ensure_ascii=ensure_ascii)[1:-1] for call in calls for key in call.arguments
        ]
        assert [json.loads(piece) for piece in region_pieces(text, parsed, Region.PARAMETERS)] == [
            call.arguments for call in calls
        ]


class TestReasoningAndText:
    @both_syntaxes
    def test_reasoning_before_the_call(self, name):
        text = "<think>\nplan {x}\n</think>\n\n" + render(name, [ToolCall("f", {})])
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {})]
        assert pieces(text, parsed, Part.REASONING) == ["\nplan {x}\n"]
        assert parsed.blocks == [Block("reasoning", True), Block("tool_call", True)]
        assert not region_pieces(text, parsed, Region.RESPONSE)

    @both_syntaxes
    def test_reasoning_after_the_call(self, name):
        text = render(name, [ToolCall("f", {})]) + "<think> too late </think>"
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {})]
        assert parsed.blocks == [Block("tool_call", True), Block("reasoning", True)]
        assert pieces(text, parsed, Part.REASONING) == [" too late "]

    @both_syntaxes
    def test_reasoning_opened_by_the_prompt(self, name):
        text = "\nplan\n</think>\n" + render(name, [ToolCall("f", {})])
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {})]
        assert parsed.blocks == [Block("reasoning", True), Block("tool_call", True)]
        assert pieces(text, parsed, Part.REASONING) == ["\nplan\n"]
        assert pieces(text, parsed, Part.TAG)[0] == "</think>"

    @both_syntaxes
    def test_empty_reasoning_opened_by_the_prompt(self, name):
        text = "\n</think>\n" + render(name, [ToolCall("f", {})])
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {})]
        assert parsed.blocks == [Block("reasoning", True), Block("tool_call", True)]

    @both_syntaxes
    def test_a_closing_tag_in_an_argument_closes_nothing(self, name):
        calls = [ToolCall("f", {"a": "x </think> y"})]
        parsed = get_syntax(name).parse("\n" + render(name, calls))
        assert parsed.calls == calls
        assert parsed.blocks == [Block("tool_call", True)]

    @both_syntaxes
    def test_a_closing_tag_behind_reasoning_opens_nothing(self, name):
        text = "<think> a </think> b </think>"
        parsed = get_syntax(name).parse(text)
        assert pieces(text, parsed, Part.REASONING) == [" a "]
        assert pieces(text, parsed, Part.RESPONSE) == [" b "]

    @both_syntaxes
    def test_reasoning_that_quotes_calls_and_tags_is_no_call(self, name):
        quote = f" I could write <response> or {render(name, [ToolCall('g', {})])} "
        text = f"<think>{quote}</think>\n{render(name, [ToolCall('f', {})])}"
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {})]
        assert pieces(text, parsed, Part.REASONING) == [quote]
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f"]

    @both_syntaxes
    def test_unclosed_reasoning_ends_at_a_call(self, name):
        text = "<think> use the <tool_call> tag: " + render(name, [ToolCall("f", {})])
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {})]
        assert parsed.blocks == [Block("reasoning", False), Block("tool_call", True)]
        assert pieces(text, parsed, Part.REASONING) == [" use the <tool_call> tag: "]

    @both_syntaxes
    def test_unclosed_reasoning_without_a_call_is_all_there_is(self, name):
        text = "<think> use the <tool_call> tag: "
        parsed = get_syntax(name).parse(text)
        assert (parsed.calls, parsed.blocks) == ([], [Block("reasoning", False)])
        assert pieces(text, parsed, Part.REASONING) == [" use the <tool_call> tag: "]

    @both_syntaxes
    def test_text_around_the_call_is_the_response(self, name):
        text = f"Let me look.\n{render(name, [ToolCall('f', {})])}\nDone."
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == [ToolCall("f", {})]
        assert region_pieces(text, parsed, Region.RESPONSE) == ["Let me look.\n", "\nDone."]

    def test_text_between_response_tags_is_the_response_of_rlla(self):
        text = "<think> a </think>\n<response> use <tool_call>{} </response>"
        parsed = get_syntax("rlla").parse(text)
        assert parsed.blocks == [Block("reasoning", True), Block("response", True)]
        assert pieces(text, parsed, Part.RESPONSE) == [" use <tool_call>{} "]
        assert pieces(text, parsed, Part.TAG) == ["<think>", "</think>", "<response>", "</response>"]

    def test_response_tags_are_text_in_hermes(self):
        text = "<think> a </think>\n<response> hi </response>"
        parsed = get_syntax("hermes").parse(text)
        assert parsed.blocks == [Block("reasoning", True), Block("response", True)]
        assert region_pieces(text, parsed, Region.RESPONSE) == ["\n<response> hi </response>"]

    @both_syntaxes
    def test_no_text_has_no_parts(self, name):
        parsed = get_syntax(name).parse("")
        assert (parsed.calls, parsed.errors, parsed.parts, parsed.spans, parsed.blocks) == ([], [], [], [], [])
