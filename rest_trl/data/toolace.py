"""ToolACE rows: the tools stand in the system prompt, and calls in the text of a turn, as `[Get Time(zone="CET")]`."""

import re
from typing import Any

from .call_text import is_call_text, read_calls
from .messages import MalformedRowError, Message, normalize_messages
from .rows import Row, Step, decompose
from .sharegpt import ROLES, looks_like_sharegpt, sharegpt_turns
from .tools import find_tools, json_schemas


# Lines that ask for calls in the text. They are removed: the model's chat template asks for calls in its own syntax.
_ASKS = re.compile(
    r".*(\[\w+\(\w|list of functions in JSON format|the function call\(s\)|other text (MUST|in the response)).*"
    r"|.*only return the function call.*",
    re.IGNORECASE,
)


def looks_like_toolace(row: Row) -> bool:
    """Tell whether a ShareGPT row holds its tools in the system prompt, and not in a column."""
    system, tools = row["system"], row.get("tools")
    return isinstance(system, str) and not tools and looks_like_sharegpt(row) and find_tools(system) is not None


def steps_of_toolace(row: Row) -> list[Step]:
    """
    Turn a row into its steps.

    The tools are taken out of the system prompt, with the lines that ask for calls in the text, because the chat
    template shows tools and asks for calls in the model's own syntax. Calls in the text become tool calls.

    Args:
        row (`dict`):
            With the columns `conversations` and `system`.

    Returns:
        `list[Step]`: One per assistant turn.

    Raises:
        [`MalformedRowError`]: If the system prompt holds no tools, or a turn or a call cannot be read.
    """
    system, declared = split_system(row["system"])
    tools = json_schemas(declared)
    names = [tool["function"]["name"] for tool in tools or []]
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for index, (speaker, value) in enumerate(sharegpt_turns(row)):
        message: Message = {"role": ROLES[speaker], "content": value}
        if message["role"] == "assistant" and is_call_text(value, names):
            try:
                message |= {"content": "", "tool_calls": read_calls(value, names)}
            except ValueError as error:
                raise MalformedRowError(f"conversations[{index}].value holds no readable calls ({error})") from error
        messages.append(message)
    return decompose(normalize_messages(messages, "conversations"), tools)


def split_system(system: Any) -> tuple[str, list[dict[str, Any]]]:
    """
    Split a system prompt into its text and its tools.

    Args:
        system (`Any`):
            The system prompt.

    Returns:
        `tuple[str, list[dict]]`: What remains without the tools and the lines that ask for calls in the text, and the
        tools.

    Raises:
        [`MalformedRowError`]: If it is not a string or holds no list of tools.
    """
    found = find_tools(system) if isinstance(system, str) else None
    if found is None:
        raise MalformedRowError("system holds no JSON list of tools")
    start, end, tools = found
    # A full stop after the list closes the sentence that introduces it.
    lines = [*system[:start].split("\n"), *system[end:].removeprefix(".").split("\n")]
    return "\n".join(line.rstrip() for line in lines if line.strip() and not _ASKS.fullmatch(line.strip())), tools
