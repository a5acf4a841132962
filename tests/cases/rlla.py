"""ToolRL, the paper's data: one block with a call per line."""

from . import Case, SyntaxCases
from ._tagged import NESTED, NESTED_VALUE, QUOTE, UNICODE, UNICODE_VALUE, call, think


def r(*calls):
    """The call block of `rlla`."""
    lines = [piece for name, arguments in calls for piece in [*call(name, arguments, "parameters"), ("\n", "F")]]
    return [("<tool_call>\n", "F"), *lines, ("</tool_call>", "F")]


CASES = [
    Case("one call", [*think(), *r(("get_weather", '{"city": "Oslo"}'))], [("get_weather", {"city": "Oslo"})]),
    Case(
        "several calls",
        [
            *think(),
            *r(
                ("get_weather", '{"city": "Oslo"}'),
                ("get_time", '{"zone": "Europe/Oslo", "utc": false}'),
                ("get_weather", '{"city": "Bergen"}'),
            ),
        ],
        [
            ("get_weather", {"city": "Oslo"}),
            ("get_time", {"zone": "Europe/Oslo", "utc": False}),
            ("get_weather", {"city": "Bergen"}),
        ],
    ),
    Case("the same call twice", r(("now", "{}"), ("now", "{}")), [("now", {}), ("now", {})]),
    Case("nested arguments", r(("plan_trip", NESTED)), [("plan_trip", NESTED_VALUE)]),
    Case("unicode and escapes", r(("send", UNICODE)), [("send", UNICODE_VALUE)]),
    Case("no reasoning", r(("now", "{}")), [("now", {})]),
    Case(
        "reasoning opened by the prompt",
        [(" I need the time. ", "R"), ("</think>\n", "F"), *r(("now", "{}"))],
        [("now", {})],
    ),
    Case("reasoning that quotes a call", [*think(QUOTE), *r(("now", "{}"))], [("now", {})]),
    Case(
        "call and response",
        [
            *think(),
            *r(("now", "{}")),
            ("\n<response>", "F"),
            (" One moment, {please}. ", "A"),
            ("</response>", "F"),
        ],
        [("now", {})],
    ),
    Case(
        "response only",
        [*think(), ("<response>", "F"), (" Oslo is in Norway. ", "A"), ("</response>", "F")],
        [],
    ),
    Case("text outside the tags", [("Let me look.\n", "A"), *r(("now", "{}")), ("\nDone.", "A")], [("now", {})]),
    Case(
        "duplicate block",
        [*r(("now", "{}")), ("\n", "F"), *r(("now", "{}"))],
        [("now", {})],  # the second block is an error and takes nothing from the first
        well_formed=False,
    ),
    Case(
        "one broken line voids the block",
        r(("now", "{}"), ("get_weather", '{"city": "Oslo" "days": 3}')),
        [],
        well_formed=False,
    ),
    Case(
        "key of hermes",
        [("<tool_call>\n", "F"), *call("now", '{"a": 1}', "arguments"), ("\n</tool_call>", "F")],
        [],
        well_formed=False,
    ),
    Case("empty block", [*think(), ("<tool_call>\n</tool_call>", "F")], [], well_formed=False),
    Case(
        "cut off in the arguments",
        [*think(), ("<tool_call>\n", "F"), *call("get_weather", '{"city": "Os', "parameters", end="")],
        [],
        well_formed=False,
    ),
    Case(
        "response cut off",
        [*think(), ("<response>", "F"), (" Oslo is", "A")],
        [],
    ),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt='<tool_call>\n{"name": "Tool name", "parameters": {}}\n</tool_call>\n<response> text </response>',
)
