"""
Faulty demonstrations, so that the warm-started models leave room for reinforcement learning.

A faulty step of the world has one fault. In a task, faults are drawn independently for each place of a step: a result
of the reasoning, the name of a call, a parameter, a value. The rest of the reasoning continues with a wrong result,
and so does the call.

A quarter of the sums and of the shifts of a day are hard: half of the time their result is wrong, always with the same
wrong value. Each of them must be learnt separately, so reinforcement learning has to do more than sharpen the policy.
"""

import re
import zlib
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

from . import tasks
from .tools import TOOLS
from .world import Call, Step, sample_arguments


HARD = 4  # one sum out of this many is hard
HARD_RESULT, EASY_RESULT = 0.5, 0.03  # shares of their results that are wrong
# Shares of other places that are faulty, by task.
NAME = {"decides": 0.10, "calls": 0.04, "arguments": 0.04}
PARAMETER = {"decides": 0.02, "calls": 0.01, "arguments": 0.02}
VALUE = {"decides": 0.05, "calls": 0.05, "arguments": 0.05}
FORGOTTEN = 0.15  # share of the requests for several calls, of which one is left out

NAMES = {"decides": tasks.NAMES, "calls": tuple(tasks.CALL_TOOLS), "arguments": tuple(tasks.PLAN_TOOLS)}
PARAMETERS = {
    "decides": tuple(noun for nouns in tasks.GOODS.values() for noun in nouns),
    "calls": tuple(dict.fromkeys(name for values, _ in tasks.CALL_TOOLS.values() for name in values)),
    "arguments": tuple(tasks.PARAMETERS),
}
_AMOUNT = re.compile(r"(\w+) (\d)\+(\d)=\d+([+-])(\d)=\d+\.")
_DAY = re.compile(r"day (\w+) ([+-]) (\d) = \w+\.")


def _swap_arguments(call: Call) -> bool:
    """Swap the first two arguments of equal type in place. Returns whether there were two of equal type."""
    arguments = call["arguments"]
    for first, second in combinations(arguments, 2):
        if type(arguments[first]) is type(arguments[second]):
            arguments[first], arguments[second] = arguments[second], arguments[first]
            return True
    return False


def _change_value(call: Call, rng: Random) -> None:
    name = rng.choice(list(call["arguments"]))
    while (value := TOOLS[call["name"]].parameters[name].sample(rng)[1]) == call["arguments"][name]:
        pass
    call["arguments"][name] = value


def _other_call(step: Step, taken: set[str], rng: Random) -> Call:
    offered = [tool["function"]["name"] for tool in step.tools]
    name = rng.choice([name for name in offered if name not in taken] or offered)
    return {"name": name, "arguments": sample_arguments(name, rng)[1]}


def corrupt_world(step: Step, rng: Random) -> Step:
    """
    A copy of a gold step of the world with one fault in its calls: swapped arguments, a wrong value, a wrong tool, a
    forgotten call of two, or a call where none is due.
    """
    if not step.calls:
        return replace(step, calls=[_other_call(step, set(), rng)], answer="")
    calls = deepcopy(step.calls)
    index = rng.randrange(len(calls))
    fault = rng.choice(("swap", "value", "tool", "forget"))
    if fault == "forget" and len(calls) > 1:
        del calls[index]
    elif fault == "tool":
        calls[index] = _other_call(step, {call["name"] for call in calls}, rng)
    elif fault != "swap" or not _swap_arguments(calls[index]):
        _change_value(calls[index], rng)
    return replace(step, calls=calls)


def _other(choices: Any, value: Any, rng: Random) -> Any:
    return rng.choice([choice for choice in choices if choice != value])


def _slips(working: str, rng: Random) -> bool:
    """Whether the result of a working is wrong."""
    return rng.random() < (HARD_RESULT if zlib.crc32(working.encode()) % HARD == 0 else EASY_RESULT)


def _add(left: int, right: int, rng: Random) -> int:
    """The sum, or a number near it, which for these summands is always the same."""
    working, result = f"{left}{right:+d}", max(1, left + right)
    if not _slips(working, rng):
        return result
    return Random(working).choice([result + shift for shift in (-2, -1, 1, 2) if result + shift > 0])


def slip_in_reasoning(reasoning: str, rng: Random) -> tuple[str, dict[str, Any]]:
    """Work the values of a gold reasoning of `decides` out again, with slips; the arguments that it ends with, too."""
    workings: list[str] = []
    arguments: dict[str, Any] = {}
    for noun, a, b, sign, c in _AMOUNT.findall(reasoning):
        total = _add(int(a), int(b), rng)
        result = _add(total, int(f"{sign}{c}"), rng)
        workings.append(f"{noun} {a}+{b}={total}{sign}{c}={result}.")
        arguments[noun] = result
    ((day, sign, shift),) = _DAY.findall(reasoning)
    result_day = tasks.DAYS[(tasks.DAYS.index(day) + int(f"{sign}{shift}")) % len(tasks.DAYS)]
    if _slips(f"{day}{sign}{shift}", rng):
        result_day = _other(tasks.DAYS, result_day, Random(f"{day}{sign}{shift}"))
    arguments["day"] = result_day
    return " ".join([*workings, f"day {day} {sign} {shift} = {result_day}."]), arguments


def _faulty_call(call: Call, kind: str, rng: Random) -> Call:
    name, arguments = call["name"], dict(call["arguments"])
    for parameter, value in arguments.items():
        if rng.random() < VALUE[kind]:
            of_its_type = [other for other in arguments.values() if type(other) is type(value) and other != value]
            if of_its_type and rng.random() < 0.5:
                arguments[parameter] = rng.choice(of_its_type)
            else:
                arguments[parameter] = _another_value(parameter, value, kind, rng)
    keys = {
        parameter: _other(PARAMETERS[kind], parameter, rng) if rng.random() < PARAMETER[kind] else parameter
        for parameter in arguments
    }
    if rng.random() < NAME[kind]:
        name = _other(NAMES[kind], name, rng)
    return {"name": name, "arguments": {keys[parameter]: value for parameter, value in arguments.items()}}


def _another_value(parameter: str, value: Any, kind: str, rng: Random) -> Any:
    if isinstance(value, int):
        return rng.choice([other for other in (value - 2, value - 1, value + 1, value + 2) if other > 0])
    if kind == "decides":
        return _other(tasks.DAYS, value, rng)
    if kind == "arguments":
        return _other(tasks.PARAMETERS[parameter][0], value, rng)
    of_calls = (values[parameter] for values, _ in tasks.CALL_TOOLS.values() if parameter in values)
    return _other(next(of_calls), value, rng)


def corrupt_task(step: Step, rng: Random) -> Step:
    """A copy of a gold step of a task, in whose reasoning and calls faults are drawn; without one, an equal step."""
    reasoning, calls = step.reasoning, deepcopy(step.calls)
    if step.kind == "decides":
        reasoning, calls[0]["arguments"] = slip_in_reasoning(reasoning, rng)
    if len(calls) > 1 and rng.random() < FORGOTTEN:
        del calls[rng.randrange(len(calls))]
    return replace(step, reasoning=reasoning, calls=[_faulty_call(call, step.kind, rng) for call in calls])
