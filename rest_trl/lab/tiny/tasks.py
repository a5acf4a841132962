"""
Three tasks of one step beside the world, so that a finding on one can be checked on the others.

`decides`: no value of the call stands in the request; the gold reasoning works each of them out. Each of the two
amounts takes two sums, and the day takes one step, so five results can be wrong independently.

    user       rent 4 and 8 plates and 5 more, 9 cups and 7 less 2, 2 days after Friday
    reasoning  plates 4+8=12+5=17. cups 9+7=16-2=14. day Friday + 2 = Sunday.
    call       rent_dishes(plates=17, cups=14, day="Sunday")

`calls`: two to four calls in parallel, whose values stand in the request.

    user       wake me at 7 on Friday, then ask Anna about the budget
    reasoning  set_alarm, send_note.
    calls      set_alarm(hour=7, day="Friday"), send_note(person="Anna", topic="budget")

`arguments`: one call with eight arguments, whose values stand in the request in another order.

    user       plan a trip: from Rome, to Oslo, on Friday, at 9, 3 seats, 2 bags, with Anna, eat soup
    reasoning  The values are in the request.
    call       plan_trip(origin="Rome", destination="Oslo", day="Friday", hour=9, seats=3, bags=2, ...)
"""

from collections.abc import Callable, Iterator
from itertools import product
from random import Random
from typing import Any

from .language import CITIES, DISHES, PEOPLE, TOPICS
from .world import Call, Split, Step, function_definition, generate


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
OPENINGS = ("", "please ", "hello, ", "okay, ")
NUMBERS = tuple(range(2, 13))

# decides
VERBS = ("order", "rent", "return", "ship")
# What each group of goods counts. A request names these and not the group.
GOODS = {
    "dishes": ("plates", "cups"),
    "seats": ("chairs", "benches"),
    "tools": ("hammers", "saws"),
    "mail": ("letters", "parcels"),
}
NAMES = tuple(f"{verb}_{group}" for verb, group in product(VERBS, GOODS))
AMOUNT_REQUESTS = {
    "+": ("{a} and {b} {noun} and {c} more", "{a} {noun} and {b} and {c} more"),
    "-": ("{a} and {b} {noun} less {c}", "{a} {noun} and {b} less {c}"),
}
DAY_REQUESTS = {"+": "{shift} days after {day}", "-": "{shift} days before {day}"}

# calls. By tool: the values of each parameter, and requests with one slot per parameter.
CALL_TOOLS: dict[str, tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]] = {
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

# arguments. By parameter: its values and how a request says it.
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
PLAN_TOOLS: dict[str, tuple[str, ...]] = {
    "plan_trip": ("origin", "destination", "day", "hour", "seats", "bags", "host", "dish"),
    "plan_party": ("city", "day", "hour", "guests", "tables", "host", "speaker", "dish"),
    "plan_meeting": ("city", "day", "hour", "seats", "tables", "host", "speaker", "topic"),
}
REASONINGS = ("The values are in the request.", "I copy one value after the other.", "This looks easy enough.")


def _definition(name: str, values: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    types = {key: "integer" if choices == NUMBERS else "string" for key, choices in values.items()}
    return function_definition(name, "", {key: {"type": kind} for key, kind in types.items()})


def _shuffled(rng: Random, items: list[Any]) -> list[Any]:
    return rng.sample(items, len(items))


def _draw(values: dict[str, tuple[Any, ...]], rng: Random) -> dict[str, Any]:
    """Arguments, all of them different."""
    arguments: dict[str, Any] = {}
    for parameter, choices in values.items():
        arguments[parameter] = rng.choice([choice for choice in choices if choice not in arguments.values()])
    return arguments


def _step(kind: str, tools: list[dict[str, Any]], request: str, reasoning: str, calls: list[Call]) -> list[Step]:
    return [Step(kind, tools, [{"role": "user", "content": request}], reasoning, calls, "")]


def _amount(noun: str, rng: Random) -> tuple[str, str, int, set[int]]:
    """Request, working, result and the numbers of the request."""
    a, b, c = (rng.randint(2, 9) for _ in range(3))
    sign = rng.choice("+-")
    total = a + b
    result = total + c if sign == "+" else total - c
    request = rng.choice(AMOUNT_REQUESTS[sign]).format(a=a, b=b, c=c, noun=noun)
    return request, f"{noun} {a}+{b}={total}{sign}{c}={result}.", result, {a, b, c}


def _day(rng: Random) -> tuple[str, str, str, int]:
    """Request, working, result and the number of the request."""
    day, shift, sign = rng.choice(DAYS), rng.randint(2, 5), rng.choice("+-")
    result = DAYS[(DAYS.index(day) + (shift if sign == "+" else -shift)) % len(DAYS)]
    return DAY_REQUESTS[sign].format(shift=shift, day=day), f"day {day} {sign} {shift} = {result}.", result, shift


def _sample_decides(rng: Random) -> list[Step]:
    verb, group = rng.choice(VERBS), rng.choice(list(GOODS))
    name = f"{verb}_{group}"
    others = [other for other in NAMES if other != name and (verb in other or group in other)]
    offered = _shuffled(rng, [name, rng.choice(others)])
    first, second = GOODS[group]
    while True:  # until the results are positive, differ, and are no numbers of the request
        request_1, working_1, result_1, numbers_1 = _amount(first, rng)
        request_2, working_2, result_2, numbers_2 = _amount(second, rng)
        day_request, day_working, day, shift = _day(rng)
        results = {result_1, result_2}
        if min(results) > 0 and len(results) == 2 and not results & (numbers_1 | numbers_2 | {shift}):
            break
    amounts = ", ".join(_shuffled(rng, [request_1, request_2]))
    request = f"{rng.choice(OPENINGS)}{verb} {amounts}, {day_request}"
    call: Call = {"name": name, "arguments": {first: result_1, second: result_2, "day": day}}
    tools = [
        _definition(other, {**dict.fromkeys(GOODS[other.split("_")[1]], NUMBERS), "day": DAYS}) for other in offered
    ]
    return _step("decides", tools, request, " ".join([working_1, working_2, day_working]), [call])


def _sample_calls(rng: Random) -> list[Step]:
    (num_calls,) = rng.choices(list(NUM_CALLS), weights=list(NUM_CALLS.values()))
    phrases: list[str] = []
    calls: list[Call] = []
    for name in rng.choices(list(CALL_TOOLS), k=num_calls):  # one tool may be called twice
        values, requests = CALL_TOOLS[name]
        arguments = _draw(values, rng)
        phrases.append(rng.choice(requests).format(**arguments))
        calls.append({"name": name, "arguments": arguments})
    offered = _shuffled(rng, list(dict.fromkeys(call["name"] for call in calls)))
    request = rng.choice(OPENINGS) + ", then ".join(phrases)
    reasoning = f"{', '.join(call['name'] for call in calls)}."
    return _step("calls", [_definition(name, CALL_TOOLS[name][0]) for name in offered], request, reasoning, calls)


def _sample_arguments(rng: Random) -> list[Step]:
    name = rng.choice(list(PLAN_TOOLS))
    values = {parameter: PARAMETERS[parameter][0] for parameter in PLAN_TOOLS[name]}
    arguments = _draw(values, rng)
    phrases = _shuffled(rng, [PARAMETERS[key][1].format(value) for key, value in arguments.items()])
    request = f"{rng.choice(OPENINGS)}plan a {name.split('_')[1]}: {', '.join(phrases)}"
    call: Call = {"name": name, "arguments": arguments}
    return _step("arguments", [_definition(name, values)], request, rng.choice(REASONINGS), [call])


# How each task draws its step.
TASKS: dict[str, Callable[[Random], list[Step]]] = {
    "decides": _sample_decides,
    "calls": _sample_calls,
    "arguments": _sample_arguments,
}


def generate_task(task: str, split: Split, seed: int = 0) -> Iterator[Step]:
    """
    Distinct steps of a task's split without end, as [`~rest_trl.lab.tiny.world.generate`] yields them.

    Args:
        task (`str`):
            `"decides"`, `"calls"` or `"arguments"`.
        split (`str`):
            `"train"` or `"test"`. No request of one split occurs in the other, whatever the seeds.
        seed (`int`, *optional*, defaults to `0`):
            The same seed gives the same stream.

    Raises:
        ValueError: if there is no such task or split.
    """
    if task not in TASKS:
        raise ValueError(f"Unknown task {task!r} of the tiny world: use one of {', '.join(TASKS)}.")
    return generate(split, seed, TASKS[task])
