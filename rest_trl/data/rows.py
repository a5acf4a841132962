"""What a row schema is, and the steps that a row becomes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .messages import MalformedRowError, Message


Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """
    One step of a dialogue, which becomes one training example.

    Args:
        history (`str` or `list[dict]`):
            What the model sees: a prompt in its final form, or messages to be rendered.
        turn (`str` or `dict`):
            What the step is rewarded on: a completion in its final form, or an assistant message to be rendered. A
            message can only follow a history of messages.
        tools (`list[dict]`, *optional*):
            JSON schemas of the tools that the model can call.
        notes (`tuple[str, ...]`, *optional*, defaults to `()`):
            What a user should know about how the row was read. The report counts each note.
    """

    history: str | list[Message]
    turn: str | Message
    tools: list[dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """
    A row schema.

    Args:
        columns (`tuple[str, ...]`):
            The columns that a data set of this schema must have; others may be there too.
        description (`str`):
            What the rows are, for reports and errors.
        to_steps (`Callable`):
            Function that turns a row with these columns into steps, or raises [`MalformedRowError`].
        looks_so (`Callable`, *optional*):
            Function that tells whether a row with these columns is of this schema. Only needed if other schemas have
            the same columns.
    """

    columns: tuple[str, ...]
    description: str
    to_steps: Callable[[Row], list[Step]]
    looks_so: Callable[[Row], bool] | None = None

    def steps(self, row: Row) -> list[Step]:
        """
        Turn a row into its steps.

        Args:
            row (`dict`):
                The row.

        Returns:
            `list[Step]`: The steps in the order of the dialogue.

        Raises:
            [`MalformedRowError`]: If a column is missing or null, or its value cannot be used.
        """
        for column in self.columns:
            if row.get(column) is None:
                raise MalformedRowError(f"{column} is missing or null")
        return self.to_steps(row)


def decompose(messages: list[Message], tools: list[dict[str, Any]] | None = None, start: int = 0) -> list[Step]:
    """
    Decompose a dialogue into its assistant turns (ResT, arXiv 2509.21826, single-turn decomposition).

    Args:
        messages (`list[dict]`):
            The dialogue.
        tools (`list[dict]`, *optional*):
            JSON schemas of its tools.
        start (`int`, *optional*, defaults to `0`):
            Index of the first message to train on. The messages before it are only history.

    Returns:
        `list[Step]`: One step for each assistant turn from `start` on, except turns whose `weight` (a key of OpenAI's)
        is 0. The history of a step is all messages before its turn.

    Raises:
        [`MalformedRowError`]: If there is no such turn.
    """
    turns = [index for index, m in enumerate(messages) if index >= start and m["role"] == "assistant"]
    trained = [index for index in turns if messages[index].get("weight") != 0]
    if not trained:
        left_out = f": all {len(turns)} have the weight 0" if turns else ""
        raise MalformedRowError(f"there is no assistant turn to train on{left_out}")
    steps = [Step(messages[:index], messages[index], tools) for index in trained]
    notes = ("assistant turn of weight 0, which is history alone",) * (len(turns) - len(trained))
    return [replace(steps[0], notes=notes), *steps[1:]]


def text(value: Any, label: str) -> str:
    """
    Check that a value is text.

    Args:
        value (`Any`):
            The value.
        label (`str`):
            What it is, for the error.

    Returns:
        `str`: The value.

    Raises:
        [`MalformedRowError`]: If it is not a string.
    """
    if not isinstance(value, str):
        raise MalformedRowError(f"{label} is a {type(value).__name__}, not a string")
    return value
