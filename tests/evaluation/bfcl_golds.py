"""Completions that answer BFCL's questions rightly, made of the official answers, and ones with planted errors."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from rest_trl.lab.evaluation.bfcl.environment import environment_python
from rest_trl.lab.evaluation.bfcl.questions import CATEGORIES, Case
from rest_trl.tool_calls import ToolCall, get_syntax


MULTI_TURN = CATEGORIES["v3"][-4:]
NON_PYTHON = {"java", "javascript", "simple_java", "simple_javascript"}
SINGLE_TURN = {
    version: [name for name in names if name not in (*MULTI_TURN, *NON_PYTHON)]
    for version, names in CATEGORIES.items()
}

# No call satisfies the official checker: a required parameter has no allowed value, or is not in the answer.
UNSATISFIABLE = {"live_simple_106-63-0", "live_simple_112-68-0", "live_multiple_862-181-3", "live_multiple_964-207-0"}

# Its questions end a turn before its answers do, so the official checker counts every model's dialogue as broken off.
UNFINISHABLE = {"v3": {"multi_turn_base_154"}, "v4": set()}

_OMITTED = ""  # stands in the lists of allowed values for a parameter that may be left out


def need_environment(version: str) -> None:
    """Skip, with the cure, where the official package of that version is not installed."""
    try:
        environment_python(version)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def as_steps(turn: list[Any]) -> list[Any]:
    """A turn's steps; where they are more than a turn of the benchmark may have, all calls in one."""
    return [[call for step in turn for call in step]] if len(turn) > 20 else turn


def gold(case: Case, answer: Any, category: str) -> Any:
    if answer is None:
        return [] if "irrelevance" in category else [ToolCall(case.functions[0]["name"], {})]
    if category in MULTI_TURN:
        return gold_dialogue(answer, case)
    return gold_calls(answer, case.functions)


def _first(allowed: list[Any]) -> Any:
    return next((value for value in allowed if value != _OMITTED), _OMITTED)


def _literal(value: Any) -> Any:
    """Dictionaries hold lists of allowed values as well; deeper ones are literal."""
    if isinstance(value, dict):
        return {key: _first(allowed) for key, allowed in value.items() if _first(allowed) != _OMITTED}
    if isinstance(value, list):
        return [_literal(item) if isinstance(item, dict) else item for item in value]
    return value


def gold_calls(answer: list[dict[str, dict[str, list[Any]]]], functions: list[dict[str, Any]]) -> list[ToolCall]:
    """The calls of an answer `[{name: {parameter: allowed values}}]`."""
    calls = []
    for call in answer:
        ((name, parameters),) = call.items()
        # simple_363 of v3 has another name in the answer, which the official checker does not read then.
        function = functions[0] if len(functions) == 1 else next(one for one in functions if one["name"] == name)
        schema, arguments = function["parameters"], {}
        for key, allowed in parameters.items():
            value = _first(allowed)
            is_needed = _OMITTED not in allowed or key in schema["required"]
            if allowed and (is_needed or (value != _OMITTED and key in schema["properties"])):
                arguments[key] = _literal(value)
        calls.append(ToolCall(function["name"], arguments))
    return calls


def gold_dialogue(answer: list[list[str]], case: Case) -> list[list[list[ToolCall]]]:
    """Turns of steps of one call each; positional arguments get the names in the functions' descriptions."""
    functions = case.functions + [function for added in case.functions_added.values() for function in added]
    properties = {function["name"]: list(function["parameters"]["properties"]) for function in functions}
    turns = []
    for turn in answer:
        steps = []
        for text in turn:
            call = ast.parse(text, mode="eval").body
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            arguments = dict(zip(properties[call.func.id], map(ast.literal_eval, call.args), strict=False))
            arguments |= {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            steps.append([ToolCall(call.func.id, arguments)])
        turns.append(steps)
    return turns


def write(calls: list[ToolCall], syntax: str) -> str:
    """The calls as a model writes them in that syntax."""
    if syntax == "pythonic":
        texts = [f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})" for name, arguments in calls]
        return f"[{', '.join(texts)}]"
    if syntax == "rlla":
        lines = [json.dumps({"name": name, "parameters": arguments}) for name, arguments in calls]
        return "<think> I call. </think>\n<tool_call>\n" + "\n".join(lines) + "\n</tool_call>"
    objects = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in objects)


def read(text: str, syntax: str) -> list[ToolCall] | None:
    """The calls in a completion, `None` if they cannot be read."""
    parsed = get_syntax(syntax).parse(text)
    return None if parsed.errors else parsed.calls


def spoil(calls: list[ToolCall] | None, way: int) -> list[ToolCall] | None:
    """One of six wrong answers instead of a list of at least one call."""
    if not calls:
        return [ToolCall("f", {})]
    name, arguments = calls[-1]
    return (
        None,
        [],
        calls[:-1],
        [*calls, calls[0]],
        [*calls[:-1], ToolCall(f"{name}_", arguments)],
        [*calls[:-1], ToolCall(name, arguments | {"no_such_parameter": 1})],
    )[way]


OS = "__import__('os')"


def hostile_texts(folder: Path) -> list[str]:
    return [
        f"open({str(folder / 'written')!r}, 'w').write('x')",
        "__import__('socket').create_connection(('1.1.1.1', 53), 1)",
        f"[{OS}.fork() for _ in range(1000000)]",
        "[1 for _ in iter(int, 1)]",
        "len('a' * 10 ** 9)",
        f"{OS}.symlink('/etc/passwd', {str(folder / 'link')!r})",
        f"__import__('shutil').rmtree({str(folder)!r})",
        f"{OS}.system('touch {folder / 'touched'}')",
        "9 ** 9 ** 9 and 1",
        f"\uff45\uff56\uff41\uff4c('\\x5f_import__(\"os\").mkdir({str(folder / 'unicode')!r})')",
    ]
