"""Llama 3: bare JSON objects."""

from . import Case, SyntaxCases, Template
from ._json import BARE, ONE_CALL, OSLO, WRONG_KEY, Writer, common, in_object, repeat


WRITER = Writer("", in_object("parameters"), "; ", "")

CASES: list[Case] = [
    *common(WRITER),
    Case("python tag", [("<|python_tag|>", "F"), *BARE], ONE_CALL),
    Case("the other key", in_object("arguments")(0, "get_weather", OSLO[0]), ONE_CALL),
    Case(
        "type first",
        [('{"type": "function", "name": "', "F"), ("f", "N"), ('", "parameters": ', "F"), ("{}", "P"), ("}", "F")],
        [("f", {})],
    ),
    Case(
        "arguments first",
        [('{"parameters": ', "F"), (OSLO[0], "P"), (', "name": "', "F"), ("get_weather", "N"), ('"}', "F")],
        ONE_CALL,
    ),
    Case("one call per line", [*BARE, ("\n", "F"), *BARE], ONE_CALL * 2),
    Case("two python tags", [("<|python_tag|>", "F"), *BARE, ("\n<|python_tag|>", "F"), *BARE], ONE_CALL * 2),
    repeat("the same call twice", BARE, ["get_weather"] * 2, True),
    Case("JSON for the user", [('The settings:\n{"temperature": 3}', "A")], []),
    Case("a set for the user", [("Take {1, 2} or {}.", "A")], []),
    Case("a brace voids the call", [("In {Norway}: ", "A"), *BARE], []),
    Case("wrong key", [*WRONG_KEY, ('", "args": ' + OSLO[0] + "}", "F")], [], False),
    Case("no name", [('{"parameters": ', "F"), (OSLO[0], "P"), ("}", "F")], [], False),
    Case("code after the tag", [("<|python_tag|>", "F"), ('brave_search.call(query="Oslo")', "A")], [], False),
    Case("missing brace", [('{"name": "', "F"), ("f", "N"), ('", "parameters": ', "F"), ('{"a": 1', "P")], [], False),
    Case("cut off in the name", [('{"name": "', "F"), ("get_wea", "N")], [], False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(Template("llama3_1", calls=1), Template("llama3_2", calls=1)),
    ends_of_turn=("<|eot_id|>",),
    excerpt='<|header_start|>{\\"name\\": function name, \\"parameters\\": dictionary of argument name...}',
    tokens=("<|python_tag|>", "<|eom_id|>"),
)
