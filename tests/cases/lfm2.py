"""LFM2: a list of Python calls between tags."""

from . import Case, Pieces, SyntaxCases, Template
from ._pythonic import (
    NESTED,
    NESTED_CALL,
    NUMBERS,
    NUMBERS_CALL,
    QUOTES,
    QUOTES_CALL,
    SEVERAL,
    SEVERAL_CALLS,
    UNICODE,
    UNICODE_CALL,
    WEATHER,
    WEATHER_CALL,
    one,
    thought,
)


START, END = "<|tool_call_start|>", "<|tool_call_end|>"


def tagged(pieces: Pieces) -> Pieces:
    return [(START, "F"), *pieces, (END, "F")]


CASES: list[Case] = [
    Case("one call", tagged(WEATHER), [WEATHER_CALL]),
    Case("several", tagged(SEVERAL), SEVERAL_CALLS),
    Case("nested", tagged(one("search", NESTED)), [NESTED_CALL]),
    Case("unicode", tagged(one("get_weather", UNICODE)), [UNICODE_CALL]),
    Case("quotes and escapes", tagged(one("say", QUOTES)), [QUOTES_CALL]),
    Case("numbers", tagged(one("add", NUMBERS)), [NUMBERS_CALL]),
    Case("a name with dots", tagged(one("api.v1.get", "a=1")), [("api.v1.get", {"a": 1})]),
    Case("text before and after", [("Sure.\n", "A"), *tagged(WEATHER), ("\nDone.", "A")], [WEATHER_CALL]),
    Case("white space", tagged([("\n ", "F"), *WEATHER, ("\n", "F")]), [WEATHER_CALL]),
    Case("reasoning", [*thought("\nOslo.\n"), ("\n", "F"), *tagged(WEATHER)], [WEATHER_CALL]),
    Case(
        "reasoning that quotes calls",
        [*thought(f"I write {START}[f()]{END}, don't I?"), *tagged(WEATHER)],
        [WEATHER_CALL],
        well_formed=False,  # not once it is cut off: a call ends reasoning that is never closed
    ),
    Case("reasoning opened by the prompt", [("Oslo.", "R"), ("</think>", "F"), *tagged(WEATHER)], [WEATHER_CALL]),
    Case("empty arguments", tagged([("[", "F"), ("now", "N"), ("()]", "F")]), [("now", {})]),
    Case("no call", [('It is [f(a="x")] that I would call.', "A")], []),
    Case("nested quotes", tagged(one("sh", "cmd='sed -n '1,9p' a.py'")), [("sh", {"cmd": "sed -n '1,9p' a.py"})]),
    Case("an apostrophe", tagged(one("say", "a='it's', b=1")), [("say", {"a": "it's", "b": 1})]),
    Case("a line break in a string", tagged(one("f", "a='x\ny'")), [("f", {"a": "x\ny"})]),
    Case("padded, a keyword", tagged(one("f", "from=07, in=1.5")), [("f", {"from": 7, "in": 1.5})]),
    Case("duplicate block", [*tagged(WEATHER), *tagged(WEATHER)], [WEATHER_CALL], well_formed=False),
    Case("never closed", [(START, "F"), *WEATHER], [WEATHER_CALL]),
    Case("an empty list", tagged([("[]", "F")]), [], well_formed=False),
    Case("JSON", tagged([('[{"name": "f", "arguments": {}}]', "F")]), [], well_formed=False),
    Case("junk after the list", tagged([*WEATHER, (" and so", "F")]), [], well_formed=False),
    Case("broken value", tagged(one("f", "a=1 2, b={")[:-1]), [], well_formed=False),
    Case(
        "truncated",
        [(START, "F"), ("[", "F"), ("get_weather", "N"), ("(", "F"), ("city='Os", "P")],
        [],
        well_formed=False,
    ),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(
        Template("lfm2", calls=0),
        Template("lfm2_v2"),
        Template("lfm2_2_5"),
        Template("lfm2_2_5_v2"),
        Template("lfm2_2_5_vl"),
    ),
    ends_of_turn=("<|im_end|>",),
    tokens=("<|tool_call_start|>", "<|tool_call_end|>"),
)
