"""Kimi K2: JSON after an id that holds the name."""

from . import Case, SyntaxCases
from ._json import ONE_CALL, OSLO, Writer, behind_name, common, repeat


K_SECTION, K_SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
K_CALL, K_ARGUMENTS, K_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
WRITER = Writer(K_SECTION, behind_name(f"{K_CALL}functions.", f":{{}}{K_ARGUMENTS}", K_END), "", K_SECTION_END)
ONE = WRITER.write(("get_weather", OSLO[0]))

CASES: list[Case] = [
    *common(WRITER),
    repeat("duplicate block", ONE, ["get_weather"] * 2, True),
    Case(
        "no prefix",
        [(K_SECTION + K_CALL, "F"), ("f", "N"), (f":3{K_ARGUMENTS}", "F"), ("{}", "P"), (K_END + K_SECTION_END, "F")],
        [("f", {})],
    ),
    Case(
        "line breaks in the header",
        [
            (f"{K_SECTION}\n{K_CALL} functions.", "F"),
            ("f", "N"),
            (f":0 \n{K_ARGUMENTS} ", "F"),
            ("{}", "P"),
            (f"\n{K_END}\n{K_SECTION_END}\n", "F"),
        ],
        [("f", {})],
    ),
    Case("section not closed", ONE[:-1], ONE_CALL),
    Case("outside of a section", ONE[1:-1], [], False),
    Case("an empty section", [(K_SECTION + K_SECTION_END, "F")], [], False),
    Case(
        "no index",
        [(f"{K_SECTION}{K_CALL}functions.", "F"), ("f", "N"), (K_ARGUMENTS, "F"), ("{}", "P"), (K_END, "F")],
        [],
        False,
    ),
    Case("call not closed", [*ONE[:-2], (K_SECTION_END, "F")], [], False),
    Case("cut off in the id", [(f"{K_SECTION}{K_CALL}functions.", "F"), ("f", "N"), (":0", "F")], [], False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt="<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>{{ arguments }}",
    tokens=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
)
