"""
Dialogues of the help desk, decomposed into their assistant steps: what a warm start learns from.

Faulty ones leave room for reinforcement learning. Much as in [`~rest_trl.lab.tiny.faults`], a third of the values are
hard: a hard value is wrong half of the time, and always in the same way, so each one must be learnt separately. The
reasoning of a step states the same faulty calls that the step makes. The faulty calls are carried out: a call that
fails is tried again, and later calls use what the faulty ones showed, so the model also learns what to do after a
fault; a policy that has never seen one writes junk there.
"""

import json
import zlib
from functools import cache
from random import Random
from typing import Any

from ..language import PEOPLE, TEAMS, TOPICS
from ..world import Call, Step
from .desk import OutcomeHelpDesk
from .desk_tasks import LOOKUPS, NUMBERS, SUBJECTS, Task, sample_task


ANSWER = "Done."
NOTHING_LEFT = "nothing left"
# In the order in which TRL offers them.
TOOLS = ("assign_ticket", "close_ticket", "find_ticket", "get_lead", "get_owner", "reopen_ticket", "send_message")

HARD = 3  # one value out of this many is hard
HARD_VALUE, EASY_VALUE = 0.5, 0.02  # shares of their uses that are wrong
# Shares of calls whose tool is exchanged, of turns of several calls that lack one, of turns before which the dialogue
# ends early, and of dialogues that make their last calls twice.
OTHER_TOOL, FORGOTTEN, ENDED, REPEATED = 0.10, 0.15, 0.05, 0.08
MAX_TURNS = 4
# For a tool, another one with the same parameters that takes its place.
_IN_PLACE = {"close_ticket": "reopen_ticket", "reopen_ticket": "close_ticket", "get_owner": "close_ticket"}
_WORDS = {"find_ticket": SUBJECTS, "get_lead": TEAMS, "send_message": TOPICS}


@cache
def _definitions() -> str:
    from transformers.utils import get_json_schema  # imported here, because tasks need the standard library only

    return json.dumps([get_json_schema(getattr(OutcomeHelpDesk(), name)) for name in TOOLS])


def tool_definitions() -> list[dict[str, Any]]:
    """The tools of the help desk, as OpenAI function definitions."""
    definitions: list[dict[str, Any]] = json.loads(_definitions())
    return definitions


def reasoning_of(calls: list[Call]) -> str:
    """The reasoning of a step, which decides its calls."""
    return ", ".join(" ".join([call["name"], *map(str, call["arguments"].values())]) for call in calls) or NOTHING_LEFT


class Demonstration:
    """
    A dialogue that is carried out turn by turn.

    The histories of its `steps` hold the reasonings of earlier steps, as they do in TRL's loop.
    """

    def __init__(self, task: Task) -> None:
        self.steps: list[Step] = []
        self._desk = OutcomeHelpDesk()
        self._desk.reset(task.to_json())
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": task.request}]

    def call(self, calls: list[Call]) -> list[Any]:
        """Add a turn of calls. Of a call that cannot be carried out, the result is the exception."""
        reasoning = reasoning_of(calls)
        self.steps.append(Step("agents", tool_definitions(), self._messages, reasoning, calls, ""))
        turn = {
            "role": "assistant",
            "reasoning_content": reasoning,
            "content": "",
            "tool_calls": [{"type": "function", "function": call} for call in calls],
        }
        results = [self._carry_out(call) for call in calls]
        shown = [
            {"role": "tool", "name": call["name"], "content": str(_as_trl_shows_it(result))}
            for call, result in zip(calls, results, strict=True)
        ]
        self._messages = [*self._messages, turn, *shown]
        return results

    def answer(self) -> list[Step]:
        """Add the answer at the end, and return all steps."""
        self.steps.append(Step("agents", tool_definitions(), self._messages, NOTHING_LEFT, [], ANSWER))
        return self.steps

    def _carry_out(self, call: Call) -> Any:
        try:
            return getattr(self._desk, call["name"])(**call["arguments"])
        except (TypeError, ValueError) as error:
            return error


def _as_trl_shows_it(result: Any) -> Any:
    return {"error": str(result)} if isinstance(result, Exception) else result


def play(task: Task) -> list[Step]:
    """Carry out the plan of a task: a step for every turn of the plan, and one for the answer at the end."""
    demonstration = Demonstration(task)
    for calls in task.plan:
        demonstration.call(calls)
    return demonstration.answer()


def sample_dialogue(rng: Random) -> list[Step]:
    """Draw a task and play it."""
    return play(sample_task(rng))


def _is_wrong(key: str, rng: Random) -> bool:
    return rng.random() < (HARD_VALUE if zlib.crc32(key.encode()) % HARD == 0 else EASY_VALUE)


def _faulty_value(tool: str, name: str, value: Any, rng: Random) -> Any:
    """The value, or a wrong one in its place, which is always the same for this value."""
    if not _is_wrong(f"{tool} {value}", rng):
        return value
    values = {"person": PEOPLE, "ticket": NUMBERS}.get(name) or _WORDS[tool]
    return Random(f"{tool} {value}").choice([other for other in values if other != value])


def faulty_call(call: Call, rng: Random) -> Call:
    """A copy of a call with another tool or other values; without a fault, an equal one."""
    name = call["name"]
    if rng.random() < OTHER_TOOL:
        name = _IN_PLACE.get(name, name)
    arguments = {key: _faulty_value(call["name"], key, value, rng) for key, value in call["arguments"].items()}
    return {"name": name, "arguments": arguments}


def play_with_faults(task: Task, rng: Random) -> list[Step]:
    """Carry out the plan of a task with faults."""
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


def sample_faulty_dialogue(rng: Random) -> list[Step]:
    """Draw a task and play it with faults."""
    return play_with_faults(sample_task(rng), rng)
