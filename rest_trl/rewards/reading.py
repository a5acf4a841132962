"""Completions turn by turn, from what TRL hands to a reward function, and golds, from the column `solution`."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..tool_calls import Block, ParsedCompletion, ToolCall, ToolCallSyntax, get_syntax
from ..tool_calls.declared import drop_null_keys, read_json
from .tool_schemas import ToolSchemas


# Not accelerate's logger, which demands a started accelerator: rewards are also called by hand.
logger = logging.getLogger(__name__)

Completion = str | list[dict[str, Any]]
# A gold completion, one with alternatives, or the golds of the turns of a dialogue.
Gold = str | Mapping[str, Any] | Sequence[Any]


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


@dataclass
class AlternativeGold(ParsedCompletion):
    """
    A gold whose calls may be made in several ways.

    `alternatives` has, for each of the calls, values of parameters that are as good as the call's. The empty string,
    as in BFCL, says that the parameter may be left out.
    """

    alternatives: list[dict[str, list[Any]]] = field(default_factory=list)


@dataclass
class TurnGolds(ParsedCompletion):
    """
    The golds of a dialogue, `turns`. Used as one gold completion, this has the calls and errors of all turns.
    """

    turns: list[ParsedCompletion] = field(default_factory=list)

    @classmethod
    def of(cls, turns: Sequence[ParsedCompletion]) -> "TurnGolds":
        merged = merge_calls(turns)
        blocks = [block for turn in turns for block in turn.blocks]
        return cls(merged.calls, merged.errors, blocks=blocks, turns=list(turns))


@lru_cache(maxsize=4096)
def _parse_solution(tool_call_syntax: str, solution: str) -> ParsedCompletion:
    # Cached because every generation and reward function asks for it; the cache also keeps the warning from repeating.
    gold = get_syntax(tool_call_syntax).parse(solution)
    if gold.errors:
        logger.warning(
            "A solution is not readable as %s (%s) and gives no correctness reward: %.300r",
            tool_call_syntax,
            gold.errors[0],
            solution,
        )
    return gold


def read_alternatives(alternatives: Any, gold: ParsedCompletion) -> list[dict[str, list[Any]]] | None:
    """
    The alternatives of a gold's calls, `None` where there are none or the gold cannot be read.

    Raises:
        ValueError: if they are not a list, or a JSON string of one, with a mapping of names to lists for each call.
    """
    alternatives = drop_null_keys(read_json(alternatives, "alternatives"))
    if alternatives is None or gold.errors:
        return None
    if not isinstance(alternatives, list) or len(alternatives) != len(gold.calls):
        raise ValueError(f"`alternatives` is not a list with one mapping for each of the {len(gold.calls)} gold calls")
    for of_call in alternatives:
        if not isinstance(of_call, dict) or not all(isinstance(values, list) for values in of_call.values()):
            raise ValueError("`alternatives` of a call is not a mapping of parameters to lists of values")
    return alternatives


def parse_gold(tool_call_syntax: str, solution: Gold, tools: ToolSchemas | None = None) -> ParsedCompletion:
    """
    A parsed gold completion, or [`TurnGolds`] of a list with one for every assistant turn.

    A mapping states alternatives to the gold completion `text`: `alternatives` has, for each of its calls, a mapping
    of parameters to lists of values that are as good, where `""` says that the parameter may be left out, as in BFCL.
    The `tools` of the row tell strings from numbers where the syntax does not.
    """
    if isinstance(solution, Mapping):
        gold = parse_gold(tool_call_syntax, solution["text"], tools)
        alternatives = read_alternatives(solution.get("alternatives"), gold)
        return gold if alternatives is None else AlternativeGold(**vars(gold), alternatives=alternatives)
    if not isinstance(solution, str):
        return TurnGolds.of([parse_gold(tool_call_syntax, of_turn, tools) for of_turn in solution])
    gold = _parse_solution(tool_call_syntax, solution)
    return gold if tools is None else tools.typed(gold)
