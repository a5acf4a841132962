"""
ShareGPT dialogues: `conversations` of `from` and `value`, with columns `system` and `tools` that may be absent.

In ToolACE's rows the tools stand in the system prompt, and calls in the text of a turn, as `[Get Time(zone="CET")]`.
"""

import json
import re
from typing import Any

from .call_text import is_call_text, read_calls
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


# The names of speakers that data sets use. In LLaMA-Factory's files and in APIGen-MT, tool calls and tool results have
# speakers of their own.
_SYSTEM, _USER, _ASSISTANT = ("system",), ("human", "user"), ("gpt", "assistant", "chatgpt", "bot", "model")
_CALL = ("function_call", "tool_call", "tool_calls", "function-call")
_RESULT = ("observation", "tool", "tool_response", "tool_result", "function_response", "function-response", "function")
_ROLES = (
    dict.fromkeys(_SYSTEM, "system")
    | dict.fromkeys(_USER, "user")
    | dict.fromkeys((*_ASSISTANT, *_CALL), "assistant")
    | dict.fromkeys(_RESULT, "tool")
)
# Lines that ask for calls in the text. They are removed: the model's chat template asks for calls in its own syntax.
_ASKS = re.compile(
    r".*(\[\w+\(\w|list of functions in JSON format|the function call\(s\)|other text (MUST|in the response)).*"
    r"|.*only return the function call.*",
    re.IGNORECASE,
)
_LIST_AHEAD = re.compile(r"\[\s*\{")


def looks_like_sharegpt(row: Row) -> bool:
    """Tell whether the turns of a row have the keys `from` and `value`."""
    return _turns_have(row, "from", "value")


def looks_like_role_content(row: Row) -> bool:
    """Tell whether the turns of a row are messages with a `role`."""
    return _turns_have(row, "role")


def _turns(row: Row) -> list[tuple[str, str]]:
    """The speaker of each turn, as the file names it, and the text."""
    turns = decode_json(row["conversations"], "conversations")
    if not isinstance(turns, list) or not turns:
        raise MalformedRowError("conversations is not a non-empty list of turns")
    found = []
    for index, turn in enumerate(turns):
        label = f"conversations[{index}]"
        if not isinstance(turn, dict):
            raise MalformedRowError(f"{label} is a {type(turn).__name__}, not a turn")
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise MalformedRowError(f"{label} is from {speaker!r}, expected one of {', '.join(_ROLES)}")
        if turn.get("value") is None:
            raise MalformedRowError(f"{label} (from {speaker}) has no value")
        found.append((speaker, _value(turn["value"], f"{label}.value")))
    return found


def steps_of_sharegpt(row: Row) -> list[Step]:
    """The steps of a row. A turn from `function_call` is a tool call, or several in a JSON list."""
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": text(row["system"], "system")})
    for index, (speaker, value) in enumerate(_turns(row)):
        message: Message = {"role": _ROLES[speaker]}
        if speaker in _CALL:
            calls = decode_json(value, f"conversations[{index}].value")
            calls = calls if isinstance(calls, list) else [calls]
            message["tool_calls"] = normalize_tool_calls(calls, f"conversations[{index}].value")
        else:
            message["content"] = value
        messages.append(message)
    return decompose(normalize_messages(messages, "conversations"), row_tools(row.get("tools")))


def _value(value: Any, label: str) -> str:
    """The text of a turn; some files hold the call or its result as an object."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return text(value, label)


def _turns_have(row: Row, *keys: str) -> bool:
    try:
        turns = decode_json(row["conversations"], "conversations")
    except MalformedRowError:
        return False
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and all(key in turn for key in keys) for turn in turns
    )


def looks_like_toolace(row: Row) -> bool:
    """Tell whether a ShareGPT row holds its tools in the system prompt, and not in a column."""
    system, tools = row["system"], row.get("tools")
    return isinstance(system, str) and not tools and looks_like_sharegpt(row) and _find_tools(system) is not None


def steps_of_toolace(row: Row) -> list[Step]:
    """
    The steps of a row.

    The tools are taken out of the system prompt, with the lines that ask for calls in the text, because the chat
    template shows tools and asks for calls in the model's own syntax. Calls in the text become tool calls.
    """
    system, declared = _split_system(row["system"])
    tools = row_tools(declared)
    names = [tool["function"]["name"] for tool in tools or []]
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for index, (speaker, value) in enumerate(_turns(row)):
        message: Message = {"role": _ROLES[speaker], "content": value}
        if message["role"] == "assistant" and is_call_text(value, names):
            try:
                message |= {"content": "", "tool_calls": read_calls(value, names)}
            except ValueError as error:
                raise MalformedRowError(f"conversations[{index}].value holds no readable calls ({error})") from error
        messages.append(message)
    return decompose(normalize_messages(messages, "conversations"), tools)


def _split_system(system: Any) -> tuple[str, list[dict[str, Any]]]:
    """The text of a system prompt without its tools and the lines that ask for calls in the text, and the tools."""
    found = _find_tools(system) if isinstance(system, str) else None
    if found is None:
        raise MalformedRowError("system holds no JSON list of tools")
    start, end, tools = found
    # A full stop after the list closes the sentence that introduces it.
    lines = [*system[:start].split("\n"), *system[end:].removeprefix(".").split("\n")]
    return "\n".join(line.rstrip() for line in lines if line.strip() and not _ASKS.fullmatch(line.strip())), tools


def _find_tools(text: str) -> tuple[int, int, list[dict[str, Any]]] | None:
    """Start and end of the first JSON list of objects that each have a name, and the list itself."""
    decoder = json.JSONDecoder()
    for match in _LIST_AHEAD.finditer(text):
        try:
            tools, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if all(isinstance(tool, dict) and isinstance(tool.get("name"), str) for tool in tools):
            return match.start(), end, tools
    return None
