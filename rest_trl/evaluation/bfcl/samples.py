"""Questions, answers and verdicts of BFCL."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...tool_calls import ToolCall


# A sample's calls: those of its turn, or None if they could not be read; of a dialogue, turns of steps of such calls.
Calls = Sequence[ToolCall] | None
Dialogue = Sequence[Sequence[Calls]]


class BFCLError(RuntimeError):
    """The official package, or the setup of its environment, failed."""


@dataclass(frozen=True)
class Case:
    """
    A question of BFCL as a model is asked it.

    Args:
        id (`str`):
            The official name of the sample.
        turns (`list[list[dict]]`):
            The messages that open each turn; single-turn categories have one turn.
        functions (`list[dict]`):
            The official descriptions of the functions, with the official hint on the language. Types have the names
            that the official prompts show (`"dict"`, `"float"`, ...).
        functions_added (`dict[int, list[dict]]`):
            Functions that become available at the start of a turn, by its index.
        classes (`list[str]`):
            The simulators that a dialogue works on.
    """

    id: str
    turns: list[list[dict[str, Any]]]
    functions: list[dict[str, Any]]
    functions_added: dict[int, list[dict[str, Any]]]
    classes: list[str]


@dataclass(frozen=True)
class Verdict:
    """
    What the official checker says.

    Args:
        valid (`bool`):
            Whether the sample is answered correctly.
        error_type (`str`):
            The official kind of error; empty if there is none.
        error (`str`):
            What is wrong; empty if nothing is.
    """

    valid: bool
    error_type: str
    error: str


def encode(calls: Any) -> str:
    """JSON of calls, null where there is none: a value that cannot be written makes a call that nobody can execute."""
    if calls is None:
        return "null"
    if isinstance(calls, ToolCall):
        return json.dumps({"name": calls.name, "arguments": calls.arguments})
    return "[" + ",".join(encode(call) for call in calls) + "]"
