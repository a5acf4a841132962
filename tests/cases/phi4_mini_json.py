"""Phi-4-mini: one JSON list after a word."""

from . import Case, SyntaxCases
from ._json import BARE, ITEM, ONE_CALL, OSLO, WRONG_KEY, Writer, common, in_object, repeat


WRITER = Writer("functools[", in_object("arguments"), ", ", "]", vllm_fails_at=("lists", "brackets in strings"))
ONE = WRITER.write(("get_weather", OSLO[0]))

CASES: list[Case] = [
    *common(WRITER),
    Case("the other key", [("functools[", "F"), *BARE, ("]", "F")], ONE_CALL),
    Case("a Python module", [("Use `functools.reduce`, or import functools {sic}.", "A")], []),
    repeat("duplicate block", ONE, [], False),
    Case("an object instead of a list", [("functools", "F"), *ITEM], [], False),
    Case("a space before the list", [("functools [", "F"), *ITEM, ("]", "F")], [], False),
    Case("an empty list", [("functools[]", "F")], [], False),
    Case("list not closed", [("functools[", "F"), *ITEM], [], False),
    Case("wrong key", [("functools[", "F"), *WRONG_KEY, ('", "args": {}}]', "F")], [], False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt="{{ '<|' + message['role'] + '|>' + '<|tool|>' + message['tools'] + '<|/tool|>' }}",
    tokens=("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>"),
)
