"""Questions, answers and verdicts of BFCL."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....tool_calls import ToolCall


# The calls of one step, or None if they could not be read. A dialogue consists of turns, and these of steps.
Calls = Sequence[ToolCall] | None
Dialogue = Sequence[Sequence[Calls]]


class BFCLError(RuntimeError):
    """The official package, or the setup of its environment, failed."""


@dataclass(frozen=True)
class Case:
    """
    A question of BFCL in the form in which it is put to a model.

    Args:
        id (`str`):
            The official name of the sample.
        turns (`list[list[dict]]`):
            The messages that open each turn. Single-turn categories have one turn.
        functions (`list[dict]`):
            The official descriptions of the functions, with the official hint about the programming language. Types
            have their official names, such as `"dict"` and `"float"`.
        functions_added (`dict[int, list[dict]]`):
            The functions that become available at the start of a turn, by the turn's index.
    """

    id: str
    turns: list[list[dict[str, Any]]]
    functions: list[dict[str, Any]]
    functions_added: dict[int, list[dict[str, Any]]]


@dataclass(frozen=True)
class Verdict:
    """
    The result of the official checker.

    Args:
        valid (`bool`):
            Whether the sample is answered correctly.
        error_type (`str`):
            The official kind of error, empty if there is none.
        error (`str`):
            What is wrong, empty if nothing is.
    """

    valid: bool
    error_type: str
    error: str


def encode(calls: Any) -> str:
    """
    Write calls as JSON.

    Args:
        calls (`Any`):
            A call, `None`, or nested sequences of these.

    Returns:
        `str`

    Raises:
        ValueError, RecursionError: if a value cannot be written as JSON. Such a call could not be executed either.
    """
    if calls is None:
        return "null"
    if isinstance(calls, ToolCall):
        return json.dumps({"name": calls.name, "arguments": calls.arguments})
    return "[" + ",".join(encode(call) for call in calls) + "]"
