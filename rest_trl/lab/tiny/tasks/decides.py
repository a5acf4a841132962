"""
The task `decides`: no value of the call stands in the request; the gold reasoning works each of them out.

    user       rent 4 and 8 plates and 5 more, 9 cups and 7 less 2, 2 days after Friday
    reasoning  plates 4+8=12+5=17. cups 9+7=16-2=14. day Friday + 2 = Sunday.
    call       rent_dishes(plates=17, cups=14, day="Sunday")

Each of the two amounts takes two sums, and the day takes one step, so five results can be wrong independently.
"""

from itertools import product
from random import Random
from typing import Any

from ..world import Call, Step
from .language import DAYS, OPENINGS, definition, shuffled


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


def tool(name: str) -> dict[str, Any]:
    """
    The definition of a tool of this task.

    Args:
        name (`str`):
            One of `NAMES`.

    Returns:
        `dict[str, Any]`: an OpenAI function definition.
    """
    first, second = GOODS[name.split("_")[1]]
    return definition(name, {first: "integer", second: "integer", "day": "string"})


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


def sample_dialogue(rng: Random) -> list[Step]:
    """
    Draw a request and its one step.

    Args:
        rng (`random.Random`):
            Source of randomness.

    Returns:
        `list[Step]`
    """
    verb, group = rng.choice(VERBS), rng.choice(list(GOODS))
    name = f"{verb}_{group}"
    others = [other for other in NAMES if other != name and (verb in other or group in other)]
    offered = shuffled(rng, [name, rng.choice(others)])
    first, second = GOODS[group]
    while True:  # until the results are positive, differ, and are no numbers of the request
        (request_1, working_1, result_1, numbers_1), (request_2, working_2, result_2, numbers_2) = (
            _amount(first, rng),
            _amount(second, rng),
        )
        day_request, day_working, day, shift = _day(rng)
        if (
            min(result_1, result_2) > 0
            and result_1 != result_2
            and not {result_1, result_2} & (numbers_1 | numbers_2 | {shift})
        ):
            break
    amounts = ", ".join(shuffled(rng, [request_1, request_2]))
    request = f"{rng.choice(OPENINGS)}{verb} {amounts}, {day_request}"
    call: Call = {"name": name, "arguments": {first: result_1, second: result_2, "day": day}}
    messages = [{"role": "user", "content": request}]
    reasoning = " ".join([working_1, working_2, day_working])
    return [Step("decides", [tool(other) for other in offered], messages, reasoning, [call], "")]
