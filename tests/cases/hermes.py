"""Hermes, Qwen2.5 and Qwen3: a block per call."""

from . import Case, SyntaxCases, Template
from ._tagged import NESTED, NESTED_VALUE, QUOTE, UNICODE, UNICODE_VALUE, call, think


def h(name, arguments):
    """A call block of `hermes`."""
    return [("<tool_call>\n", "F"), *call(name, arguments, "arguments"), ("\n</tool_call>", "F")]


CASES = [
    Case("one call", h("get_weather", '{"city": "Oslo"}'), [("get_weather", {"city": "Oslo"})]),
    Case(
        "several calls",
        [
            *h("get_weather", '{"city": "Oslo"}'),
            ("\n", "F"),
            *h("get_time", '{"zone": "Europe/Oslo", "utc": false}'),
            ("\n", "F"),
            *h("get_weather", '{"city": "Bergen"}'),
        ],
        [
            ("get_weather", {"city": "Oslo"}),
            ("get_time", {"zone": "Europe/Oslo", "utc": False}),
            ("get_weather", {"city": "Bergen"}),
        ],
    ),
    Case("duplicate block", [*h("now", "{}"), ("\n", "F"), *h("now", "{}")], [("now", {}), ("now", {})]),
    Case("nested arguments", h("plan_trip", NESTED), [("plan_trip", NESTED_VALUE)]),
    Case("unicode and escapes", h("send", UNICODE), [("send", UNICODE_VALUE)]),
    Case(
        "reasoning of Qwen3",
        [
            ("<think>", "F"),
            ("\nI need the weather.\n", "R"),
            ("</think>\n\n", "F"),
            *h("get_weather", '{"city": "Oslo"}'),
        ],
        [("get_weather", {"city": "Oslo"})],
    ),
    Case(
        "reasoning opened by the prompt",
        [
            ("I need the weather.\n", "R"),
            ("</think>\n\n", "F"),
            *h("get_weather", '{"city": "Oslo"}'),
        ],
        [("get_weather", {"city": "Oslo"})],
    ),
    Case("reasoning that quotes a call", [*think(QUOTE), *h("now", "{}")], [("now", {})]),
    Case(
        "text before and after",
        [("Let me look.\n", "A"), *h("now", "{}"), ("\nOne moment.", "A")],
        [("now", {})],
    ),
    Case("no call", [("<think>", "F"), ("Easy.", "R"), ("</think>", "F"), ("\n\nOslo is in Norway.", "A")], []),
    Case(
        "empty arguments, name last",
        [
            ('<tool_call>\n{"arguments": ', "F"),
            ("{}", "P"),
            (', "name": "', "F"),
            ("now", "N"),
            ('"}\n</tool_call>', "F"),
        ],
        [("now", {})],
    ),
    Case(
        "pretty-printed",
        [
            ('<tool_call>\n{\n  "name": "', "F"),
            ("get_weather", "N"),
            ('",\n  "arguments": ', "F"),
            ('{\n    "city": "Oslo"\n  }', "P"),
            ("\n}\n</tool_call>", "F"),
        ],
        [("get_weather", {"city": "Oslo"})],
    ),
    Case("block that is never closed", [("<tool_call>\n", "F"), *call("now", "{}", "arguments")], [("now", {})]),
    Case(
        "broken JSON voids all calls",
        [*h("now", "{}"), ("\n", "F"), *h("get_weather", '{"city": "Oslo" "days": 3}')],
        [],
        well_formed=False,
    ),
    Case(
        "key of rlla",
        [("<tool_call>\n", "F"), *call("now", '{"a": 1}', "parameters"), ("\n</tool_call>", "F")],
        [],
        well_formed=False,
    ),
    Case(
        "two calls in one block",
        [
            ("<tool_call>\n", "F"),
            *call("f", "{}", "arguments"),
            ("\n", "F"),
            *call("g", '{"a": 1}', "arguments"),
            ("\n</tool_call>", "F"),
        ],
        [],
        well_formed=False,
    ),
    Case(
        "cut off in the arguments",
        [("<tool_call>\n", "F"), *call("get_weather", '{"city": "Os', "arguments", end="")],
        [],
        well_formed=False,
    ),
    Case(
        "closing tag in an argument",
        h("say", '{"text": "a </tool_call> b"}'),
        [("say", {"text": "a </tool_call> b"})],
        well_formed=False,  # vLLM ends the block there
    ),
    Case("reasoning cut off", [("<think>", "F"), ("\nFirst I should", "R")], []),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(Template("qwen2_5"), Template("qwen3"), Template("qwen3_instruct_2507"), Template("qwen3_vl")),
    ends_of_turn=("<|im_end|>",),
    excerpt='<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}\n</tool_call>',
)
