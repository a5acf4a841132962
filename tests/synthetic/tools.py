"""Invented tools, with values that are hard to carry: braces and quotes in strings, nested objects, other scripts."""

from dataclasses import dataclass
from random import Random
from typing import Any


WORDS = ("harbour", "copper", "violet", "granite", "orchard", "lantern", "meadow", "falcon")
HARD_TEXTS = (
    'a "quoted" word',
    "curly {brace}",
    "half a } brace",
    "straße 東京",
    "comma, colon: done",
    "back\\slash",
    "one\ttab",
    "🛰️",
)


@dataclass(frozen=True)
class Tool:
    """A tool: what it is called, what it does, and the type of each parameter."""

    name: str
    description: str
    parameters: dict[str, str]


TOOLS = (
    Tool("MoorBoat", "Reserves a berth for a boat.", {"boat": "str", "berth": "int", "nights": "int"}),
    Tool("WeighCargo", "Weighs the cargo of a boat.", {"boat": "str", "kilograms": "float"}),
    Tool("ListTides", "Lists the tides of this week.", {}),
    Tool("PaintHull", "Has a hull painted.", {"colours": "list(str)", "glossy": "bool"}),
    Tool("CallPilot", "Calls a pilot on board.", {"channel": "int", "message": "str"}),
    Tool("StoreCrates", "Stores crates in a hall.", {"crates": "list", "hall": "str"}),
    Tool("SignLogbook", "Signs the logbook.", {"captain": "str", "remark": "str"}),
    Tool("Ring Bell", "Rings the harbour's bell.", {"times": "int"}),
)


def value_of(kind: str, rng: Random) -> Any:
    """A value of an API-Bank type."""
    if kind == "str":
        return rng.choice((*WORDS, *HARD_TEXTS))
    if kind == "int":
        return rng.randint(0, 400)
    if kind == "float":
        return rng.randint(1, 4000) / 8
    if kind == "bool":
        return rng.random() < 0.5
    return rng.sample(WORDS, rng.randint(1, 3))


def nested_value(rng: Random) -> dict[str, Any]:
    """An object in an object, which none of the types above describes."""
    return {"inner": {rng.choice(WORDS): [rng.randint(0, 9), None, rng.choice(HARD_TEXTS)]}}
