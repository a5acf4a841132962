"""Faulty demonstrations, so that the warm-started model leaves room for reinforcement learning."""

from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from random import Random

from .tools import TOOLS
from .world import Call, Step, sample_arguments


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


def corrupt(step: Step, rng: Random) -> Step:
    """
    Put a fault into the calls of a demonstration.

    Args:
        step (`Step`):
            A gold step. Not modified.
        rng (`random.Random`):
            Chooses the fault: swapped arguments, a wrong value, a wrong tool, a forgotten call of two, or a call where
            none is due.

    Returns:
        `Step`: the step with other calls and the same reasoning.
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
