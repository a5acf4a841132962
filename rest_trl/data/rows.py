"""The row schemas: which columns tell them apart, and how a row of each becomes the steps it is trained on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from .messages import MalformedRowError, Message, normalize_messages, normalize_tools


Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """
    One step of a dialogue, trained on alone.

    Args:
        history (`str` or `list[dict]`):
            What the model sees: a prompt in its final form, or messages to be rendered.
        turn (`str` or `dict`):
            What the step is rewarded on: a completion in its final form, or an assistant message to be rendered. A
            message can only follow a history of messages.
        tools (`list[dict]`, *optional*):
            JSON schemas of the tools that the model can call.
    """

    history: str | list[Message]
    turn: str | Message
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Schema:
    """
    A row schema.

    Args:
        columns (`tuple[str, ...]`):
            The columns that a data set of this schema must have; others may be there too.
        description (`str`):
            What the rows are, for errors.
        to_steps (`Callable`):
            Function that turns a row with these columns into steps, or raises [`MalformedRowError`].
    """

    columns: tuple[str, ...]
    description: str
    to_steps: Callable[[Row], list[Step]]

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
        `list[Step]`: One step for each assistant turn from `start` on. Its history is all messages before the turn.

    Raises:
        [`MalformedRowError`]: If there is no such turn.
    """
    steps = [
        Step(messages[:index], message, tools)
        for index, message in enumerate(messages)
        if index >= start and message["role"] == "assistant"
    ]
    if not steps:
        raise MalformedRowError("there is no assistant turn to train on")
    return steps


def detect_schema(columns: Collection[str], source: str) -> Schema:
    """
    Find the schema of a data set.

    Args:
        columns (`Collection[str]`):
            The columns of the data set.
        source (`str`):
            Name of the data set, for the error.

    Returns:
        `Schema`: The first one of `SCHEMAS` that has all its columns in `columns`.

    Raises:
        `ValueError`: If there is none.
    """
    for schema in SCHEMAS:
        if set(schema.columns) <= set(columns):
            return schema
    supported = "; ".join(f"{' + '.join(schema.columns)} ({schema.description})" for schema in SCHEMAS)
    raise ValueError(
        f"{source}: the columns {', '.join(sorted(columns)) or '(none)'} match no supported schema. Rename the "
        f"columns to one of: {supported}."
    )


def _string(value: Any, label: str) -> str:
    if not isinstance(value, str):
        raise MalformedRowError(f"{label} is a {type(value).__name__}, not a string")
    return value


def _steps_of_rl_row(row: Row) -> list[Step]:
    reward_model = row["reward_model"]
    if not isinstance(reward_model, dict) or "ground_truth" not in reward_model:
        raise MalformedRowError("reward_model has no ground_truth")
    solution = _string(reward_model["ground_truth"], "reward_model.ground_truth")
    return [Step(normalize_messages(row["prompt"], "prompt"), solution)]


def _steps_of_sft_row(row: Row) -> list[Step]:
    history = [
        {"role": "system", "content": _string(row["instruction"], "instruction")},
        {"role": "user", "content": _string(row["input"], "input")},
    ]
    return [Step(history, _string(row["output"], "output"))]


def _steps_of_dialogue(row: Row) -> list[Step]:
    return decompose(normalize_messages(row["messages"], "messages"), normalize_tools(row.get("tools")))


def _steps_of_prompt_solution(row: Row) -> list[Step]:
    return [Step(_prompt(row["prompt"]), _string(row["solution"], "solution"), normalize_tools(row.get("tools")))]


def _steps_of_prompt_completion(row: Row) -> list[Step]:
    prompt, tools = _prompt(row["prompt"]), normalize_tools(row.get("tools"))
    if isinstance(row["completion"], str):
        return [Step(prompt, row["completion"], tools)]
    completion = normalize_messages(row["completion"], "completion")
    if isinstance(prompt, str):
        raise MalformedRowError("prompt is text but completion is messages: the turn cannot be rendered after it")
    return decompose(prompt + completion, tools, start=len(prompt))


def _prompt(prompt: Any) -> str | list[Message]:
    return prompt if isinstance(prompt, str) else normalize_messages(prompt, "prompt")


# In the order of precedence. RL rows come first, because they have a column `prompt` like others, and say more.
SCHEMAS = (
    Schema(("prompt", "reward_model"), "ToolRL/ResT RL rows", _steps_of_rl_row),
    Schema(("messages",), "dialogues, tools optional", _steps_of_dialogue),
    Schema(("prompt", "solution"), "prompt of text or messages, solution of text", _steps_of_prompt_solution),
    Schema(("prompt", "completion"), "each of text or messages, tools optional", _steps_of_prompt_completion),
    Schema(("instruction", "input", "output"), "ToolRL SFT rows", _steps_of_sft_row),
)
