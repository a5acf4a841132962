"""Messages as data sets store them, in the one form that chat templates expect, and the steps of a dialogue."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..tool_calls.declared import has_name, json_schemas, read_json


Message = dict[str, Any]
Row = dict[str, Any]

# Most templates silently leave out a message whose role they do not know, so other roles are refused here.
ROLES = ("system", "user", "assistant", "tool")
# `developer` is OpenAI's newer name of `system`, and `function` its older name of `tool`.
_OTHER_ROLES = {"developer": "system", "function": "tool"}
# Keys under which data sets keep the reasoning of a message apart from its content, and templates look for it.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
# What a call holds that is not kept as it is.
_CALL_KEYS = ("function", "name", "arguments", "parameters", "type")


class MalformedRowError(ValueError):
    """A row, or one step of a dialogue, cannot become a training example. The message is the reason."""


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
        alternatives (`list[dict[str, list]]`, *optional*):
            For each call of the turn, values of parameters that are as good, see
            [`~rest_trl.rewards.reading.parse_gold`].
    """

    history: str | list[Message]
    turn: str | Message
    tools: list[dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()
    alternatives: list[dict[str, list[Any]]] | None = None


def decompose(messages: list[Message], tools: list[dict[str, Any]] | None = None, start: int = 0) -> list[Step]:
    """
    The assistant turns of a dialogue from message `start` on (ResT, arXiv 2509.21826, single-turn decomposition).

    The history of a step is all messages before its turn. Turns whose `weight` (a key of OpenAI's) is 0 are only
    history.
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
    """Check that a value is a string."""
    if not isinstance(value, str):
        raise MalformedRowError(f"{label} is a {type(value).__name__}, not a string")
    return value


def decode_json(value: Any, label: str) -> Any:
    """Decode `value` if it is a string, see [`~rest_trl.tool_calls.declared.read_json`]."""
    return _of_row(read_json, value, label)


def row_tools(tools: Any, read: Callable[[Any], list[dict[str, Any]] | None] = json_schemas) -> Any:
    """The tools of a row, read by one of the functions of [`rest_trl.tool_calls.declared`]."""
    return _of_row(read, tools)


def _of_row(read: Callable[..., Any], *args: Any) -> Any:
    """What `read` returns; what it refuses makes the row malformed."""
    try:
        return read(*args)
    except ValueError as error:
        raise MalformedRowError(str(error)) from error


def normalize_messages(messages: Any, label: str) -> list[Message]:
    """
    Check messages and bring their contents and tool calls to one form.

    Contents become strings (text parts are joined), tool calls become `{"type": "function", "function": {"name",
    "arguments"}}` with a dictionary of arguments, and null-valued keys of a message are removed. A turn that only
    calls tools gets the content `""`: with null, some templates print "None" and others raise. The key
    `function_call` of older files becomes a tool call, the role `developer` becomes `system`, and `function` becomes
    `tool`. The input is not modified, but nested values such as arguments are shared with it.

    Args:
        messages (`Any`):
            List of messages, or a JSON string of one.
        label (`str`):
            The column they come from, for the errors.
    """
    messages = decode_json(messages, label)
    if not isinstance(messages, list) or not messages:
        raise MalformedRowError(f"{label} is not a non-empty list of messages")
    return [_normalize_message(message, f"{label}[{index}]") for index, message in enumerate(messages)]


def normalize_tool_calls(calls: Any, label: str) -> list[dict[str, Any]]:
    """
    Check tool calls and bring them to the form `{"type": "function", "function": {"name", "arguments"}}`.

    A call is `{"name", "arguments"}`, or holds this as its `function`; `parameters` is read as `arguments`. Arguments
    can be a JSON string; a call whose arguments are absent, null or `""` has none. Other keys of a call are kept.
    """
    calls = decode_json(calls, label)
    if not isinstance(calls, list):
        raise MalformedRowError(f"{label} is a {type(calls).__name__}, not a list of calls")
    return [_normalize_tool_call(call, f"{label}[{index}]") for index, call in enumerate(calls)]


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
    normalized["content"] = _content(normalized.get("content", ""), f"{label}.content")
    if role == "assistant" and not tool_calls and not normalized["content"]:
        raise MalformedRowError(f"{label} (assistant) has neither content nor tool calls")
    return normalized


def _content(content: Any, label: str) -> str:
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
    if not isinstance(function, dict) or not has_name(function):
        raise MalformedRowError(f"{label} has no function name")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = {} if arguments is None or arguments == "" else decode_json(arguments, f"{label}.arguments")
    if arguments is None:  # the JSON string "null"
        arguments = {}
    if not isinstance(arguments, dict):
        raise MalformedRowError(f"{label}.arguments is a {type(arguments).__name__}, not an object")
    kept = {key: value for key, value in call.items() if key not in _CALL_KEYS}
    return {**kept, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
