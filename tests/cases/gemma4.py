"""Gemma 4: keys without quotes, strings between special tokens."""

from . import VLLM, Case, Pieces, SyntaxCases, Template
from ._tags import NOTHING_OF_GEMMA, WEATHER_CALL, Call


def gemma(name: str, arguments: str) -> Pieces:
    return [("<|tool_call>call:", "F"), (name, "N"), (arguments, "P"), ("<tool_call|>", "F")]


GEMMA_NESTED = (
    '{filters:{all:[{age:[18,65]},{age:[70,80]}],ok:true,one:{}},on:false,ratio:-2.5e-3,x:[[],[<|"|>a<|"|>]]}'
)

GEMMA_NESTED_CALL: Call = (
    "search",
    {
        "filters": {"all": [{"age": [18, 65]}, {"age": [70, 80]}], "ok": True, "one": {}},
        "on": False,
        "ratio": -0.0025,
        "x": [[], ["a"]],
    },
)

GEMMA_WEATHER = gemma("get_weather", '{city:<|"|>Oslo<|"|>,days:3}')

CASES: list[Case] = [
    Case("one call", GEMMA_WEATHER, [WEATHER_CALL]),
    Case(
        "several",
        [*GEMMA_WEATHER, *gemma("now", "{}"), ("\n", "F"), *gemma("f_2", "{a:-1}")],
        [WEATHER_CALL, ("now", {}), ("f_2", {"a": -1})],
    ),
    Case("nested", gemma("search", GEMMA_NESTED), [GEMMA_NESTED_CALL]),
    Case("unicode", gemma("f", '{città:<|"|>Zürich 東京 🌦<|"|>}'), [("f", {"città": "Zürich 東京 🌦"})]),
    Case(
        "strings may hold anything",
        gemma("f", '{a:<|"|>x"}],{b:1, call:g{}\n<|"|>,c:<|"|>3<|"|>}'),
        [("f", {"a": 'x"}],{b:1, call:g{}\n', "c": "3"})],
    ),
    Case(
        "quoted keys, white space",
        gemma("f", '{<|"|>a<|"|>: 1, b : [ 1 , 2 ]\n}'),
        [("f", {"a": 1, "b": [1, 2]})],
    ),
    Case("a bare string", gemma("f", "{at:12:30,city:New York}"), [("f", {"at": "12:30", "city": "New York"})]),
    Case("a name with dots", gemma("api.get-it", "{a:1}"), [("api.get-it", {"a": 1})]),
    Case("empty arguments", gemma("now", "{}"), [("now", {})]),
    Case(
        "reasoning",
        [("<|channel>thought\n", "F"), ("Oslo.\n", "R"), ("<channel|>", "F"), *GEMMA_WEATHER],
        [WEATHER_CALL],
    ),
    Case("no reasoning", [("<|channel>thought\n<channel|>", "F"), *GEMMA_WEATHER], [WEATHER_CALL]),
    Case(
        "reasoning that quotes braces",
        [("<|channel>thought\n", "F"), ("call:f{a:1} or <tool_call>", "R"), ("<channel|>", "F"), *GEMMA_WEATHER],
        [WEATHER_CALL],
    ),
    Case("reasoning opened by the prompt", [("Oslo.", "R"), ("<channel|>", "F"), *GEMMA_WEATHER], [WEATHER_CALL]),
    Case("text before and after", [("I look.\n", "A"), *GEMMA_WEATHER, ("\nDone.", "A")], [WEATHER_CALL]),
    Case("asks for the result", [*GEMMA_WEATHER, ("<|tool_response>", "F")], [WEATHER_CALL]),
    Case("no call", NOTHING_OF_GEMMA, []),
    Case("duplicate block", [*gemma("now", "{}"), *gemma("now", "{}")], [("now", {}), ("now", {})]),
    Case("never closed string", gemma("f", '{a:<|"|>x}'), [], well_formed=False),
    Case("never closed braces", gemma("f", "{a:{b:1}"), [], well_formed=False),
    Case("a missing value", gemma("f", "{a:,b:1}"), [], well_formed=False),
    Case("a missing key", gemma("f", '{<|"|>x<|"|>}'), [], well_formed=False),
    Case(
        "JSON instead",
        [('<|tool_call>{"name": "f", "arguments": {}}<tool_call|>', "F")],
        [],
        well_formed=False,
    ),
    Case("text after the arguments", [*gemma("f", "{a:1}")[:-1], (" so<tool_call|>", "F")], [], well_formed=False),
    Case("truncated", gemma("get_weather", '{days:3,city:<|"|>Os')[:-1], [], well_formed=False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(
        Template("diffusion_gemma"),
        Template("gemma4"),
        Template("gemma4_v2"),
        Template("gemma4_v3"),
        Template("gemma4_v4"),
        Template("gemma4_v5"),
    ),
    ends_of_turn=("<turn|>", "<|tool_response>"),
    tokens=("<|tool_call>", "<tool_call|>"),
    vllm=VLLM(reasoning_parser="gemma4", extra_tokens=("<|turn>",)),
)
