"""The row schemas: which columns and rows tell them apart, and how a row of each becomes its steps."""

import ast
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..tool_calls.declared import declared_tools
from .bfcl import steps_of_bfcl
from .messages import (
    MalformedRowError,
    Message,
    Row,
    Step,
    decode_json,
    decompose,
    normalize_messages,
    normalize_tool_calls,
    row_tools,
    text,
)
from .sharegpt import (
    looks_like_role_content,
    looks_like_sharegpt,
    looks_like_toolace,
    steps_of_sharegpt,
    steps_of_toolace,
)


FIRST_ROWS = 20  # [ours] enough to tell schemas apart, and quick to read
SYSTEM_NOTE = "column system is left out: the messages have a system message that says something else"
# The gold of rows for which no tool fits: their `answers` hold neither calls nor text. The rewards compare the layout
# of a gold without calls, not its words.
NO_CALL = "None of the available tools can do this."
NO_CALL_NOTE = f"answers is empty: the gold is the text {NO_CALL!r}"

# Hammer's text for fine-tuning.
_SECTION = re.compile(r"\[BEGIN OF (AVAILABLE TOOLS|QUERY)\]\n(.*)\n\[END OF \1\]", re.DOTALL)
_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)


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
        """The steps of a row in the order of the dialogue."""
        for column in self.columns:
            if row.get(column) is None:
                raise MalformedRowError(f"{column} is missing or null")
        return self.to_steps(row)


def detect_schema(columns: Collection[str], rows: Sequence[Row], source: str) -> tuple[Schema, str]:
    """
    The first of `SCHEMAS` whose columns are all there and which most of the first rows look like, and what told it.

    Args:
        columns (`Collection[str]`):
            The columns of the data set.
        rows (`Sequence[dict]`):
            Its first rows that can be read, which decide between schemas with the same columns.
        source (`str`):
            Name of the data set, for the error.
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
    tools = row_tools(row.get("tools"), declared_tools)
    if tools is None:  # `functions` is OpenAI's older name of the column
        tools = row_tools(row.get("functions"))
    messages = normalize_messages(row["messages"], "messages")
    system = row.get("system")
    told = [message["content"] for message in messages if message["role"] == "system"]
    if system and not told:
        messages = [{"role": "system", "content": text(system, "system")}, *messages]
    steps = decompose(messages, tools)
    if system and told and system not in told:
        steps[0] = replace(steps[0], notes=(*steps[0].notes, SYSTEM_NOTE))
    return steps


def _steps_of_role_content(row: Row) -> list[Step]:
    return _steps_of_dialogue({**row, "messages": row["conversations"]})


def _prompt(prompt: object) -> str | list[Message]:
    return prompt if isinstance(prompt, str) else normalize_messages(prompt, "prompt")


def _steps_of_prompt_solution(row: Row) -> list[Step]:
    tools = row_tools(row.get("tools"), declared_tools)
    solution, alternatives = row["solution"], None
    if isinstance(solution, dict):
        alternatives = decode_json(solution.get("alternatives"), "solution.alternatives")
        solution = solution.get("text")
    return [Step(_prompt(row["prompt"]), text(solution, "solution"), tools, alternatives=alternatives)]


def _steps_of_prompt_completion(row: Row) -> list[Step]:
    prompt, tools = _prompt(row["prompt"]), row_tools(row.get("tools"), declared_tools)
    if isinstance(row["completion"], str):
        return [Step(prompt, row["completion"], tools)]
    completion = normalize_messages(row["completion"], "completion")
    if isinstance(prompt, str):
        raise MalformedRowError("prompt is text but completion is messages: the turn cannot be rendered after it")
    return decompose(prompt + completion, tools, start=len(prompt))


def _steps_of_query(row: Row) -> list[Step]:
    """The step of a row of xLAM, or of Hammer; where `answers` has no calls, its text says that no tool fits."""
    query = text(row["query"], "query")
    if not query.strip():
        raise MalformedRowError("query is empty")
    history = [{"role": "user", "content": query}]
    calls = normalize_tool_calls(row["answers"], "answers")
    tools = row_tools(row["tools"])
    if not calls:
        return [Step(history, {"role": "assistant", "content": NO_CALL}, tools, (NO_CALL_NOTE,))]
    return [Step(history, {"role": "assistant", "content": "", "tool_calls": calls}, tools)]


def _looks_like_hammer(row: Row) -> bool:
    return isinstance(row["instruction"], str) and "[BEGIN OF AVAILABLE TOOLS]" in row["instruction"]


def _steps_of_hammer_row(row: Row) -> list[Step]:
    """The step of Hammer's text for fine-tuning, with tools and query in marked sections and calls in `output`."""
    sections = dict(_SECTION.findall(text(row["instruction"], "instruction")))
    missing = [name for name in ("AVAILABLE TOOLS", "QUERY") if name not in sections]
    if missing:
        raise MalformedRowError(f"instruction has no section {' and no '.join(missing)}")
    output = text(row["output"], "output")
    fenced = _FENCE.fullmatch(output)
    tools = _python_or_json(sections["AVAILABLE TOOLS"], "the section AVAILABLE TOOLS")
    answers = _python_or_json(fenced[1] if fenced else output, "output")
    return _steps_of_query({"query": sections["QUERY"], "tools": tools, "answers": answers})


def _python_or_json(value: str, label: str) -> Any:
    """Decode JSON or a Python literal, because Hammer writes its tools as Python prints them."""
    try:
        return decode_json(value, label)
    except MalformedRowError as error:
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # `{{}}` is a TypeError
            raise error from None


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
    Schema(("query", "tools", "answers"), "xLAM rows, Hammer's too", _steps_of_query),
    Schema(
        ("prompt", "solution"),
        "prompt of text or messages, solution of text, alternatives optional",
        _steps_of_prompt_solution,
    ),
    Schema(("question", "function", "ground_truth"), "BFCL questions with answers", steps_of_bfcl),
    Schema(("prompt", "completion"), "each of text or messages, tools optional", _steps_of_prompt_completion),
    Schema(("instruction", "input", "output"), "Hammer SFT rows", _steps_of_hammer_row, _looks_like_hammer),
    Schema(("instruction", "input", "output"), "ToolRL SFT rows", _steps_of_sft_row),
)
