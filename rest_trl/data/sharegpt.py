"""ShareGPT dialogues: `conversations` of `from` and `value`, with columns `system` and `tools` that may be absent."""

import json
from typing import Any

from .messages import MalformedRowError, Message, decode_json, normalize_messages, normalize_tool_calls
from .rows import Row, Step, decompose, text
from .tools import json_schemas


# The names of speakers that data sets use. In LLaMA-Factory's files and in APIGen-MT, tool calls and tool results have
# speakers of their own.
_SYSTEM, _USER, _ASSISTANT = ("system",), ("human", "user"), ("gpt", "assistant", "chatgpt", "bot", "model")
_CALL = ("function_call", "tool_call", "tool_calls", "function-call")
_RESULT = ("observation", "tool", "tool_response", "tool_result", "function_response", "function-response", "function")
ROLES = (
    dict.fromkeys(_SYSTEM, "system")
    | dict.fromkeys(_USER, "user")
    | dict.fromkeys((*_ASSISTANT, *_CALL), "assistant")
    | dict.fromkeys(_RESULT, "tool")
)


def looks_like_sharegpt(row: Row) -> bool:
    """Tell whether the turns of a row have the keys `from` and `value`."""
    return _turns_have(row, "from", "value")


def looks_like_role_content(row: Row) -> bool:
    """Tell whether the turns of a row are messages with a `role`."""
    return _turns_have(row, "role")


def sharegpt_turns(row: Row) -> list[tuple[str, str]]:
    """
    The turns of a dialogue.

    Args:
        row (`dict`):
            With the column `conversations`.

    Returns:
        `list[tuple[str, str]]`: The speaker of each turn, as the file names it, and the text.

    Raises:
        [`MalformedRowError`]: If the column is not a list of such turns, or a speaker is unknown.
    """
    turns = decode_json(row["conversations"], "conversations")
    if not isinstance(turns, list) or not turns:
        raise MalformedRowError("conversations is not a non-empty list of turns")
    found = []
    for index, turn in enumerate(turns):
        label = f"conversations[{index}]"
        if not isinstance(turn, dict):
            raise MalformedRowError(f"{label} is a {type(turn).__name__}, not a turn")
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise MalformedRowError(f"{label} is from {speaker!r}, expected one of {', '.join(ROLES)}")
        if turn.get("value") is None:
            raise MalformedRowError(f"{label} (from {speaker}) has no value")
        found.append((speaker, _value(turn["value"], f"{label}.value")))
    return found


def steps_of_sharegpt(row: Row) -> list[Step]:
    """
    Turn a row into its steps.

    Args:
        row (`dict`):
            With the column `conversations`, and optionally `system` and `tools`.

    Returns:
        `list[Step]`: One per assistant turn. A turn from `function_call` is a tool call, or several in a JSON list.

    Raises:
        [`MalformedRowError`]: If a turn cannot be read.
    """
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": text(row["system"], "system")})
    for index, (speaker, value) in enumerate(sharegpt_turns(row)):
        message: Message = {"role": ROLES[speaker]}
        if speaker in _CALL:
            calls = decode_json(value, f"conversations[{index}].value")
            calls = calls if isinstance(calls, list) else [calls]
            message["tool_calls"] = normalize_tool_calls(calls, f"conversations[{index}].value")
        else:
            message["content"] = value
        messages.append(message)
    return decompose(normalize_messages(messages, "conversations"), json_schemas(row.get("tools")))


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
