"""FunctionGemma: as Gemma 4, with other tokens."""

from . import Case, Pieces, SyntaxCases
from ._tags import NOTHING_OF_GEMMA, WEATHER_CALL, thought


def function_gemma(name: str, arguments: str) -> Pieces:
    return [("<start_function_call>call:", "F"), (name, "N"), (arguments, "P"), ("<end_function_call>", "F")]


FUNCTION_GEMMA_WEATHER = function_gemma("get_weather", "{city:<escape>Oslo<escape>,days:<escape>3<escape>}")

CASES: list[Case] = [
    Case("one call", FUNCTION_GEMMA_WEATHER, [WEATHER_CALL]),
    Case(
        "several",
        [*FUNCTION_GEMMA_WEATHER, *function_gemma("now", "{}"), *function_gemma("f", "{a:<escape>b<escape>}")],
        [WEATHER_CALL, ("now", {}), ("f", {"a": "b"})],
    ),
    Case(
        "JSON in a value",
        function_gemma("f", '{a:<escape>{"b": [1, null]}<escape>,c:<escape>true<escape>}'),
        [("f", {"a": {"b": [1, None]}, "c": True})],
    ),
    Case(
        "unicode",
        function_gemma("f", "{città:<escape>Zürich 東京 🌦<escape>}"),
        [("f", {"città": "Zürich 東京 🌦"})],
    ),
    Case(
        "strings may hold anything",
        function_gemma("f", "{a:<escape>x\"}],{b:1, call:g{} 'y'\n<escape>}"),
        [("f", {"a": "x\"}],{b:1, call:g{} 'y'\n"})],
    ),
    Case("empty arguments", function_gemma("now", "{}"), [("now", {})]),
    Case(
        "white space",
        function_gemma("f", "{a:<escape>x<escape>, b:<escape>y<escape>}"),
        [("f", {"a": "x", "b": "y"})],
    ),
    # vLLM's parser reads delimited values only, whereas the model writes numbers and lists without.
    Case("bare values", function_gemma("f", "{a:3,b:true}"), [("f", {"a": 3, "b": True})], well_formed=False),
    Case(
        "nested",
        function_gemma("f", "{a:{b:<escape>x<escape>,c:[1,<escape>y<escape>]}}"),
        [("f", {"a": {"b": "x", "c": [1, "y"]}})],
        well_formed=False,
    ),
    Case("reasoning", [*thought(" Oslo. "), ("\n", "F"), *FUNCTION_GEMMA_WEATHER], [WEATHER_CALL]),
    Case(
        "reasoning that quotes calls",
        [*thought("<start_function_call> call it <end_function_call>"), *FUNCTION_GEMMA_WEATHER],
        [WEATHER_CALL],
    ),
    Case(
        "reasoning opened by the prompt",
        [("Oslo.", "R"), ("</think>", "F"), *FUNCTION_GEMMA_WEATHER],
        [WEATHER_CALL],
    ),
    Case("text before and after", [("I look.\n", "A"), *FUNCTION_GEMMA_WEATHER, ("\nDone.", "A")], [WEATHER_CALL]),
    Case("asks for the result", [*FUNCTION_GEMMA_WEATHER, ("<start_function_response>", "F")], [WEATHER_CALL]),
    Case("no call", NOTHING_OF_GEMMA, []),
    Case("duplicate block", [*function_gemma("now", "{}") * 2], [("now", {}), ("now", {})]),
    Case("never closed string", function_gemma("f", "{a:<escape>x}"), [], well_formed=False),
    Case("never closed braces", function_gemma("f", "{a:<escape>x<escape>"), [], well_formed=False),
    Case("a missing key", function_gemma("f", "{<escape>x<escape>}"), [], well_formed=False),
    Case(
        "no call: prefix",
        [("<start_function_call>f{a:1}<end_function_call>", "F")],
        [],
        well_formed=False,
    ),
    Case("truncated", function_gemma("get_weather", "{city:<escape>Os")[:-1], [], well_formed=False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt="{{ '<start_function_call>call:' + function['name'] + '{' }}",
    tokens=("<start_function_call>", "<end_function_call>", "<escape>"),
)
