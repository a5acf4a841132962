"""
The task `calls`: two to four calls in parallel, whose values stand in the request.

    user       wake me at 7 on Friday, then ask Anna about the budget
    reasoning  set_alarm, send_note.
    calls      set_alarm(hour=7, day="Friday"), send_note(person="Anna", topic="budget")
"""

from random import Random
from typing import Any

from ..language import CITIES, DISHES, PEOPLE, TOPICS
from ..world import Call, Step
from .language import DAYS, OPENINGS, definition, shuffled


NUMBERS = tuple(range(2, 13))
# By tool: the values of each parameter, and requests with one slot per parameter.
TOOLS: dict[str, tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]] = {
    "set_alarm": ({"hour": NUMBERS, "day": DAYS}, ("wake me at {hour} on {day}", "on {day} wake me at {hour}")),
    "send_note": (
        {"person": PEOPLE, "topic": TOPICS},
        ("ask {person} about the {topic}", "write about the {topic} to {person}"),
    ),
    "order_meal": ({"dish": DISHES, "count": NUMBERS}, ("get {count} {dish}", "I want {dish} for {count}")),
    "find_train": (
        {"origin": CITIES, "destination": CITIES},
        ("{origin} to {destination}", "go to {destination} from {origin}"),
    ),
    "check_weather": ({"city": CITIES, "day": DAYS}, ("how is {city} on {day}", "on {day} how is {city}")),
    "book_room": (
        {"city": CITIES, "nights": NUMBERS},
        ("stay {nights} nights in {city}", "in {city} for {nights} nights"),
    ),
}
NUM_CALLS = {2: 0.5, 3: 0.3, 4: 0.2}  # shares of the requests
JOINT = ", then "


def tool(name: str) -> dict[str, Any]:
    """
    The definition of a tool of this task.

    Args:
        name (`str`):
            One of `TOOLS`.

    Returns:
        `dict[str, Any]`: an OpenAI function definition.
    """
    values = TOOLS[name][0]
    return definition(name, {key: "integer" if value is NUMBERS else "string" for key, value in values.items()})


def sample_dialogue(rng: Random) -> list[Step]:
    """
    Draw a request and its one step.

    Args:
        rng (`random.Random`):
            Source of randomness.

    Returns:
        `list[Step]`
    """
    (num_calls,) = rng.choices(list(NUM_CALLS), weights=list(NUM_CALLS.values()))
    phrases: list[str] = []
    calls: list[Call] = []
    for name in rng.choices(list(TOOLS), k=num_calls):  # one tool may be called twice
        values, requests = TOOLS[name]
        arguments: dict[str, Any] = {}
        for parameter, choices in values.items():
            arguments[parameter] = rng.choice([choice for choice in choices if choice not in arguments.values()])
        phrases.append(rng.choice(requests).format(**arguments))
        calls.append({"name": name, "arguments": arguments})
    offered = shuffled(rng, list(dict.fromkeys(call["name"] for call in calls)))
    messages = [{"role": "user", "content": rng.choice(OPENINGS) + JOINT.join(phrases)}]
    reasoning = f"{', '.join(call['name'] for call in calls)}."
    return [Step("calls", [tool(name) for name in offered], messages, reasoning, calls, "")]
