"""API-Bank's scores: the released one, for comparison with published figures, and a strict one without its faults."""

import ast
import json
from collections.abc import Mapping
from typing import Any

from ...rewards.scoring import json_equal
from ...tool_calls import ToolCall, get_syntax
from ...tool_calls.json_calls import read_untyped
from .samples import Completion, Sample, Score, not_generated


METRICS = ("strict", "soft")

# The gold values are text for all types. A completion may write a value of one of these types as it is or as text.
_TYPED = {"integer", "number", "boolean", "array"}


def released_calls(text: str) -> list[Any]:
    """
    Read calls as the released code does.

    A call is any line of JSON between the last `<tool_call>` and the next `</tool_call>`. Where a tag is missing, the
    completion is read from its start or to its end.

    Args:
        text (`str`):
            A completion.

    Returns:
        `list`: JSON values, which need not be objects.
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
    Score by the released rule: 1 if any of the calls equals the gold one, else 0.

    The faults of the released code are kept, because the published figures were computed with them. A model may write
    any number of calls if one is right. An object without `name` or `parameters` is taken for the parameters of the
    gold tool. A value at which the released code raises, such as a number, ends the search: right calls after it do
    not count.

    Args:
        calls (`list`):
            JSON values that [`released_calls`] found.
        gold (`Mapping[str, Any]`):
            `name` and `parameters` of the gold call.

    Returns:
        `int`: 0 or 1.
    """
    for call in calls:
        if isinstance(call, str):
            try:
                call = json.loads(call)
            except (ValueError, RecursionError):
                return 0
        if not isinstance(call, dict | list | str):  # the released code looks for "name" in it, which raises
            return 0
        if isinstance(call, dict) and "name" in call and "parameters" in call:
            name, parameters = call["name"], call["parameters"]
        elif (
            not isinstance(call, dict) and "name" in call and "parameters" in call
        ):  # the released code indexes it by "name", which raises
            return 0
        else:
            name, parameters = gold["name"], call
        if name == gold["name"] and parameters == gold["parameters"]:
            return 1
    return 0


def strict_score(calls: list[ToolCall], errors: list[str], gold: Mapping[str, Any]) -> str | None:
    """
    Say why an answer is wrong: a right one is exactly one call of the gold tool with exactly the gold parameters.

    Args:
        calls (`list[ToolCall]`):
            The calls that [`~rest_trl.tool_calls.ToolCallSyntax`] read.
        errors (`list[str]`):
            What it could not read.
        gold (`Mapping[str, Any]`):
            `name` and `parameters` of the gold call.

    Returns:
        `str` or `None`: the reason, `None` if the answer is right.
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

    All gold values are strings. In the native form the model sees the declared JSON types. There, a value of the
    declared type is right if the gold string stands for it (`5` for `"5"`). In a syntax that cannot tell numbers from
    strings, this also holds for parameters that are declared as strings.

    Args:
        sample ([`Sample`]):
            The sample.
        completion ([`Completion`] or `None`):
            Its completion. A sample without one is wrong.
        tool_call_syntax (`str`):
            The syntax that the completion is read in, `"rlla"` in the paper's form.
        prompt_form (`str`):
            `"paper"` or `"native"`, see [`~rest_trl.lab.evaluation.api_bank.load_samples`].

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
    """Replace values that a gold string stands for by that string, so that they compare equal to it."""
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
