"""Granite 4: a block per call."""

from . import Case, SyntaxCases
from ._json import ITEM, ONE_CALL, OSLO, WRONG_KEY, Writer, common, in_object, repeat


WRITER = Writer("<tool_call>\n", in_object("arguments"), "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
ONE = WRITER.write(("get_weather", OSLO[0]))

CASES: list[Case] = [
    *common(WRITER),
    repeat("duplicate block", ONE, ["get_weather"] * 2, True),
    Case("no line breaks", [("<tool_call>", "F"), *ITEM, ("</tool_call>", "F")], ONE_CALL),
    Case("block not closed", [("<tool_call>\n", "F"), *ITEM, ("\n", "F")], [], False),
    Case("two calls in a block", [("<tool_call>\n", "F"), *ITEM, *ITEM, ("</tool_call>", "F")], [], False),
    Case(
        "a list in a block",
        [
            ("<tool_call>[", "F"),
            *ITEM[:1],
            ('get_weather", "arguments": ' + OSLO[0] + "}]", "F"),
            ("</tool_call>", "F"),
        ],
        [],
        False,
    ),
    Case("an empty block", [("<tool_call>\n</tool_call>", "F")], [], False),
    Case("wrong key", [("<tool_call>", "F"), *WRONG_KEY, ('", "args": {}}</tool_call>', "F")], [], False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt='<|start_of_role|>system<|end_of_role|><tool_call>{\\"name\\": ., \\"arguments\\": .}\n</tool_call>',
)
