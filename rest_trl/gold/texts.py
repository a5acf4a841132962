"""The texts of a gold completion: the one that the data set has, and those with values that are as good."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..rewards import is_exact, json_equal
from ..rewards.reading import AlternativeGold, Gold, parse_gold
from ..rewards.scoring import allowed_values
from ..tool_calls import ParsedCompletion, ToolCall, ToolCallSyntax
from ..tool_calls.written import WrittenParameter, written_calls


# How the value of a parameter may stand in a text, the most exact first; the last one leaves quotes and tags alone.
_NOTATIONS: tuple[Callable[[Any], str], ...] = (
    lambda value: json.dumps(value, ensure_ascii=False),
    json.dumps,
    repr,
    lambda value: value if isinstance(value, str) else json.dumps(value),
)


def gold_texts(solution: Gold, syntax: ToolCallSyntax, limit: int) -> list[str]:
    """
    The texts of a gold completion, at most `limit`, those that differ least from the data set's first; none if it has
    one gold for every turn.

    A value is exchanged where it stands, so that the text stays as the data set, or the policy's chat template, has
    written it. Values that cannot be exchanged in this way are left out.

    Args:
        solution (`Gold`):
            A gold completion, see [`~rest_trl.rewards.reading.parse_gold`].
        syntax ([`~rest_trl.tool_calls.ToolCallSyntax`]):
            That of the gold completion.
        limit (`int`):
            How many texts there may be.

    Returns:
        `list[str]`

    Example:

    ```python
    >>> from rest_trl.tool_calls import get_syntax
    >>> text = '<tool_call>{"name": "f", "arguments": {"a": 1, "unit": "C"}}</tool_call>'
    >>> solution = {"text": text, "alternatives": [{"a": [1, 2], "unit": ["C", ""]}]}
    >>> for text in gold_texts(solution, get_syntax("hermes"), 3):
    ...     print(text)
    <tool_call>{"name": "f", "arguments": {"a": 1, "unit": "C"}}</tool_call>
    <tool_call>{"name": "f", "arguments": {"a": 2, "unit": "C"}}</tool_call>
    <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>

    ```
    """
    if not isinstance(solution, Mapping):
        return [solution] if isinstance(solution, str) else []
    texts = [str(solution["text"])]
    gold = parse_gold(syntax.name, solution)
    if not isinstance(gold, AlternativeGold):
        return texts
    allowed = [
        {name: _distinct(values) for name, values in allowed_values(call, others).items()}
        for call, others in zip(gold.calls, gold.alternatives, strict=True)
    ]
    for text in texts:  # grows while it is read: first the texts with one other value, then those with two
        for other in _neighbours(text, allowed, syntax):
            if len(texts) >= limit:
                return texts
            if other not in texts:
                texts.append(other)
    return texts


def _neighbours(text: str, allowed: list[dict[str, list[Any]]], syntax: ToolCallSyntax) -> Iterator[str]:
    """The texts in which one parameter of one call has another of its values, or is left out."""
    parsed = syntax.parse(text)
    written = written_calls(text, parsed.parts, syntax)
    if len(written) != len(parsed.calls):
        return
    for place, (call, (_, parameters), of_call) in enumerate(zip(parsed.calls, written, allowed, strict=True)):
        for parameter in parameters:
            old = call.arguments.get(parameter.name)
            for value in of_call.get(parameter.name, ()):
                if value != "" and json_equal(old, value):
                    continue
                arguments = {name: given for name, given in call.arguments.items() if name != parameter.name}
                if value != "":
                    arguments[parameter.name] = value
                calls = [*parsed.calls[:place], ToolCall(call.name, arguments), *parsed.calls[place + 1 :]]
                wanted = ParsedCompletion(calls)
                others = _exchanged(text, parameter, old, value) if value != "" else _without(text, parameter, syntax)
                yield from (other for other in others if is_exact(syntax.parse(other), wanted))


def _distinct(values: list[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if not any(json_equal(value, old) for old in values[:place])]


def _exchanged(text: str, parameter: WrittenParameter, old: Any, new: Any) -> Iterator[str]:
    """Texts that may have the new value of a parameter; only reading one tells."""
    value = text[parameter.middle : parameter.stop]
    for notation in _NOTATIONS:
        if notation(old) in value:
            new_value = value.replace(notation(old), notation(new), 1)
            yield text[: parameter.middle] + new_value + text[parameter.stop :]


def _without(text: str, parameter: WrittenParameter, syntax: ToolCallSyntax) -> Iterator[str]:
    """Texts that may be without a parameter; only reading one tells."""
    before = text[: parameter.start]
    if syntax.argument_tags:
        before = before.removesuffix(syntax.argument_tags[0]).rstrip()
    yield before + text[parameter.stop :]
    # What ends the last parameter ends the call as well, and a comma stands before it.
    yield before.rstrip().removesuffix(",") + text[parameter.stop - 1 :]
