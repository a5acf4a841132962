"""Llama 4 and ToolACE: a bare list of Python calls."""

from . import VLLM, Case, SyntaxCases
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


# No model of the syntax reasons, so vLLM's parser is never handed what follows reasoning.
NO_SPACE_BEFORE_LIST = VLLM(fails="vLLM takes no white space before the list")

CASES: list[Case] = [
    Case("one call", WEATHER, [WEATHER_CALL]),
    Case("several", SEVERAL, SEVERAL_CALLS),
    Case("nested", one("search", NESTED), [NESTED_CALL]),
    Case("unicode", one("get_weather", UNICODE), [UNICODE_CALL]),
    Case("quotes and escapes", one("say", QUOTES), [QUOTES_CALL]),
    Case("strings side by side", one("say", "a='one ' \"string\""), [("say", {"a": "one string"})]),
    Case("numbers", one("add", NUMBERS), [NUMBERS_CALL]),
    Case(
        "Llama 4 tags",
        [("<|python_start|>", "F"), *WEATHER, ("<|python_end|>", "F")],
        [WEATHER_CALL],
        vllm=VLLM("llama4_pythonic"),
    ),
    Case(
        "reasoning", [*thought("\nOslo, then.\n"), ("\n\n", "F"), *WEATHER], [WEATHER_CALL], vllm=NO_SPACE_BEFORE_LIST
    ),
    Case("reasoning right before", [*thought("\nOslo, then.\n"), *WEATHER], [WEATHER_CALL]),
    Case(
        "reasoning that quotes calls",
        [*thought('I write\n[get_weather(city="Rome")]\nor <|python_start|>.'), ("\n", "F"), *WEATHER],
        [WEATHER_CALL],
        vllm=NO_SPACE_BEFORE_LIST,
    ),
    Case("reasoning opened by the prompt", [("Oslo.", "R"), ("</think>", "F"), *WEATHER], [WEATHER_CALL]),
    Case("a tag in a string", one("say", 'a="x <think> y"'), [("say", {"a": "x <think> y"})]),
    Case("a closing tag in a string", one("say", 'a="</think>"'), [("say", {"a": "</think>"})]),
    Case("empty arguments", [("[", "F"), ("now", "N"), ("()]", "F")], [("now", {})]),
    Case("no call", [("It is 3 degrees in a[f(x)], see [1](http://x.org) or [].", "A")], []),
    Case("text before", [("Let me look.\n", "A"), *WEATHER], [], well_formed=False),
    Case("text after", [*WEATHER, ("\nDone, it is cold.", "A")], [], well_formed=False),
    Case("duplicate list", [*WEATHER, ("\n", "F"), *WEATHER], [WEATHER_CALL], well_formed=False),
    Case(
        "no comma",
        [*[("[", "F"), ("f", "N"), ("(", "F"), ("a=[1 2], b=3", "P")], *[("), ", "F"), ("g", "N"), ("()]", "F")]],
        [],
        well_formed=False,
    ),
    Case("a variable", one("f", "a=city"), [], well_formed=False),
    Case("a call as a value", one("f", "a=g(b=1), c=2"), [], well_formed=False),
    Case("positional", one("f", "1, b='x'"), [], well_formed=False),
    Case("a prefix that Python does not know", one("f", "a=rr'x'"), [], well_formed=False),
    Case("a keyword of Python", one("f", "from=1"), [], well_formed=False),
    Case("a line break in a string", one("f", "a='x\ny'"), [], well_formed=False),
    Case(
        "truncated in a string",
        [("[", "F"), ("get_weather", "N"), ("(", "F"), ('days=3, city="Os', "P")],
        [],
        well_formed=False,
    ),
    Case(
        "truncated after a call",
        [("[", "F"), ("f", "N"), ("(", "F"), ("a=1", "P"), ("), ", "F"), ("g", "N"), ("(", "F")],
        [],
        well_formed=False,
    ),
    Case(
        "brackets that do not match",
        [("[", "F"), ("f", "N"), ("(", "F"), ("a=[{1", "P"), ("), ", "F"), ("g", "N"), ("()]", "F")],
        [],
        well_formed=False,
    ),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt="Use exact format: [func_name1(param1=value1, param2=value2), func_name2(...)]",
)
