"""GLM-4.5: a block per call, tags around keys and values."""

from . import Case, Pieces, SyntaxCases, Template
from ._tags import CODE, CODE_CALL, TYPED, TYPED_CALL, UNICODE, UNICODE_CALL, WEATHER, WEATHER_CALL, thought


def glm(name: str, *parameters: tuple[str, str]) -> Pieces:
    pieces = [("<tool_call>", "F"), (name, "N"), ("\n", "F")]
    for key, value in parameters:
        pieces += [("<arg_key>", "F"), (key, "P"), ("</arg_key>\n<arg_value>", "F")]
        pieces += [(value, "P"), ("</arg_value>\n", "F")]
    return [*pieces, ("</tool_call>", "F")]


CASES: list[Case] = [
    Case("one call", glm("get_weather", *WEATHER), [WEATHER_CALL]),
    Case(
        "several",
        [*glm("get_weather", *WEATHER), ("\n", "F"), *glm("now"), ("\n", "F"), *glm("f_2", ("a", "-1"))],
        [WEATHER_CALL, ("now", {}), ("f_2", {"a": -1})],
    ),
    Case("typed and nested values", glm("search", *TYPED), [TYPED_CALL]),
    Case("unicode", glm("get_weather", *UNICODE), [UNICODE_CALL]),
    Case("code", glm("write", ("path", "a b.py"), ("code", CODE)), [CODE_CALL]),
    Case(
        "tags in a value",
        glm("say", ("a", "x <think> <tool_call> <arg_val> y")),
        [("say", {"a": "x <think> <tool_call> <arg_val> y"})],
    ),
    Case("a closing tag in a value", glm("say", ("a", "</think>")), [("say", {"a": "</think>"})]),
    Case(
        "on one line",
        [
            *[("<tool_call>", "F"), ("f", "N"), ("<arg_key>", "F"), ("a", "P")],
            *[("</arg_key><arg_value>", "F"), ("x y", "P"), ("</arg_value></tool_call>", "F")],
        ],
        [("f", {"a": "x y"})],
    ),
    Case("empty arguments", glm("now"), [("now", {})]),
    Case("an empty value", glm("f", ("a", "")), [("f", {"a": ""})]),
    Case("reasoning", [*thought("Oslo."), ("\n", "F"), *glm("get_weather", *WEATHER)], [WEATHER_CALL]),
    Case("no reasoning", [("<think></think>\n", "F"), *glm("get_weather", *WEATHER)], [WEATHER_CALL]),
    Case(
        "reasoning that quotes tags",
        [*thought("So <tool_call>f\n<arg_key>a</arg_key>, then"), ("\n", "F"), *glm("get_weather", *WEATHER)],
        [WEATHER_CALL],
    ),
    Case(
        "reasoning opened by the prompt",
        [("Oslo.", "R"), ("</think>\n", "F"), *glm("get_weather", *WEATHER)],
        [WEATHER_CALL],
    ),
    Case(
        "text before and after",
        [("I look.\n", "A"), *glm("get_weather", *WEATHER), ("\nDone.", "A")],
        [WEATHER_CALL],
    ),
    Case("no call", [("3 > 2, and <b> is HTML.", "A")], []),
    Case("duplicate block", [*glm("now"), ("\n", "F"), *glm("now")], [("now", {}), ("now", {})]),
    Case(
        "a key without a value",
        [
            *[("<tool_call>", "F"), ("f", "N"), ("\n<arg_key>", "F"), ("a", "P")],
            ("</arg_key>\n</tool_call>", "F"),
        ],
        [],
        well_formed=False,
    ),
    Case(
        "a value without a key",
        [
            *[("<tool_call>", "F"), ("f", "N"), ("\n<arg_value>", "F"), ("a", "P")],
            ("</arg_value>\n</tool_call>", "F"),
        ],
        [],
        well_formed=False,
    ),
    Case(
        "JSON in the block",
        [('<tool_call>{"name": "f", "arguments": {}}</tool_call>', "F")],
        [],
        well_formed=False,
    ),
    Case(
        "never closed",
        [("<tool_call>", "F"), ("f", "N"), ("\n", "F"), *glm("g", ("a", "1"))],
        [],
        well_formed=False,
    ),
    Case("an empty block", [("<tool_call>\n</tool_call>", "F")], [], well_formed=False),
    Case("a sentence as a name", [("<tool_call>", "F"), ("see", "N"), (" above\n</tool_call>", "F")], [], False),
    Case(
        "truncated",
        [
            *[("<tool_call>", "F"), ("f", "N"), ("\n<arg_key>", "F"), ("a", "P")],
            *[("</arg_key>\n<arg_value>", "F"), ("Os", "P")],
        ],
        [],
        well_formed=False,
    ),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(Template("glm4moe"),),
    ends_of_turn=("<|observation|>",),
    tokens=("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
