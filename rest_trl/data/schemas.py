"""The row schemas: which columns and rows tell them apart, and how a row of each becomes its steps."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from .messages import MalformedRowError, Message, normalize_messages, normalize_tools
from .queries import looks_like_hammer, steps_of_hammer_row, steps_of_query
from .rows import Row, Schema, Step, decompose, text
from .sharegpt import looks_like_role_content, looks_like_sharegpt, steps_of_sharegpt
from .toolace import looks_like_toolace, steps_of_toolace
from .tools import json_schemas


FIRST_ROWS = 20  # [ours] enough to tell schemas apart, and quick to read
SYSTEM_NOTE = "column system is left out: the messages have a system message that says something else"


def detect_schema(columns: Collection[str], rows: Sequence[Row], source: str) -> tuple[Schema, str]:
    """
    Find the schema of a data set.

    Args:
        columns (`Collection[str]`):
            The columns of the data set.
        rows (`Sequence[dict]`):
            Its first rows that can be read, which decide between schemas with the same columns.
        source (`str`):
            Name of the data set, for the error.

    Returns:
        `tuple[Schema, str]`: The first of `SCHEMAS` whose columns are all there and, if it has a `looks_so`, which
        most of the rows with these columns look like; and how it was recognized.

    Raises:
        `ValueError`: If no schema fits.
    """
    candidates = [schema for schema in SCHEMAS if set(schema.columns) <= set(columns)]
    seen: dict[str, int] = {}
    for schema in candidates:
        names = " + ".join(schema.columns)
        if schema.looks_so is None:
            return schema, f"by {names}"
        complete = [row for row in rows if all(row.get(column) is not None for column in schema.columns)]
        seen[schema.description] = sum(map(schema.looks_so, complete))
        if seen[schema.description] * 2 > len(complete):
            return schema, f"by {names} and {seen[schema.description]} of the first {len(complete)} rows"
    if seen:
        counts = ", ".join(f"{count} {description}" for description, count in seen.items())
        raise ValueError(
            f"{source}: the columns fit, but most of the first {len(rows)} rows have no supported schema (found: "
            f"{counts}). Bring its rows to one schema, or split the file."
        )
    supported = "; ".join(f"{' + '.join(schema.columns)} ({schema.description})" for schema in SCHEMAS)
    raise ValueError(
        f"{source}: the columns {', '.join(sorted(columns)) or '(none)'} match no supported schema. Rename the "
        f"columns to one of: {supported}."
    )


def _steps_of_rl_row(row: Row) -> list[Step]:
    reward_model = row["reward_model"]
    if not isinstance(reward_model, dict) or "ground_truth" not in reward_model:
        raise MalformedRowError("reward_model has no ground_truth")
    solution = text(reward_model["ground_truth"], "reward_model.ground_truth")
    return [Step(normalize_messages(row["prompt"], "prompt"), solution)]


def _steps_of_sft_row(row: Row) -> list[Step]:
    history = [
        {"role": "system", "content": text(row["instruction"], "instruction")},
        {"role": "user", "content": text(row["input"], "input")},
    ]
    return [Step(history, text(row["output"], "output"))]


def _steps_of_dialogue(row: Row) -> list[Step]:
    tools = normalize_tools(row.get("tools"))
    if tools is None:  # `functions` is OpenAI's older name of the column
        tools = json_schemas(row.get("functions"))
    messages = normalize_messages(row["messages"], "messages")
    system = row.get("system")
    told = [message["content"] for message in messages if message["role"] == "system"]
    if system and not told:
        messages = [{"role": "system", "content": text(system, "system")}, *messages]
    steps = decompose(messages, tools)
    if system and told and system not in told:
        steps[0] = replace(steps[0], notes=(*steps[0].notes, SYSTEM_NOTE))
    return steps


def _steps_of_prompt_solution(row: Row) -> list[Step]:
    return [Step(_prompt(row["prompt"]), text(row["solution"], "solution"), normalize_tools(row.get("tools")))]


def _steps_of_prompt_completion(row: Row) -> list[Step]:
    prompt, tools = _prompt(row["prompt"]), normalize_tools(row.get("tools"))
    if isinstance(row["completion"], str):
        return [Step(prompt, row["completion"], tools)]
    completion = normalize_messages(row["completion"], "completion")
    if isinstance(prompt, str):
        raise MalformedRowError("prompt is text but completion is messages: the turn cannot be rendered after it")
    return decompose(prompt + completion, tools, start=len(prompt))


def _steps_of_role_content(row: Row) -> list[Step]:
    return _steps_of_dialogue({**row, "messages": row["conversations"]})


def _prompt(prompt: object) -> str | list[Message]:
    return prompt if isinstance(prompt, str) else normalize_messages(prompt, "prompt")


# In order of precedence. RL rows come first, because the columns of other schemas may stand beside theirs. A schema
# with `looks_so` comes before the one with the same columns and no `looks_so`, which takes all other data sets.
SCHEMAS = (
    Schema(("prompt", "reward_model"), "ToolRL/ResT RL rows", _steps_of_rl_row),
    Schema(("messages",), "OpenAI dialogues, tools optional", _steps_of_dialogue),
    Schema(("conversations", "system"), "ToolACE rows, calls in text", steps_of_toolace, looks_like_toolace),
    Schema(
        ("conversations",),
        "ShareGPT dialogues, as APIGen-MT's, tools optional",
        steps_of_sharegpt,
        looks_like_sharegpt,
    ),
    Schema(
        ("conversations",), "OpenAI dialogues named conversations", _steps_of_role_content, looks_like_role_content
    ),
    Schema(("query", "tools", "answers"), "xLAM rows, Hammer's too", steps_of_query),
    Schema(("prompt", "solution"), "prompt of text or messages, solution of text", _steps_of_prompt_solution),
    Schema(("prompt", "completion"), "each of text or messages, tools optional", _steps_of_prompt_completion),
    Schema(("instruction", "input", "output"), "Hammer SFT rows", steps_of_hammer_row, looks_like_hammer),
    Schema(("instruction", "input", "output"), "ToolRL SFT rows", _steps_of_sft_row),
)
