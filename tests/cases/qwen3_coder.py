"""Qwen3-Coder, Qwen3.5 and Nemotron 3: tags around names and values."""

from . import Case, Pieces, SyntaxCases, Template
from ._tags import CODE, CODE_CALL, TYPED, TYPED_CALL, UNICODE, UNICODE_CALL, WEATHER, WEATHER_CALL, thought


def function(name: str, *parameters: tuple[str, str]) -> Pieces:
    """Qwen3-Coder's inner tag, as the chat template writes it."""
    pieces = [("<function=", "F"), (name, "N"), (">\n", "F")]
    for key, value in parameters:
        pieces += [("<parameter=", "F"), (key, "P"), (">\n", "F"), (value, "P"), ("\n</parameter>\n", "F")]
    return [*pieces, ("</function>", "F")]


def qwen(name: str, *parameters: tuple[str, str]) -> Pieces:
    return [("<tool_call>\n", "F"), *function(name, *parameters), ("\n</tool_call>", "F")]


CASES: list[Case] = [
    Case("one call", qwen("get_weather", *WEATHER), [WEATHER_CALL]),
    Case(
        "several",
        [*qwen("get_weather", *WEATHER), ("\n", "F"), *qwen("now"), ("\n", "F"), *qwen("f_2", ("a", "-1"))],
        [WEATHER_CALL, ("now", {}), ("f_2", {"a": -1})],
    ),
    Case("typed and nested values", qwen("search", *TYPED), [TYPED_CALL]),
    Case("Python's constants", qwen("f", ("a", "True"), ("b", "False")), [("f", {"a": True, "b": False})]),
    Case("unicode", qwen("get_weather", *UNICODE), [UNICODE_CALL]),
    Case("code", qwen("write", ("path", "a b.py"), ("code", CODE)), [CODE_CALL]),
    Case(
        "tags in a value",
        qwen("say", ("a", "x </tool_call>\n<tool_call> <think> <function=g> y")),
        [("say", {"a": "x </tool_call>\n<tool_call> <think> <function=g> y"})],
    ),
    Case("a closing tag in a value", qwen("say", ("a", "</think>")), [("say", {"a": "</think>"})]),
    Case(
        "on one line",
        [
            *[("<tool_call><function=", "F"), ("f", "N"), ("><parameter=", "F"), ("a", "P"), (">", "F")],
            *[("x y", "P"), ("</parameter></function></tool_call>", "F")],
        ],
        [("f", {"a": "x y"})],
    ),
    Case(
        "an empty value",
        [
            *[("<tool_call>\n<function=", "F"), ("f", "N"), (">\n<parameter=", "F"), ("a", "P")],
            *[(">\n\n</parameter>\n</function>\n</tool_call>", "F")],
        ],
        [("f", {"a": ""})],
    ),
    Case("empty arguments", qwen("now"), [("now", {})]),
    Case("reasoning", [*thought("\nOslo.\n"), ("\n\n", "F"), *qwen("get_weather", *WEATHER)], [WEATHER_CALL]),
    Case(
        "reasoning that quotes tags",
        [*thought(" <tool_call> or <function=f>\n</function> "), ("\n", "F"), *qwen("get_weather", *WEATHER)],
        [WEATHER_CALL],
    ),
    Case(
        "reasoning opened by the prompt",
        [("\nOslo.\n", "R"), ("</think>\n\n", "F"), *qwen("get_weather", *WEATHER)],
        [WEATHER_CALL],
    ),
    Case(
        "text before and after",
        [("I look.\n\n", "A"), *qwen("get_weather", *WEATHER), ("\nDone.", "A")],
        [WEATHER_CALL],
    ),
    Case("no call", [("3 > 2, and <b> is HTML.", "A")], []),
    Case("a function without a block", function("get_weather", *WEATHER), [WEATHER_CALL]),
    Case(
        "two functions in a block",
        [("<tool_call>\n", "F"), *function("now"), ("\n", "F"), *function("f"), ("\n</tool_call>", "F")],
        [("now", {}), ("f", {})],
    ),
    Case("duplicate block", [*qwen("now"), ("\n", "F"), *qwen("now")], [("now", {}), ("now", {})]),
    Case(
        "never closed value",
        [
            *[("<tool_call>\n<function=", "F"), ("f", "N"), (">\n<parameter=", "F"), ("a", "P"), (">\n", "F")],
            *[("1", "P"), ("\n", "F"), ("<parameter=", "F"), ("b", "P"), (">\n", "F"), ("2", "P")],
            *[("\n</parameter>\n</function>\n</tool_call>", "F")],
        ],
        [],
        well_formed=False,
    ),
    Case(
        "never closed function",
        [
            *[("<tool_call>\n<function=", "F"), ("f", "N"), (">\n<parameter=", "F"), ("a", "P"), (">\n", "F")],
            *[("1", "P"), ("\n</parameter>\n</tool_call>\n", "F"), *qwen("g")],
        ],
        [],
        well_formed=False,
    ),
    Case(
        "JSON in the block",
        [('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "F")],
        [],
        well_formed=False,
    ),
    Case("an empty block", [("<tool_call>\n</tool_call>", "F")], [], well_formed=False),
    Case(
        "no tool name",
        [
            *[("<tool_call>\n<function=>\n<parameter=", "F"), ("a", "P"), (">\n", "F"), ("1", "P")],
            ("\n</parameter>\n</function>\n</tool_call>", "F"),
        ],
        [],
        well_formed=False,
    ),
    Case(
        "another tag for parameters",
        [
            *[("<tool_call>\n<function=", "F"), ("f", "N")],
            (">\n<param=a>\n1\n</param>\n</function>\n</tool_call>", "F"),
        ],
        [],
        well_formed=False,
    ),
    Case(
        "truncated",
        [
            *[("<tool_call>\n<function=", "F"), ("f", "N"), (">\n<parameter=", "F"), ("a", "P"), (">\n", "F")],
            ("Os", "P"),
        ],
        [],
        well_formed=False,
    ),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(
        Template("nemotron_3_5_lightning"),
        Template("nemotron_3_nano"),
        Template("nemotron_3_super"),
        Template("nemotron_3_ultra"),
        Template("qwen3_5_nothink"),
        Template("qwen3_5_think"),
        Template("qwen3_6"),
        Template("qwen3_8"),
    ),
    ends_of_turn=("<|im_end|>",),
)
