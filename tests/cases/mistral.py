"""Mistral: a marker per call, or one JSON list."""

from . import VLLM, Case, SyntaxCases
from ._json import ITEM, ONE_CALL, OSLO, WRONG_KEY, Writer, behind_name, common, in_object, repeat


THINK = ("[THINK]", "[/THINK]")
# vLLM ends the reasoning at [TOOL_CALLS], which a model cannot quote where it is a special token.
WRITER = Writer("", behind_name("[TOOL_CALLS]", "[ARGS]", ""), "", "", THINK, ("reasoning that quotes markers",))
LIST_WRITER = Writer("[TOOL_CALLS][", in_object("arguments"), ", ", "]", THINK, ("reasoning that quotes markers",))
# Tokenizers before v11 have no [ARGS], and their models write lists.
OLD_TOKENIZER = VLLM(reasoning_parser="mistral", missing_tokens=("[ARGS]",))
ONE = WRITER.write(("get_weather", OSLO[0]))

CASES: list[Case] = [
    *common(WRITER),
    *[case._replace(title=f"list: {case.title}", vllm=OLD_TOKENIZER) for case in common(LIST_WRITER)],
    Case(
        "no [ARGS]",
        [("[TOOL_CALLS]", "F"), ("f", "N"), (OSLO[0], "P"), *ONE],
        [("f", OSLO[1]), *ONE_CALL],
    ),
    repeat("duplicate block", ONE, ["get_weather"] * 2, True),
    Case(
        "call id",
        [("[TOOL_CALLS]", "F"), ("f", "N"), ("[CALL_ID]a1B2c3D4e[ARGS]", "F"), (OSLO[0], "P")],
        [("f", OSLO[1])],
        False,  # vLLM keeps the id in the name
    ),
    Case(
        "list: ids",
        [("[TOOL_CALLS] [", "F"), *ITEM[:-1], (', "id": "a1B2c3D4e"}]', "F")],
        ONE_CALL,
        vllm=OLD_TOKENIZER,
    ),
    Case(
        "list: duplicate block",
        [*LIST_WRITER.write(("get_weather", OSLO[0])), *LIST_WRITER.write(("get_weather", OSLO[0]))],
        [],
        False,
    ),
    Case("list: an empty list", [("[TOOL_CALLS][]", "F")], [], False),
    Case("list: an object instead", [("[TOOL_CALLS]", "F"), *ITEM], [], False),
    Case("list: wrong key", [("[TOOL_CALLS][", "F"), *WRONG_KEY, ('", "args": {}}]', "F")], [], False),
    Case("no name", [("[TOOL_CALLS][ARGS]", "F"), (OSLO[0], "P")], [], False),
    Case("no arguments at all", [("[TOOL_CALLS]", "F"), ("get_weather", "N"), ("[ARGS]", "F")], [], False),
    Case("cut off in the name", [("[TOOL_CALLS]", "F"), ("get_wea", "N")], [], False),
    Case("only the marker", [("[TOOL_CALLS]", "F")], [], False),
    Case("the think tags of others", [("<think>\nfor the user\n</think>", "A")], []),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt='{{- "[TOOL_CALLS] [" }}',
    tokens=("[TOOL_CALLS]", "[INST]"),
    vllm=VLLM(reasoning_parser="mistral"),
)
