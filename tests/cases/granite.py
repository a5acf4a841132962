"""Granite 3: a JSON list after a marker."""

from . import Case, SyntaxCases
from ._json import ITEM, ONE_CALL, OSLO, WRONG_KEY, Writer, common, in_object, repeat


WRITER = Writer("<|tool_call|>[", in_object("arguments"), ", ", "]")
ONE = WRITER.write(("get_weather", OSLO[0]))

CASES: list[Case] = [
    *common(WRITER),
    Case("the other marker", [("<tool_call>[", "F"), *ITEM, ("]", "F")], ONE_CALL),
    Case("space after the marker", [("<|tool_call|> \n[ ", "F"), *ITEM, (" ]\n", "F")], ONE_CALL),
    repeat("duplicate block", ONE, ["get_weather"] * 2, True),
    Case(
        "response tags",
        [("<think>", "F"), ("a", "R"), ("</think><response>", "F"), ("Hello {}.", "A"), ("</response>", "F")],
        [],
    ),
    Case("wrong key", [("<|tool_call|>[", "F"), *WRONG_KEY, ('", "args": ' + OSLO[0] + "}]", "F")], [], False),
    Case(
        "the key of others",
        [("<|tool_call|>[", "F"), *in_object("parameters")(0, "f", OSLO[0]), ("]", "F")],
        [],
        False,
    ),
    Case("an object instead of a list", [("<|tool_call|>", "F"), *ITEM, ("\n", "F")], [], False),
    Case("an empty list", [("<|tool_call|>[]", "F")], [], False),
    Case("a quoted marker", [("I would write ", "A"), ("<tool_call>", "F"), (" now.", "A")], [], False),
    Case("list not closed", [("<|tool_call|>[", "F"), *ITEM], [], False),
    Case("text in the list", [("<|tool_call|>[", "F"), *ITEM, (" and ", "F"), *ITEM, ("]", "F")], [], False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt="<|start_of_role|>system<|end_of_role|>respond only with <|tool_call|> followed by a JSON list",
)
