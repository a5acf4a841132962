"""BFCL's questions with their answers, which allow several values per parameter."""

from collections.abc import Sequence
from itertools import islice, product
from typing import Any

from .messages import MalformedRowError, Row, Step, decode_json, normalize_messages, row_tools


MAX_FORMS = 64  # [ours] of an object whose keys have several values each; that is what one of BFCL's has
BFCL_NOTE = "question of BFCL: no score of BFCL counts for a model that trains on it"


def steps_of_bfcl(row: Row) -> list[Step]:
    """
    The step of a question with its answer: of the calls' `ground_truth`, the gold is the first value of each parameter
    that cannot be left out, and the others are its alternatives.
    """
    turns = decode_json(row["question"], "question")
    if not isinstance(turns, list) or len(turns) != 1:
        raise MalformedRowError("question is not a list of one turn, and ground_truth has the calls of one")
    answers = decode_json(row["ground_truth"], "ground_truth")
    if not isinstance(answers, list) or not answers or not all(map(_is_answer, answers)):
        raise MalformedRowError(
            "ground_truth is not a list of calls, each a name with its parameters' lists of values"
        )
    tools = row_tools(row["function"])
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools or []}
    calls, alternatives = [], []
    for answer in answers:
        ((name, parameters),) = answer.items()
        allowed = _allowed(name, parameters, schemas.get(name, {}).get("required") or [])
        needed = {key: values[0] for key, values in allowed.items() if values and "" not in values}
        calls.append({"type": "function", "function": {"name": name, "arguments": needed}})
        alternatives.append(allowed)
    history = normalize_messages(turns[0], "question[0]")
    turn = {"role": "assistant", "content": "", "tool_calls": calls}
    return [Step(history, turn, tools, (BFCL_NOTE,), alternatives)]


def _allowed(name: str, parameters: dict[str, list[Any]], required: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each parameter. The official checker wants those that the schema requires, whatever is allowed."""
    allowed = {key: [form for value in values for form in forms(value)] for key, values in parameters.items()}
    for key in required:
        allowed[key] = [value for value in allowed.get(key, ()) if value != ""]
        if not allowed[key]:
            raise MalformedRowError(f"ground_truth has no value for {name}({key}), which the tool requires")
    return allowed


def forms(value: Any) -> list[Any]:
    """
    The values that an entry of BFCL's answers stands for: objects in it have a list of values per key, in which `""`
    says that the key may be left out.

    ```python
    >>> forms({"city": ["Oslo", "Bergen"], "days": [3, ""]})
    [{'city': 'Oslo', 'days': 3}, {'city': 'Oslo'}, {'city': 'Bergen', 'days': 3}, {'city': 'Bergen'}]
    >>> forms([{"a": [1, 2]}]), forms([1, 2])
    ([[{'a': 1}], [{'a': 2}]], [[1, 2]])

    ```
    """
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return _bounded(map(list, product(*map(forms, value))))
    if not isinstance(value, dict):
        return [value]
    choices = product(*(values if isinstance(values, list) else [values] for values in value.values()))
    return _bounded({key: item for key, item in zip(value, choice, strict=True) if item != ""} for choice in choices)


def _bounded(values: Any) -> list[Any]:
    found = list(islice(values, MAX_FORMS + 1))
    if len(found) > MAX_FORMS:
        raise MalformedRowError(f"a value of ground_truth stands for more than {MAX_FORMS} values")
    return found


def _is_answer(answer: Any) -> bool:
    return (
        isinstance(answer, dict)
        and len(answer) == 1
        and all(
            isinstance(parameters, dict) and all(isinstance(values, list) for values in parameters.values())
            for parameters in answer.values()
        )
    )
