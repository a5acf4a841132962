import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tagged_completions import (
    KEYS,
    TAGS,
    assert_cover,
    both_syntaxes,
    pieces,
    region_pieces,
    regions,
    relaxed,
    render,
    samples,
)

from rest_trl.tool_calls import Block, Part, Region, ToolCall, get_syntax


class TestErrors:
    @pytest.mark.parametrize(
        ("block", "reason"),
        [
            ('{"name": "f", "KEY": {"a": }}', "Expecting value"),
            ('{"name": "f", "KEY": {"a": 1}', "Expecting ',' delimiter"),
            ("{'name': 'f', 'KEY': {}}", "Expecting property name"),
            ("f(a=1)", "Expecting value"),
            ('{"KEY": {"a": 1}}', 'no string "name"'),
            ('{"name": 3, "KEY": {}}', 'no string "name"'),
            ('{"name": "f"}', "the call of 'f' has no object \"KEY\""),
            ('{"name": "f", "KEY": [1]}', 'no object "KEY"'),
            ('{"name": "f", "KEY": "{}"}', 'no object "KEY"'),
            ('{"name": "f", "OTHER": {"a": 1}}', 'no object "KEY"'),
            ('["f", {}]', "must be a JSON object, not list"),
            ('"f"', "must be a JSON object, not str"),
            ("[" * 100_000, "nested too deeply"),
            ('{"name": "f", "KEY": {"a": ' + "1" * 5000 + "}}", "limit"),
        ],
        ids=range(14),
    )
    @both_syntaxes
    def test_an_unreadable_call_is_named_and_no_call(self, name, block, reason):
        other = KEYS["hermes" if name == "rlla" else "rlla"]
        block, reason = (s.replace("KEY", KEYS[name]).replace("OTHER", other) for s in (block, reason))
        text = f"<think> a </think>\n<tool_call>\n{block}\n</tool_call>"
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == []
        assert len(parsed.errors) == 1
        assert reason in parsed.errors[0]
        assert_cover(text, parsed)
        assert parsed.blocks == [Block("reasoning", True), Block("tool_call", True)]

    @both_syntaxes
    def test_the_position_is_that_of_the_call(self, name):
        text = "<tool_call>\n{nothing}\n</tool_call>"
        assert get_syntax(name).parse(text).errors[0].startswith(f"character {text.index('{')}: ")

    @pytest.mark.parametrize("key", ["parameters", "arguments"])
    @both_syntaxes
    def test_the_wrong_key_still_has_parameters(self, name, key):
        text = f'<tool_call>\n{{"name": "f", "{key}": {{"a": 1}}}}\n</tool_call>'
        parsed = get_syntax(name).parse(text)
        assert bool(parsed.calls) == (key == KEYS[name]) == (not parsed.errors)
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['{"a": 1}']

    @both_syntaxes
    def test_broken_json_still_has_names_and_parameters(self, name):
        text = f'<tool_call>\n{{"name": "f", "{KEYS[name]}": {{"a": "x" "b": [1, }}}}\n</tool_call>'
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == []
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['{"a": "x" "b": [1, }}']
        assert pieces(text, parsed, Part.TAG) == ["<tool_call>", "</tool_call>"]

    def test_arguments_in_a_string_are_parameters_but_no_call(self):
        text = '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>'
        parsed = get_syntax("hermes").parse(text)
        assert parsed.calls == []
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['"{\\"a\\": 1}"']

    @pytest.mark.parametrize(("name", "reason"), [("rlla", "an empty"), ("hermes", "holds 0 calls")])
    @pytest.mark.parametrize("content", ["", "\n", " \n\n "])
    def test_an_empty_block_is_an_error(self, name, reason, content):
        text = f"<tool_call>{content}</tool_call>"
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == []
        assert len(parsed.errors) == 1 and reason in parsed.errors[0]
        assert {part.region for _, _, part in parsed.parts} == {Region.FORMAT}

    def test_calls_of_a_second_block_are_none_in_rlla(self):
        blocks = [render("rlla", [ToolCall(tool, {})]) for tool in "fgh"]
        parsed = get_syntax("rlla").parse("\n".join(blocks))
        assert parsed.calls == [ToolCall("f", {})]
        assert parsed.errors == ["a second <tool_call> block"] * 2
        assert pieces("\n".join(blocks), parsed, Part.TOOL_NAME) == ["f", "g", "h"]

    @pytest.mark.parametrize("first", ["", "{", '{"name": "f"}'])
    def test_a_second_block_does_not_heal_the_first_in_rlla(self, first):
        parsed = get_syntax("rlla").parse(f"<tool_call>{first}</tool_call>" + render("rlla", [ToolCall("g", {})]))
        assert parsed.calls == []
        assert len(parsed.errors) == 2

    def test_one_unreadable_line_voids_the_block_in_rlla(self):
        lines = ['{"name": "f", "parameters": {}}', '{"name": "g"', '{"name": "h", "parameters": {}}']
        text = "<tool_call>\n" + "\n".join(lines) + "\n</tool_call>"
        parsed = get_syntax("rlla").parse(text)
        assert parsed.calls == []
        assert len(parsed.errors) == 1
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f", "g", "h"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == ["{}", "{}"]

    def test_two_calls_in_a_block_are_an_error_in_hermes(self):
        block = render("rlla", [ToolCall("f", {}), ToolCall("g", {})]).replace("parameters", "arguments")
        parsed = get_syntax("hermes").parse(block)
        assert parsed.calls == []
        assert parsed.errors == ["a <tool_call> block holds 2 calls instead of one"]

    @pytest.mark.parametrize("order", [1, -1])
    def test_one_unreadable_block_voids_all_in_hermes(self, order):
        blocks = [render("hermes", [ToolCall("f", {})]), "<tool_call>{</tool_call>"][::order]
        parsed = get_syntax("hermes").parse("\n".join(blocks))
        assert parsed.calls == []
        assert len(parsed.errors) == 1


class TestTruncation:
    @pytest.mark.parametrize("index", range(len(samples("rlla"))))
    @both_syntaxes
    def test_every_prefix_has_the_regions_and_calls_of_the_whole_so_far(self, name, index):
        tool_call_syntax, text = get_syntax(name), samples(name)[index]
        whole = tool_call_syntax.parse(text)
        for length in range(len(text) + 1):
            parsed = tool_call_syntax.parse(text[:length])
            assert_cover(text[:length], parsed)
            assert parsed.calls in [whole.calls[:count] for count in range(len(whole.calls) + 1)]
            if index >= 6:
                continue
            # Only a tag that is cut off may differ, and white space, which is read together with what follows it.
            cut = next(
                (start for start, end, part in whole.parts if part is Part.TAG and start < length < end), length
            )
            cut = len(text[:cut].rstrip())
            assert regions(parsed)[:cut] == regions(whole)[:cut], text[:length]

    @both_syntaxes
    def test_a_cut_off_call_is_no_call_but_has_its_regions(self, name):
        text = f'<tool_call>\n{{"name": "f", "{KEYS[name]}": {{"a": "Par'
        parsed = get_syntax(name).parse(text)
        assert parsed.calls == []
        assert len(parsed.errors) == 1
        assert parsed.blocks == [Block("tool_call", False)]
        assert pieces(text, parsed, Part.TOOL_NAME) == ["f"]
        assert region_pieces(text, parsed, Region.PARAMETERS) == ['{"a": "Par']


fragments = st.lists(
    st.sampled_from([*TAGS, '{"name": "f", ', '"parameters": {', '"arguments": {', '"a": 1}}', "\n", *'{}[]:,"\\ x'])
    | st.text(st.characters(), max_size=4),
    max_size=25,
).map("".join)


class TestAnyText:
    @both_syntaxes
    @given(text=st.text(st.characters()) | fragments)
    @settings(relaxed, max_examples=300)
    def test_is_covered_and_never_raises(self, name, text):
        assert_cover(text, get_syntax(name).parse(text))

    @both_syntaxes
    @given(data=st.data())
    @settings(relaxed, max_examples=200)
    def test_made_from_valid_completions_is_covered_and_never_raises(self, name, data):
        text = data.draw(st.sampled_from(samples(name)))
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(start, min(len(text), start + 12)))
            insertion = data.draw(st.sampled_from(["", text[start:end] * 2, text[end : end + 20]]) | fragments)
            text = text[:start] + insertion + text[end:]
        parsed = get_syntax(name).parse(text)
        assert_cover(text, parsed)
        assert all(isinstance(call.name, str) and isinstance(call.arguments, dict) for call in parsed.calls)
        assert all(error and isinstance(error, str) for error in parsed.errors)
