"""What every syntax with JSON arguments has to cope with, however the calls are marked."""

from collections.abc import Callable
from typing import Any, NamedTuple

from . import Case, Pieces


# Arguments as they are written, and as they are read.
OSLO = ('{"city": "Oslo"}', {"city": "Oslo"})

EMPTY: tuple[str, dict[str, Any]] = ("{}", {})

NESTED = (
    '{"where": {"city": "Oslo", "zone": {"name": "x"}}, "arguments": {"name": null}, "days": 3, "exact": -1.5e2}',
    {"where": {"city": "Oslo", "zone": {"name": "x"}}, "arguments": {"name": None}, "days": 3, "exact": -150.0},
)

LISTS = (
    '{"days": [1, 2.5, [true, null]], "places": [{"city": "Oslo"}, {}], "none": []}',
    {"days": [1, 2.5, [True, None]], "places": [{"city": "Oslo"}, {}], "none": []},
)

UNICODE = ('{"city": "Zürich 東京 🌦", "p\\u00e4th": "\\ud83c\\udf26"}', {"city": "Zürich 東京 🌦", "päth": "🌦"})

QUOTES = (
    '{"text": "say \\"hi\\", {then} C:\\\\", "code": "if (a) {\\n\\tb();\\n}", "empty": ""}',
    {"text": 'say "hi", {then} C:\\', "code": "if (a) {\n\tb();\n}", "empty": ""},
)

BRACKETS = ('{"text": "]}, [{", "end": "}]"}', {"text": "]}, [{", "end": "}]"})

SPACED = ('{ "city" :"Oslo" ,"days":  2 }', {"city": "Oslo", "days": 2})

LINES = ('{\n  "city": "Oslo",\n  "days": 2\n}', {"city": "Oslo", "days": 2})


class Writer(NamedTuple):
    """
    How calls are written: `opening`, then `call(index, name, arguments)` for each with `between`, then `closing`.

    `vllm_fails_at` are titles of completions that vLLM's parser cannot read although they are right.
    """

    opening: str
    call: Callable[[int, str, str], Pieces]
    between: str
    closing: str
    tags: tuple[str, str] = ("<think>", "</think>")
    vllm_fails_at: tuple[str, ...] = ()

    def write(self, *calls: tuple[str, str]) -> Pieces:
        pieces = [(self.opening, "F")]
        for index, (name, arguments) in enumerate(calls):
            pieces += [(self.between * (index > 0), "F"), *self.call(index, name, arguments)]
        return [*pieces, (self.closing, "F")]


def in_object(key: str) -> Callable[[int, str, str], Pieces]:
    def call(index: int, name: str, arguments: str) -> Pieces:
        return [('{"name": "', "F"), (name, "N"), (f'", "{key}": ', "F"), (arguments, "P"), ("}", "F")]

    return call


def behind_name(before: str, separator: str, after: str) -> Callable[[int, str, str], Pieces]:
    def call(index: int, name: str, arguments: str) -> Pieces:
        return [(before, "F"), (name, "N"), (separator.format(index), "F"), (arguments, "P"), (after, "F")]

    return call


def common(writer: Writer) -> list[Case]:
    """What every syntax has to cope with."""
    think, end_think = writer.tags
    one, one_call = writer.write(("get_weather", OSLO[0])), [("get_weather", OSLO[1])]
    quote = "".join(text for text, _ in writer.write(("f", "{}")))
    markers = quote.replace("f", "...").replace("{}", "...")
    first = writer.call(0, "get_weather", "")
    head = [(writer.opening, "F"), *first[: [letter for _, letter in first].index("P")]]  # up to the arguments

    def single(title: str, arguments: tuple[str, dict[str, Any]], name: str = "get_weather") -> Case:
        return Case(
            title, writer.write((name, arguments[0])), [(name, arguments[1])], title not in writer.vllm_fails_at
        )

    several = [("get_weather", OSLO), ("get_time", EMPTY), ("get_weather", SPACED)]
    cases = [
        single("one call", OSLO),
        single("no arguments", EMPTY, "get_time"),
        single("nested", NESTED),
        single("lists", LISTS),
        single("unicode", UNICODE),
        single("quotes and braces in strings", QUOTES),
        single("brackets in strings", BRACKETS),
        single("free white space", SPACED),
        single("line breaks", LINES),
        single("dotted name", OSLO, "weather-2.get_it"),
        Case(
            "several calls",
            writer.write(*((name, arguments[0]) for name, arguments in several)),
            [(name, arguments[1]) for name, arguments in several],
        ),
        Case(
            "reasoning before",
            [(think, "F"), ("\nOslo, so {weather}.\n", "R"), (f"{end_think}\n\n", "F"), *one],
            one_call,
        ),
        Case(
            "reasoning opened by the prompt",
            [("\nOslo, so weather.\n", "R"), (f"{end_think}\n", "F"), *one],
            one_call,
        ),
        Case(
            "reasoning that quotes a call",
            [(think, "F"), (f" I could write {quote} or {think}. ", "R"), (f"{end_think}\n", "F"), *one],
            one_call,
            False,  # cut off before the reasoning ends, it is a call
        ),
        Case(
            "reasoning that quotes markers",
            [(think, "F"), (f" I could write {markers} or {think}. ", "R"), (f"{end_think}\n", "F"), *one],
            one_call,
            "reasoning that quotes markers" not in writer.vllm_fails_at,
        ),
        single("the closing tag in a string", (f'{{"text": "a {end_think} b"}}', {"text": f"a {end_think} b"})),
        Case(
            "reasoning, then an answer",
            [(think, "F"), ("I know it.", "R"), (end_think, "F"), ("\n\nIt is 7 °C.", "A")],
            [],
        ),
        Case("no call", [("It is 7 °C in Oslo, I think.\n", "A")], []),
        Case("nothing", [], []),
        Case("text before", [("Let me look.\n\n", "A"), *one], one_call),
        Case("text after", [*one, ("\n\nDone.", "A")], one_call),
        Case("unclosed reasoning", [(think, "F"), (" Oslo, so weather.\n", "R"), *one], one_call, False),
        Case("unclosed reasoning without a call", [(think, "F"), (" Oslo, so", "R")], []),
        Case("cut off in a string", [*head, ('{"city": "Os', "P")], [], False),
        Case("cut off in a key", [*head, ('{"city": {"a": 1}, "da', "P")], [], False),
        Case("cut off in a list", [*head, ('{"city": ["Oslo", ', "P")], [], False),
        Case("no value", writer.write(("get_weather", '{"city": }')), [], False),
        Case("missing comma", writer.write(("get_weather", '{"city": "Oslo" "days": [1, 2]}')), [], False),
        Case("single quotes", writer.write(("get_weather", "{'city': 'Oslo'}")), [], False),
        Case("one broken call of two", writer.write(("get_time", "{}"), ("get_weather", '{"city": Oslo}')), [], False),
        Case("a broken call first", writer.write(("get_weather", '{"city": Oslo}'), ("get_time", "{}")), [], False),
        Case("arguments in a list", writer.write(("get_weather", '["Oslo"]')), [], False),
    ]
    return cases


def repeat(title: str, calls: Pieces, names: list[str], well_formed: bool) -> Case:
    return Case(title, [*calls, ("\n", "F"), *calls], [(name, OSLO[1]) for name in names], well_formed)


ONE_CALL = [("get_weather", OSLO[1])]

BARE = in_object("parameters")(0, "get_weather", OSLO[0])

ITEM = in_object("arguments")(0, "get_weather", OSLO[0])

WRONG_KEY = in_object("args")(0, "get_weather", "")[:2]
