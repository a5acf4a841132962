"""Lists of calls written as Python."""

from typing import Any

from . import Pieces


WEATHER: Pieces = [("[", "F"), ("get_weather", "N"), ("(", "F"), ('city="Oslo", days=3', "P"), (")]", "F")]

WEATHER_CALL: tuple[str, dict[str, Any]] = ("get_weather", {"city": "Oslo", "days": 3})


def one(name: str, arguments: str) -> Pieces:
    """A list of one call."""
    return [("[", "F"), (name, "N"), ("(", "F"), (arguments, "P"), (")]", "F")]


def thought(text: str) -> Pieces:
    return [("<think>", "F"), (text, "R"), ("</think>", "F")]


SEVERAL: Pieces = [
    *[("[", "F"), ("get_weather", "N"), ("(", "F"), ('city="Oslo"', "P"), ("), ", "F")],
    *[("now", "N"), ("(),\n ", "F"), ("f_2", "N"), ("(", "F"), ("a=-1, b=None,", "P"), (")]", "F")],
]

SEVERAL_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": "Oslo"}),
    ("now", {}),
    ("f_2", {"a": -1, "b": None}),
]

NESTED = """filters={"all": [{"age": (18, 65)}, {'ok': True}], "1": {}}, tags={'a', "b"}, on=false, x=[[], [null]]"""

NESTED_CALL: tuple[str, dict[str, Any]] = (
    "search",
    {
        "filters": {"all": [{"age": [18, 65]}, {"ok": True}], "1": {}},
        "tags": ["a", "b"],
        "on": False,
        "x": [[], [None]],
    },
)

QUOTES = r"""a="it's [f(x=1)], \"so\"", b='C:\\dir\\', c="\u00fc\n\x41\101\q", d=r"\d+", e="""

QUOTES += '"""two\nlines"""'

QUOTES_CALL: tuple[str, dict[str, Any]] = (
    "say",
    {
        "a": 'it\'s [f(x=1)], "so"',
        "b": "C:\\dir\\",
        "c": "ü\nAA\\q",
        "d": r"\d+",
        "e": "two\nlines",
    },
)

NUMBERS = "a=+1, b=-2.5e-3, c=0x1F, d=1_000, e=.5, f=1., g=00, h=-0"

NUMBERS_CALL: tuple[str, dict[str, Any]] = (
    "add",
    {"a": 1, "b": -0.0025, "c": 31, "d": 1000, "e": 0.5, "f": 1.0, "g": 0, "h": 0},
)

UNICODE = "città='Zürich 東京 🌦', größe=\"☂️\""

UNICODE_CALL: tuple[str, dict[str, Any]] = ("get_weather", {"città": "Zürich 東京 🌦", "größe": "☂️"})
