"""Messages and tools as data sets store them, brought to the one form that chat templates expect."""

import json
from typing import Any


Message = dict[str, Any]

# Most templates silently leave out a message whose role they do not know, so other roles are refused here.
ROLES = ("system", "user", "assistant", "tool")
# `developer` is OpenAI's newer name of `system`, and `function` its older name of `tool`.
_OTHER_ROLES = {"developer": "system", "function": "tool"}


class MalformedRowError(ValueError):
    """A row, or one step of a dialogue, cannot become a training example. The message is the reason."""


def drop_null_keys(value: Any) -> Any:
    """
    Remove the null-valued keys of all dictionaries in `value`.

    Arrow gives all structs of a column the same keys, and fills keys that a row does not have with null. It does not
    pad lists, so nulls in lists stay. So do nulls in JSON strings.

    Args:
        value (`Any`):
            A row, or any part of one, as read from an Arrow table.

    Returns:
        `Any`: A copy without the padding.
    """
    if isinstance(value, dict):
        return {key: drop_null_keys(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [drop_null_keys(item) for item in value]
    return value


def decode_json(value: Any, label: str) -> Any:
    """
    Decode `value` if it is a string, because data sets store nested columns of varying type as JSON strings.

    Args:
        value (`Any`):
            A JSON string, or a value that needs no decoding.
        label (`str`):
            What the value is, for the error.

    Returns:
        `Any`: The decoded value.

    Raises:
        [`MalformedRowError`]: If the string is not valid JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise MalformedRowError(f"{label} is not valid JSON ({error})") from error


def normalize_messages(messages: Any, label: str) -> list[Message]:
    """
    Check messages and bring their contents and tool calls to one form.

    Contents become strings (text parts are joined), tool calls become `{"type": "function", "function": {"name",
    "arguments"}}` with a dictionary of arguments, and null-valued keys of a message are removed. A turn that only
    calls tools gets the content `""`: with null, some templates print "None" and others raise. The key
    `function_call` of older files becomes a tool call, the role `developer` becomes `system`, and `function` becomes
    `tool`.

    Args:
        messages (`Any`):
            List of messages, or a JSON string of one.
        label (`str`):
            The column they come from, for the errors.

    Returns:
        `list[dict]`: New messages. The input is not modified, but nested values such as arguments are shared with it.

    Raises:
        [`MalformedRowError`]: If they are not messages, or hold something that text-only training cannot render.
    """
    messages = decode_json(messages, label)
    if not isinstance(messages, list) or not messages:
        raise MalformedRowError(f"{label} is not a non-empty list of messages")
    return [_normalize_message(message, f"{label}[{index}]") for index, message in enumerate(messages)]


def normalize_tools(tools: Any) -> list[dict[str, Any]] | None:
    """
    Check the tools of a row.

    Args:
        tools (`Any`):
            List of JSON schemas (or of JSON strings of them), a JSON string of such a list, or `None`. A blank string
            is none, too.

    Returns:
        `list[dict]` or `None`: The schemas, `None` if there are none.

    Raises:
        [`MalformedRowError`]: If the tools are not a list of schemas, each with a name.
    """
    tools = None if isinstance(tools, str) and not tools.strip() else decode_json(tools, "tools")
    if not tools:
        return None
    if not isinstance(tools, list):
        raise MalformedRowError(f"tools is a {type(tools).__name__}, not a list of JSON schemas")
    schemas = [decode_json(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    for index, schema in enumerate(schemas):
        if not isinstance(schema, dict) or not _has_name(schema.get("function", schema)):
            raise MalformedRowError(f"tools[{index}] is not a JSON schema with a name")
    return schemas


def normalize_tool_calls(calls: Any, label: str) -> list[dict[str, Any]]:
    """
    Check tool calls and bring them to one form.

    Args:
        calls (`Any`):
            List of calls, or a JSON string of such a list. A call is `{"name", "arguments"}`, or holds this as its
            `function`. `parameters` is read as `arguments`. Arguments can be a JSON string; a call whose arguments are
            absent, null or `""` has none.
        label (`str`):
            Where they come from, for the errors.

    Returns:
        `list[dict]`: `{"type": "function", "function": {"name", "arguments"}}` and the other keys of each call.

    Raises:
        [`MalformedRowError`]: If `calls` is not such a list.
    """
    calls = decode_json(calls, label)
    if not isinstance(calls, list):
        raise MalformedRowError(f"{label} is a {type(calls).__name__}, not a list of calls")
    return [_normalize_tool_call(call, f"{label}[{index}]") for index, call in enumerate(calls)]


def _has_name(function: Any) -> bool:
    return isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"] != ""


def _normalize_message(message: Any, label: str) -> Message:
    if not isinstance(message, dict):
        raise MalformedRowError(f"{label} is a {type(message).__name__}, not a message")
    given = message.get("role")
    role = _OTHER_ROLES.get(given, given) if isinstance(given, str) else given
    if role not in ROLES:
        expected = ", ".join((*ROLES, *_OTHER_ROLES))
        raise MalformedRowError(f"{label} has the role {given!r}, expected one of {expected}")
    normalized = {key: value for key, value in message.items() if value is not None} | {"role": role}
    tool_calls = decode_json(normalized.pop("tool_calls", None), f"{label}.tool_calls") or []
    if "function_call" in normalized:
        if tool_calls:
            raise MalformedRowError(f"{label} has both tool_calls and function_call")
        tool_calls = [decode_json(normalized.pop("function_call"), f"{label}.function_call")]
    if not isinstance(tool_calls, list) or (tool_calls and role != "assistant"):
        raise MalformedRowError(f"{label}.tool_calls is not a list of calls of an assistant message")
    if tool_calls:
        normalized["tool_calls"] = normalize_tool_calls(tool_calls, f"{label}.tool_calls")
    elif "content" not in normalized:
        raise MalformedRowError(f"{label} ({role}) has no content")
    normalized["content"] = _text(normalized.get("content", ""), f"{label}.content")
    if role == "assistant" and not tool_calls and not normalized["content"]:
        raise MalformedRowError(f"{label} (assistant) has neither content nor tool calls")
    return normalized


def _text(content: Any, label: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise MalformedRowError(f"{label} is a {type(content).__name__}, not text")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise MalformedRowError(f"{label} has a part that is not text")
    return "".join(part["text"] for part in content)


def _normalize_tool_call(call: Any, label: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not _has_name(function):
        raise MalformedRowError(f"{label} has no function name")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = {} if arguments is None or arguments == "" else decode_json(arguments, f"{label}.arguments")
    if arguments is None:  # the JSON string "null"
        arguments = {}
    if not isinstance(arguments, dict):
        raise MalformedRowError(f"{label}.arguments is a {type(arguments).__name__}, not an object")
    own = ("function", "name", "arguments", "parameters", "type")
    kept = {key: value for key, value in call.items() if key not in own}
    return {**kept, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
