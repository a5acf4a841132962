"""Completions of `hermes` and `rlla`, and what the tests ask of their parse."""

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rest_trl.tool_calls import Part, ToolCall


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
