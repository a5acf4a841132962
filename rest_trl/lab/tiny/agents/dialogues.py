"""Gold dialogues of the help desk, decomposed into their assistant steps: what a warm start learns from."""

import json
from functools import cache
from random import Random
from typing import Any

from ..world import Call, Step
from .desk import OutcomeHelpDesk
from .tasks import Task, sample_task


ANSWER = "Done."
NOTHING_LEFT = "nothing left"
# In the order in which TRL offers them.
TOOLS = (
    "assign_ticket",
    "close_ticket",
    "find_ticket",
    "get_lead",
    "get_owner",
    "reopen_ticket",
    "send_message",
)


@cache
def _definitions() -> str:
    from transformers.utils import get_json_schema  # imported here, because tasks need the standard library only

    return json.dumps([get_json_schema(getattr(OutcomeHelpDesk(), name)) for name in TOOLS])


def tool_definitions() -> list[dict[str, Any]]:
    """
    The tools of the help desk.

    Returns:
        `list[dict[str, Any]]`: OpenAI function definitions.
    """
    definitions: list[dict[str, Any]] = json.loads(_definitions())
    return definitions


def reasoning_of(calls: list[Call]) -> str:
    """
    The reasoning of a step, which decides its calls.

    Args:
        calls (`list[dict[str, Any]]`):
            The calls.

    Returns:
        `str`
    """
    return ", ".join(" ".join([call["name"], *map(str, call["arguments"].values())]) for call in calls) or NOTHING_LEFT


class Demonstration:
    """
    A dialogue that is carried out turn by turn.

    Args:
        task ([`~rest_trl.lab.tiny.agents.tasks.Task`]):
            The task.

    Attributes:
        steps (`list[Step]`):
            The steps so far. Their histories hold the reasonings of earlier steps, as they do in TRL's loop.
    """

    def __init__(self, task: Task) -> None:
        self.steps: list[Step] = []
        self._desk = OutcomeHelpDesk()
        self._desk.reset(task.to_json())
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": task.request}]

    def call(self, calls: list[Call]) -> list[Any]:
        """
        Add a turn of calls.

        Args:
            calls (`list[dict[str, Any]]`):
                The calls.

        Returns:
            `list`: their results. For a call that cannot be carried out, this is the exception.
        """
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
        """
        Add the answer at the end.

        Returns:
            `list[Step]`: all steps.
        """
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
    """
    Carry out the plan of a task.

    Args:
        task ([`~rest_trl.lab.tiny.agents.tasks.Task`]):
            The task.

    Returns:
        `list[Step]`: a step for every turn of the plan, and one for the answer at the end.
    """
    demonstration = Demonstration(task)
    for calls in task.plan:
        demonstration.call(calls)
    return demonstration.answer()


def sample_dialogue(rng: Random) -> list[Step]:
    """
    Draw a task and play it.

    Args:
        rng (`random.Random`):
            Source of randomness.

    Returns:
        `list[Step]`
    """
    return play(sample_task(rng))
