"""Scores of API-Bank: the released one, to compare with published numbers, and one that cannot be gamed."""

import ast
import json
from collections.abc import Mapping
from typing import Any

from ..rewards.scoring import json_equal
from ..tool_calls import ToolCall, get_syntax
from ..tool_calls.untyped import read_untyped
from .samples import Completion, Sample, Score, not_generated


METRICS = ("strict", "soft")

# JSON types of the declared types of which values may come as text or as what they are.
_TYPED = {"integer", "number", "boolean", "array"}


def released_calls(text: str) -> list[Any]:
    """
    What the released code reads as calls: each line that is JSON, from the last `<tool_call>` on to the next
    `</tool_call>`; without the tags, all lines.

    Args:
        text (`str`):
            A completion.

    Returns:
        `list`: JSON values, not necessarily objects.
    """
    calls = []
    for line in text.strip().rpartition("<tool_call>")[2].partition("</tool_call>")[0].strip().split("\n"):
        try:
            calls.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return calls


def soft_score(calls: list[Any], gold: Mapping[str, Any]) -> int:
    """
    The released score: 1 if any of the calls equals the gold one.

    Its faults are kept, for published numbers have them: calls can be sprayed; an object that lacks `name` or
    `parameters` counts as the parameters of the gold tool; whatever is no object ends the search where it stands.

    Args:
        calls (`list`):
            JSON values, of [`released_calls`].
        gold (`Mapping[str, Any]`):
            `name` and `parameters` of the gold call.

    Returns:
        `int`
    """
    for call in calls:
        if isinstance(call, str):
            try:
                call = json.loads(call)
            except (ValueError, RecursionError):
                return 0
        if not isinstance(call, dict | list | str):  # the released code asks it for "name", which raises
            return 0
        if isinstance(call, dict) and "name" in call and "parameters" in call:
            name, parameters = call["name"], call["parameters"]
        elif not isinstance(call, dict) and "name" in call and "parameters" in call:  # then it indexes it by a name
            return 0
        else:
            name, parameters = gold["name"], call
        if name == gold["name"] and parameters == gold["parameters"]:
            return 1
    return 0


def strict_score(calls: list[ToolCall], errors: list[str], gold: Mapping[str, Any]) -> str | None:
    """
    Why an answer is wrong: right is exactly one call, readable, of the gold tool, with exactly the gold parameters.

    Args:
        calls (`list[ToolCall]`):
            The calls, of [`~rest_trl.tool_calls.ToolCallSyntax`].
        errors (`list[str]`):
            What could not be read.
        gold (`Mapping[str, Any]`):
            `name` and `parameters` of the gold call.

    Returns:
        `str` or `None`: `None` if it is right.
    """
    if errors:
        return f"unreadable: {errors[0]}"
    if len(calls) != 1:
        return f"{len(calls)} calls instead of 1" if calls else "no call"
    call, parameters = calls[0], gold["parameters"]
    if call.name != gold["name"]:
        return f"tool {call.name!r} instead of {gold['name']!r}"
    if missing := sorted(parameters.keys() - call.arguments.keys()):
        return f"without parameter {missing[0]!r}"
    if unexpected := sorted(call.arguments.keys() - parameters.keys()):
        return f"with unexpected parameter {unexpected[0]!r}"
    for name, value in parameters.items():
        if not json_equal(call.arguments[name], value):
            return f"{name!r} is {call.arguments[name]!r} instead of {value!r}"
    return None


def score(sample: Sample, completion: Completion | None, tool_call_syntax: str, prompt_form: str) -> Score:
    """
    Score one sample.

    The gold values are all strings. In the native form the model is shown JSON types, so there a value of another
    type than string is right if it is what the gold string says (`5` for `"5"`); in a syntax that does not tell the
    two apart, for parameters of type string too.

    Args:
        sample ([`Sample`]):
            The sample.
        completion ([`Completion`] or `None`):
            Its completion; a missing one is wrong.
        tool_call_syntax (`str`):
            The syntax that the completion is to be read in: `"rlla"` in the paper's form.
        prompt_form (`str`):
            `"paper"` or `"native"`, see [`~rest_trl.evaluation.api_bank.load_samples`].

    Returns:
        [`Score`] with the metrics `strict` and `soft`.
    """
    if completion is None:
        return not_generated(sample, METRICS)
    syntax = get_syntax(tool_call_syntax)
    parsed = syntax.parse(completion.text)
    calls = parsed.calls
    if prompt_form == "native":
        calls = [ToolCall(call.name, _as_written(call.arguments, sample.gold, syntax.untyped)) for call in calls]
        soft = soft_score([{"name": call.name, "parameters": call.arguments} for call in calls], sample.gold)
    else:
        soft = soft_score(released_calls(completion.text), sample.gold)
    why = strict_score(calls, parsed.errors, sample.gold)
    if why is not None and completion.truncated:
        why = f"truncated; {why}"
    return Score(
        sample.id,
        sample.subset,
        sample.cluster,
        {"strict": float(why is None), "soft": float(soft)},
        why,
        [{"name": call.name, "arguments": call.arguments} for call in parsed.calls],
        completion.completion_ids,
        completion.text,
    )


def _as_written(arguments: dict[str, Any], gold: Mapping[str, Any], untyped: bool) -> dict[str, Any]:
    """Values that may be of another type than string, where they are what the gold string says, as that string."""
    written = dict(arguments)
    for name, value in arguments.items():
        text = gold["parameters"].get(name)
        if not isinstance(text, str) or isinstance(value, str):
            continue
        if (untyped and json_equal(value, read_untyped(text))) or (
            gold["types"].get(name) in _TYPED and json_equal(value, _value_of(text))
        ):
            written[name] = text
    return written


def _value_of(text: str) -> Any:
    """The value that a gold string stands for: JSON, or Python's literals `True`, `['a']`."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text
