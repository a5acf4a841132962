"""
Faulty demonstrations of the help desk, so that the warm-started model leaves room for reinforcement learning.

Much as in [`~rest_trl.lab.tiny.tasks.faults`], a third of the values are hard: a hard value is wrong half of the
time, and always in the same way, so each one must be learnt separately. The reasoning of a step states the same faulty
calls that the step makes.

The faulty calls are carried out. A call that fails is tried again, and later calls use what the faulty ones showed, so
the model also learns what to do after a fault; a policy that has never seen one writes junk there.
"""

import zlib
from random import Random
from typing import Any

from ..language import PEOPLE, TEAMS, TOPICS
from ..world import Call, Step
from .dialogues import Demonstration
from .tasks import LOOKUPS, NUMBERS, SUBJECTS, Task, sample_task


HARD = 3  # one value out of this many is hard
HARD_VALUE, EASY_VALUE = 0.5, 0.02  # shares of their uses that are wrong
# Shares of calls whose tool is exchanged, of turns of several calls that lack one, of turns before which the dialogue
# ends early, and of dialogues that make their last calls twice.
OTHER_TOOL, FORGOTTEN, ENDED, REPEATED = 0.10, 0.15, 0.05, 0.08
MAX_TURNS = 4
# For a tool, another one with the same parameters that takes its place.
TOOLS = {"close_ticket": "reopen_ticket", "reopen_ticket": "close_ticket", "get_owner": "close_ticket"}
WORDS = {"find_ticket": SUBJECTS, "get_lead": TEAMS, "send_message": TOPICS}


def _is_wrong(key: str, rng: Random) -> bool:
    return rng.random() < (HARD_VALUE if zlib.crc32(key.encode()) % HARD == 0 else EASY_VALUE)


def _faulty_value(tool: str, name: str, value: Any, rng: Random) -> Any:
    """The value, or a wrong one in its place, which is always the same for this value."""
    if not _is_wrong(f"{tool} {value}", rng):
        return value
    values = {"person": PEOPLE, "ticket": NUMBERS}.get(name) or WORDS[tool]
    return Random(f"{tool} {value}").choice([other for other in values if other != value])


def faulty_call(call: Call, rng: Random) -> Call:
    """
    Draw faults for a call.

    Args:
        call (`dict[str, Any]`):
            The call. Not modified.
        rng (`random.Random`):
            Chooses the faults.

    Returns:
        `dict[str, Any]`: the call with another tool or other values; without a fault, an equal one.
    """
    name = call["name"]
    if rng.random() < OTHER_TOOL:
        name = TOOLS.get(name, name)
    arguments = {key: _faulty_value(call["name"], key, value, rng) for key, value in call["arguments"].items()}
    return {"name": name, "arguments": arguments}


def play(task: Task, rng: Random) -> list[Step]:
    """
    Carry out the plan of a task with faults.

    Args:
        task ([`~rest_trl.lab.tiny.agents.tasks.Task`]):
            The task.
        rng (`random.Random`):
            Chooses the faults.

    Returns:
        `list[Step]`: as [`~rest_trl.lab.tiny.agents.dialogues.play`] returns them.
    """
    right, demonstration = Demonstration(task), Demonstration(task)
    shown: dict[Any, Any] = {}  # from what a lookup of the plan should show to what was shown
    golds = {id(call): result for calls in task.plan for call, result in zip(calls, right.call(calls), strict=True)}
    plan, again = list(task.plan), list[Call]()
    while (plan or again) and len(demonstration.steps) < MAX_TURNS and rng.random() >= ENDED:
        wanted, is_second = (again, True) if again else (plan.pop(0), False)
        made = [_with_shown(call, shown) for call in wanted]
        if not is_second:
            made = [faulty_call(call, rng) for call in made]
        forgotten = rng.randrange(len(made)) if len(made) > 1 and rng.random() < FORGOTTEN else None
        kept = [pair for place, pair in enumerate(zip(wanted, made, strict=True)) if place != forgotten]
        results = demonstration.call([call for _, call in kept])
        again = [wanted[forgotten]] if forgotten is not None and wanted[forgotten]["name"] in LOOKUPS else []
        for (want, call), result in zip(kept, results, strict=True):
            if isinstance(result, Exception) or (want["name"] in LOOKUPS and call["name"] != want["name"]):
                again += [] if is_second else [want]
            elif want["name"] in LOOKUPS:
                shown[golds[id(want)]] = result
    if demonstration.steps and rng.random() < REPEATED:
        demonstration.call(demonstration.steps[-1].calls)
    return demonstration.answer()


def _with_shown(call: Call, shown: dict[Any, Any]) -> Call:
    return {**call, "arguments": {name: shown.get(value, value) for name, value in call["arguments"].items()}}


def sample_dialogue(rng: Random) -> list[Step]:
    """
    Draw a task and play it with faults.

    Args:
        rng (`random.Random`):
            Source of randomness.

    Returns:
        `list[Step]`
    """
    return play(sample_task(rng), rng)
