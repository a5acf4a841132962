"""
The task `arguments`: one call with eight arguments, whose values stand in the request in another order.

    user       plan a trip from Rome to Oslo, on Friday, at 9, 3 seats, 2 bags, with Anna, lunch is soup
    reasoning  The values are in the request.
    call       plan_trip(origin="Rome", destination="Oslo", day="Friday", hour=9, seats=3, bags=2, ...)
"""

from random import Random
from typing import Any

from ..language import CITIES, DISHES, PEOPLE, TOPICS
from ..world import Call, Step
from .language import DAYS, OPENINGS, definition, shuffled


NUMBERS = tuple(range(2, 13))
# By parameter: its values and how a request says it.
PARAMETERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "origin": (CITIES, "from {}"),
    "destination": (CITIES, "to {}"),
    "city": (CITIES, "in {}"),
    "day": (DAYS, "on {}"),
    "hour": (NUMBERS, "at {}"),
    "seats": (NUMBERS, "{} seats"),
    "bags": (NUMBERS, "{} bags"),
    "tables": (NUMBERS, "{} tables"),
    "guests": (NUMBERS, "{} guests"),
    "host": (PEOPLE, "with {}"),
    "speaker": (PEOPLE, "hear {}"),
    "dish": (DISHES, "eat {}"),
    "topic": (TOPICS, "about {}"),
}
TOOLS: dict[str, tuple[str, ...]] = {
    "plan_trip": ("origin", "destination", "day", "hour", "seats", "bags", "host", "dish"),
    "plan_party": ("city", "day", "hour", "guests", "tables", "host", "speaker", "dish"),
    "plan_meeting": ("city", "day", "hour", "seats", "tables", "host", "speaker", "topic"),
}
REASONINGS = ("The values are in the request.", "I copy one value after the other.", "This looks easy enough.")


def tool(name: str) -> dict[str, Any]:
    """
    The definition of a tool of this task.

    Args:
        name (`str`):
            One of `TOOLS`.

    Returns:
        `dict[str, Any]`: an OpenAI function definition.
    """
    return definition(name, {key: "integer" if PARAMETERS[key][0] is NUMBERS else "string" for key in TOOLS[name]})


def sample_dialogue(rng: Random) -> list[Step]:
    """
    Draw a request and its one step.

    Args:
        rng (`random.Random`):
            Source of randomness.

    Returns:
        `list[Step]`
    """
    name = rng.choice(list(TOOLS))
    arguments: dict[str, Any] = {}
    for parameter in TOOLS[name]:
        values = [value for value in PARAMETERS[parameter][0] if value not in arguments.values()]
        arguments[parameter] = rng.choice(values)
    phrases = shuffled(rng, [PARAMETERS[key][1].format(value) for key, value in arguments.items()])
    request = f"{rng.choice(OPENINGS)}plan a {name.split('_')[1]}: {', '.join(phrases)}"
    call: Call = {"name": name, "arguments": arguments}
    messages = [{"role": "user", "content": request}]
    return [Step("arguments", [tool(name)], messages, rng.choice(REASONINGS), [call], "")]
