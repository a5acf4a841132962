"""Segments of the call reward: which of its values the prefix has decided."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..credit import Segment
from ..regions import Turn
from ..tool_calls import Part, ToolCall, ToolCallSyntax
from ..tool_calls.written import written_calls
from .scoring import allowed_values
from .tool_schemas import ToolSchemas


def call_segments(
    turns: Sequence[Turn],
    gold_calls: Sequence[ToolCall],
    syntax: ToolCallSyntax,
    value: float,
    equal: Callable[[Any, Any], bool],
    tools: ToolSchemas | None = None,
    alternatives: Sequence[Mapping[str, Sequence[Any]]] = (),
) -> list[Segment]:
    """
    Segments of a completion that is rewarded for its calls, see [`~rest_trl.rewards.ToolCallReward`].

    Every parameter gives two segments, its name and its value, each with the character that ends it. From left to
    right, each written call is matched with the first unused gold call of its name. A value that equals the gold's
    value of the parameter is worth `value`, and is decided after its segment. The status is made of the call, its gold
    call and the parameter: its number for a name, its name for a value. All of this depends on the prefix alone, as a
    token is in the segment of the character at which it starts. There is one exception. Where the prompt has opened
    the reasoning, only the closing tag tells a call that is quoted in the reasoning from one that is made, so a
    completion that is cut off before the tag has segments in the quoted call.

    `value` is what one right value adds to the reward, and `equal` compares two values. `tools` tell strings from
    numbers where the syntax does not. A value of the `alternatives` of a gold call is as right as the call's.
    """

    def is_right(text: str, gold_values: Sequence[Any], schema: Any) -> bool:
        try:
            value = syntax.read_value(text, schema)
            return any(equal(value, gold_value) for gold_value in gold_values)
        except ValueError:
            return False

    segments: list[Segment] = []
    unused = list(range(len(gold_calls)))
    decided, number = 0.0, 0
    for turn in turns:
        for call in written_calls(turn.text, _parts_before_open_reasoning(turn, syntax), syntax):
            match = next((index for index in unused if gold_calls[index].name == call.name), None)
            if match is not None:
                unused.remove(match)
            gold: Mapping[str, Sequence[Any]] = {}
            if match is not None:
                gold = allowed_values(gold_calls[match], alternatives[match] if alternatives else {})
            seen: set[str] = set()
            columns = iter(turn.columns([place for parameter in call.parameters for place in parameter[:3]]))
            for place, parameter in enumerate(call.parameters):
                start, middle, stop = next(columns), next(columns), next(columns)
                name = parameter.name
                own = 0.0
                if name in gold and name not in seen:
                    schema = tools.schema(call.name, name) if tools is not None else None
                    own = value * is_right(parameter.value, gold[name], schema)
                if start < middle:
                    segments.append(Segment(start, middle, ("name", number, match, place), decided))
                if middle < stop:
                    segments.append(Segment(middle, stop, ("value", number, match, name, name in seen), decided, own))
                seen.add(name)
                decided += own
            number += 1
    return segments


def _parts_before_open_reasoning(turn: Turn, syntax: ToolCallSyntax) -> Sequence[tuple[int, int, Part]]:
    """
    The parts before reasoning that is not closed.

    Calls in such reasoning would be quotations if it were closed later, which the prefix does not tell. Calls before
    it stay calls.
    """
    text, parts = turn.text, turn.parsed.parts
    if all(block.closed for block in turn.parsed.blocks if block.kind == "reasoning"):
        return parts
    after_closed = text.rfind(syntax.end_think) + 1
    openings = (
        text.find(syntax.think, max(start, after_closed), stop - 1 + len(syntax.think))
        for start, stop, part in parts
        if part is Part.TAG
    )
    opened = next((opening for opening in openings if opening != -1), 0)
    return [part for part in parts if part[0] < opened]
