import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rest_trl.tool_calls import Block, Part, Region, ToolCall, get_syntax


KEYS = {"hermes": "arguments", "rlla": "parameters"}
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<response>", "</response>"]
NASTY_STRINGS = [
    "",
    "{",
    '}"]',
    'say "hi"',
    "C:\\dir\\",
    '\\"',
    "a\nb\tc",
    '</tool_call>\n<tool_call>\n{"name": "x"}',
    "<think> </think> <response>",
    "Zürich 東京 🌦",
    "\u2028\x00\x7f",
]

# A busy machine is slow, which is no failure.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_strings = st.text(max_size=8) | st.sampled_from(NASTY_STRINGS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | json_strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_strings, inner, max_size=3),
    max_leaves=8,
)
tool_calls = st.builds(
    ToolCall, json_strings.filter(bool), st.dictionaries(json_strings.filter(bool), json_values, max_size=3)
)


def both_syntaxes(test):
    return pytest.mark.parametrize("name", ["hermes", "rlla"])(test)


def render(name, calls, **dumps_arguments):
    """The calls in wire syntax, without reasoning."""
    objects = [json.dumps({"name": call.name, KEYS[name]: call.arguments}, **dumps_arguments) for call in calls]
    blocks = ["\n".join(objects)] if name == "rlla" else objects
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def pieces(text, parsed, *parts):
    """The pieces of the text that belong to one of these parts."""
    return [text[start:end] for start, end, part in parsed.parts if part in parts]


def region_pieces(text, parsed, region):
    return [text[start:end] for start, end, found in parsed.spans if found is region]


def regions(parsed):
    """[`Region`] of every character."""
    return [region for start, end, region in parsed.spans for _ in range(start, end)]


def assert_cover(text, parsed):
    """Parts and spans are sorted, disjoint and covering, neighbours differ, and both say the same."""
    for spans in (parsed.parts, parsed.spans):
        position = 0
        for start, end, _ in spans:
            assert start == position < end
            position = end
        assert position == len(text)
        assert all(before[2] is not after[2] for before, after in pairwise(spans))
    assert regions(parsed) == [part.region for start, end, part in parsed.parts for _ in range(start, end)]
    assert all(part is not Part.NONE for _, _, part in parsed.parts)


def samples(name):
    """Whole completions of many shapes; in the last three, a prefix cannot tell a quoted tag or reasoning."""
    weather = ToolCall("get_weather", {"city": "Zürich 🌦", "days": 3, "units": {"t": ["C", None], "deep": {"a": []}}})
    quoted = ToolCall("say", {"text": 'a "b" {c} ]}\n', "raw": "\\"})
    bare = ToolCall("now", {})
    tag = ToolCall("say", {"text": "a </tool_call> b"})
    return [
        f"<think> plan </think>\n{render(name, [weather])}",
        f"<think>\nplan\n</think>\n\n{render(name, [weather, quoted, bare])}",
        render(name, [quoted]) + "\n",
        render(name, [weather], indent=2),
        f"Let me look.\n{render(name, [bare])}\nDone.",
        '<think> nothing fits </think>\n<response> Sorry {no} "tool". </response>',
        f"plan </think>\n{render(name, [bare])}",
        f'<think> I write <tool_call>{{"name": "x"}}</tool_call> </think>\n{render(name, [bare])}',
        render(name, [tag, bare]),
    ]


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
