"""Rows of one question and its calls: xLAM's `query`, `tools` and `answers`, and Hammer's text for fine-tuning."""

import ast
import re
from typing import Any

from .messages import MalformedRowError, decode_json, normalize_tool_calls
from .rows import Row, Step, text
from .tools import json_schemas


# The gold of rows for which no tool fits: their `answers` hold neither calls nor text. The rewards compare the layout
# of a gold without calls, not its words.
NO_CALL = "None of the available tools can do this."
NO_CALL_NOTE = f"answers is empty: the gold is the text {NO_CALL!r}"

_SECTION = re.compile(r"\[BEGIN OF (AVAILABLE TOOLS|QUERY)\]\n(.*)\n\[END OF \1\]", re.DOTALL)
_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)


def steps_of_query(row: Row) -> list[Step]:
    """
    Turn a row of xLAM, or of Hammer, which has the same columns, into its step.

    Args:
        row (`dict`):
            With the columns `query`, `tools` and `answers`, of which the latter two can be JSON strings.

    Returns:
        `list[Step]`: One step, whose turn makes the calls of `answers`. Where there are none, its text says that no
        tool fits.

    Raises:
        [`MalformedRowError`]: If a column cannot be read.
    """
    query = text(row["query"], "query")
    if not query.strip():
        raise MalformedRowError("query is empty")
    history = [{"role": "user", "content": query}]
    calls = normalize_tool_calls(row["answers"], "answers")
    tools = json_schemas(row["tools"])
    if not calls:
        return [Step(history, {"role": "assistant", "content": NO_CALL}, tools, (NO_CALL_NOTE,))]
    return [Step(history, {"role": "assistant", "content": "", "tool_calls": calls}, tools)]


def looks_like_hammer(row: Row) -> bool:
    """Tell whether the instruction of a row has Hammer's sections."""
    return isinstance(row["instruction"], str) and "[BEGIN OF AVAILABLE TOOLS]" in row["instruction"]


def steps_of_hammer_row(row: Row) -> list[Step]:
    """
    Turn a row of Hammer's text for fine-tuning into a step, which the model's chat template renders.

    Args:
        row (`dict`):
            With the columns `instruction`, which holds tools and query in marked sections, and `output`, a list of
            calls.

    Returns:
        `list[Step]`: As [`steps_of_query`] returns it.

    Raises:
        [`MalformedRowError`]: If a section is missing or cannot be read.
    """
    sections = dict(_SECTION.findall(text(row["instruction"], "instruction")))
    missing = [name for name in ("AVAILABLE TOOLS", "QUERY") if name not in sections]
    if missing:
        raise MalformedRowError(f"instruction has no section {' and no '.join(missing)}")
    output = text(row["output"], "output")
    fenced = _FENCE.fullmatch(output)
    tools = _python_or_json(sections["AVAILABLE TOOLS"], "the section AVAILABLE TOOLS")
    answers = _python_or_json(fenced[1] if fenced else output, "output")
    return steps_of_query({"query": sections["QUERY"], "tools": tools, "answers": answers})


def _python_or_json(value: str, label: str) -> Any:
    """Decode JSON or a Python literal, because Hammer writes its tools as Python prints them."""
    try:
        return decode_json(value, label)
    except MalformedRowError as error:
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # `{{}}` is a TypeError
            raise error from None
