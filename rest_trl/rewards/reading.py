"""What the policy wrote, turn by turn, from what TRL hands to a reward function."""

import json
from collections.abc import Sequence
from typing import Any

from ..tool_calls import Block, ParsedCompletion, ToolCall, ToolCallSyntax


Completion = str | list[dict[str, Any]]


def read_turns(completion: Completion, tool_call_syntax: ToolCallSyntax) -> list[ParsedCompletion]:
    """
    The assistant turns of a completion as TRL gives it to a reward function; the results of tools are left out.

    A message whose calls were taken out of its text, as in TRL's loop of tool calls, has them in `tool_calls`.
    """
    if isinstance(completion, str):
        return [tool_call_syntax.parse(completion)]
    return [_read_message(message, tool_call_syntax) for message in completion if message["role"] == "assistant"]


def _read_message(message: dict[str, Any], tool_call_syntax: ToolCallSyntax) -> ParsedCompletion:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    parsed = tool_call_syntax.parse(text)
    if not message.get("tool_calls"):
        return parsed
    if message.get("reasoning_content"):
        parsed.blocks.insert(0, Block("reasoning", closed=True))
    for tool_call in message["tool_calls"]:
        try:
            parsed.calls.append(_read_call(tool_call))
        except ValueError as error:
            parsed.errors.append(str(error))
        parsed.blocks.append(Block("tool_call", closed=True))
    # What looks like a call in the text of such a message is one that TRL could not read: it voids the others.
    if parsed.errors:
        parsed.calls = []
    return parsed


def _read_call(tool_call: dict[str, Any]) -> ToolCall:
    function = tool_call.get("function", tool_call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict) or not isinstance(function.get("name"), str):
        raise ValueError(
            f"a tool call needs a function with a name and an object of arguments, not {tool_call!r:.200}"
        )
    return ToolCall(function["name"], arguments)


def judged_turns(turns: Sequence[ParsedCompletion]) -> list[ParsedCompletion]:
    """
    The turns that are compared with the gold completion, an empty one where the policy wrote nothing.

    A turn without calls that follows one with calls is the policy's answer to their results. If all its blocks are
    closed, there is nothing in it to compare.
    """
    judged: list[ParsedCompletion] = []
    has_called = False
    for turn in turns:
        calls = any(block.kind == "tool_call" for block in turn.blocks)
        if calls or not has_called or not all(block.closed for block in turn.blocks):
            judged.append(turn)
        has_called = has_called or calls
    return judged or [ParsedCompletion()]


def merge_calls(turns: Sequence[ParsedCompletion]) -> ParsedCompletion:
    """
    The calls and errors of all turns, in order, without places in the text, which are those of a turn.

    An unreadable call voids the calls of its turn; those of other turns were made.
    """
    return ParsedCompletion(
        [call for turn in turns for call in turn.calls],
        [error for turn in turns for error in turn.errors],
        is_cut=any(turn.is_cut for turn in turns),
    )
