"""Calls written as tags around names and values, and Gemma's notation."""

from typing import Any

from . import Pieces


Call = tuple[str, dict[str, Any]]


def thought(text: str) -> Pieces:
    return [("<think>", "F"), (text, "R"), ("</think>", "F")]


WEATHER = (("city", "Oslo"), ("days", "3"))

WEATHER_CALL: Call = ("get_weather", {"city": "Oslo", "days": 3})

TYPED = (
    ("filters", '{"all": [{"age": [18, 65]}, {"ok": true}], "1": {}}'),
    ("ratio", "-2.5e-3"),
    ("on", "false"),
    ("none", "null"),
    ("x", "[[], [null]]"),
    ("version", "v1.2"),
)

TYPED_CALL: Call = (
    "search",
    {
        "filters": {"all": [{"age": [18, 65]}, {"ok": True}], "1": {}},
        "ratio": -0.0025,
        "on": False,
        "none": None,
        "x": [[], [None]],
        "version": "v1.2",
    },
)

UNICODE = (("città", "Zürich 東京 🌦"), ("größe", "☂️"))

UNICODE_CALL: Call = ("get_weather", {"città": "Zürich 東京 🌦", "größe": "☂️"})

CODE = "\n  if a > b and b < c:\n\treturn {'x': [1]}  # 3 > 2\n"

CODE_CALL: Call = ("write", {"path": "a b.py", "code": CODE})

NOTHING_OF_GEMMA: Pieces = [("I can say call:f{a:1} or {x} [y], but do not.", "A")]
