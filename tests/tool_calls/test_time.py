"""
Every parse takes linear time, whatever a policy writes.

A linear parse of four times the text takes four times the time on any machine, a quadratic one sixteen times.
"""

import gc
import time

import pytest

from rest_trl.tool_calls import SYNTAXES, get_syntax


# Long enough for quadratic time to show, short enough for a test of what takes it.
LENGTHS = (25_000, 100_000)
LARGEST_RATIO = 8.0
ATTEMPTS = 8

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


def seconds(parse, text):
    """Seconds of a parse without the garbage collector, which walks all objects of the tests that ran before."""
    gc.disable()
    try:
        start = time.process_time()
        parse(text)
        return time.process_time() - start
    finally:
        gc.enable()


def ratio_of_times(parse, short, long):
    """Ratio of the least times. Other work on the machine only adds to a time, so a large one is measured again."""
    fastest_short = fastest_long = float("inf")
    for _ in range(ATTEMPTS):
        fastest_short = min(fastest_short, seconds(parse, short))
        fastest_long = min(fastest_long, seconds(parse, long))
        if fastest_long < LARGEST_RATIO * fastest_short:
            break
    return fastest_long / fastest_short


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
