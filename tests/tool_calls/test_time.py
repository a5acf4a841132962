"""Every parse takes linear time, whatever a policy writes."""

import pytest
from timing import LARGEST_RATIO, ratio_of_times

from rest_trl.tool_calls import SYNTAXES, get_syntax


# Long enough for quadratic time to show, short enough for a test of what takes it.
LENGTHS = (25_000, 100_000)

ADVERSARIES = [
    "<think>",
    "<tool_call>",
    "<tool_call>{",
    "<tool_call>[[",
    '<tool_call>["',
    '<tool_call>"',
    "<tool_call>{}",
    "<tool_call>1",
    "<think><tool_call>{",
    "<think></think>",
    "<response><tool_call>{",
    '<tool_call>{"name": "f", "arguments": {}, "parameters": {}}</tool_call>',
    '{"name": "f", "arguments": {}, "parameters": {}}\n',
    '{"a":\n',
    "\n{",
    '"',
    '"\\',
    "\\",
    "[",
    "}",
    " ",
    "<",
]


class TestTime:
    @pytest.mark.parametrize("prefix", ["", "<tool_call>", '<tool_call>{"name": "f", "arguments": {"a": '])
    @pytest.mark.parametrize("name", sorted(SYNTAXES))
    def test_is_linear_in_the_length(self, name, prefix):
        parse = get_syntax(name).parse
        for unit in ADVERSARIES:
            short, long = (prefix + unit * (length // len(unit)) for length in LENGTHS)
            assert ratio_of_times(parse, short, long) < LARGEST_RATIO, unit

    def test_would_show_quadratic_time(self):
        def parse(text):
            return [text.count("x", position) for position in range(0, len(text), 100)]

        assert ratio_of_times(parse, *("-" * length for length in LENGTHS)) > LARGEST_RATIO
