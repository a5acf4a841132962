"""BFCL's categories and questions, the calls that answer them, and the official verdicts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....tool_calls import ToolCall


# The calls of one step, or None if they could not be read. A dialogue consists of turns, and these of steps.
Calls = Sequence[ToolCall] | None
DialogueCalls = Sequence[Sequence[Calls]]

_LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
_RELEVANCE = ("live_irrelevance", "live_relevance")
_NON_LIVE = ("multiple", "parallel", "parallel_multiple")
_MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
_AGENTIC = ("web_search_base", "web_search_no_snippet", "memory_kv", "memory_vector", "memory_rec_sum")

# The categories that can be run, in the order of the reports.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "v3": ("simple", "java", "javascript", *_NON_LIVE, "irrelevance", *_LIVE, *_RELEVANCE, *_MULTI_TURN),
    "v4": (
        *("simple_python", "simple_java", "simple_javascript", *_NON_LIVE, "irrelevance"),
        *(*_LIVE, *_RELEVANCE, *_MULTI_TURN),
    ),
}

_WEB = "it sends the model's queries to a paid search service"
_MEMORY = "its simulators need sentence-transformers and faiss, and memories that earlier runs of the model wrote"
REFUSED: dict[str, dict[str, str]] = {
    "v3": {},
    "v4": {name: _WEB if name.startswith("web") else _MEMORY for name in _AGENTIC}
    | {"format_sensitivity": "it varies the prompt of models without tool calling, and counts in no average"},
}

# For each official average: the official table and column that hold it, and the categories that it averages. The
# official code counts a category that was not run as 0, so an average is given only if all its categories were run.
AVERAGES: dict[str, dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "v3": {
        "overall": ("data_overall", "Overall Acc", CATEGORIES["v3"]),
        "non_live": (
            "data_non_live",
            "Non_Live Overall Acc",
            ("simple", "java", "javascript", *_NON_LIVE, "irrelevance"),
        ),
        "live": ("data_live", "Live Overall Acc", _LIVE + _RELEVANCE),
        "multi_turn": ("data_multi_turn", "Multi Turn Overall Acc", _MULTI_TURN),
    },
    "v4": {
        "overall": ("data_overall", "Overall Acc", (*CATEGORIES["v4"], *_AGENTIC)),
        "non_live": (
            "data_non_live",
            "Non-Live Overall Acc",
            ("simple_python", "simple_java", "simple_javascript", *_NON_LIVE),
        ),
        "live": ("data_live", "Live Overall Acc", _LIVE),
        "multi_turn": ("data_multi_turn", "Multi Turn Overall Acc", _MULTI_TURN),
    },
}


def expand_categories(version: str, names: Sequence[str]) -> list[str]:
    """
    Expand official names of categories, and of groups of them, to names in the order of [`CATEGORIES`].

    The groups are `all`, `python` (all but Java and JavaScript), `single_turn` (all but dialogues), and `non_live`,
    `live` and `multi_turn`, which have official averages.

    Example:

    ```python
    >>> expand_categories("v4", ["live", "multiple"])
    ['multiple', 'live_simple', 'live_multiple', 'live_parallel', 'live_parallel_multiple']

    ```
    """
    every = CATEGORIES[version]
    groups: dict[str, Sequence[str]] = {
        "all": every,
        "python": [name for name in every if "java" not in name],
        "single_turn": [name for name in every if name not in _MULTI_TURN],
        **{name: AVERAGES[version][name][2] for name in ("non_live", "live", "multi_turn")},
    }
    chosen = {category for name in names for category in groups.get(name, [name])}
    for category in sorted(chosen):
        check_category(version, category)
    return [category for category in every if category in chosen]


def check_category(version: str, category: str) -> None:
    """Raise a `ValueError` with the reason if there is no such category, or if it cannot be run."""
    if category in REFUSED[version]:
        raise ValueError(f"BFCL {version} category {category!r} is not supported: {REFUSED[version][category]}")
    if category not in CATEGORIES[version]:
        raise ValueError(
            f"BFCL {version} has no category {category!r}: choose one of "
            f"{', '.join(CATEGORIES[version])}, or the groups all, python, single_turn, non_live, live, multi_turn"
        )


class BFCLError(RuntimeError):
    """The official package, or the setup of its environment, failed."""


@dataclass(frozen=True)
class Case:
    """
    A question of BFCL in the form in which it is put to a model.

    `turns` are the messages that open each turn; single-turn categories have one. `functions` are the official
    descriptions. `functions_added` are those that become available at the start of a turn, by the turn's index.
    """

    id: str
    turns: list[list[dict[str, Any]]]
    functions: list[dict[str, Any]]
    functions_added: dict[int, list[dict[str, Any]]]


@dataclass(frozen=True)
class Verdict:
    """The result of the official checker: the kind of error and what is wrong are empty where nothing is."""

    valid: bool
    error_type: str
    error: str


def encode(calls: Any) -> str:
    """
    Write a call, `None`, or nested sequences of these as JSON.

    Raises `ValueError` or `RecursionError` if a value cannot be written. Such a call could not be executed either.
    """
    if calls is None:
        return "null"
    if isinstance(calls, ToolCall):
        return json.dumps({"name": calls.name, "arguments": calls.arguments})
    return "[" + ",".join(encode(call) for call in calls) + "]"


# Names of types in the official descriptions that are not JSON Schema's.
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def tool_schema(function: dict[str, Any]) -> dict[str, Any]:
    """
    An official description of a function as a tool for chat templates, with JSON Schema's names of types.

    Example:

    ```python
    >>> function = {"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "float"}}}}
    >>> tool_schema(function)["function"]["parameters"]
    {'type': 'object', 'properties': {'x': {'type': 'number'}}}

    ```
    """
    return {"type": "function", "function": {**function, "parameters": _json_schema(function["parameters"])}}


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    converted = dict(schema)
    if "type" in schema:
        converted["type"] = _JSON_TYPES.get(schema["type"], schema["type"])
    if "properties" in schema:
        converted["properties"] = {name: _json_schema(value) for name, value in schema["properties"].items()}
    if "items" in schema:
        converted["items"] = _json_schema(schema["items"])
    return converted


def clusters(cases: Mapping[str, Sequence[Case]]) -> dict[str, str]:
    """
    The cluster of each sample: which samples are not independent of each other.

    The four multi-turn categories are variants of the same 200 dialogues, so `multi_turn_base_17` and
    `multi_turn_miss_func_17` are in one cluster. In the ids of the live categories, such as `live_simple_10-5-0`, the
    middle number stands for the set of functions that a user uploaded. Live questions about the same functions are in
    one cluster, also across categories. Every other sample is a cluster by itself.
    """
    found: dict[str, str] = {}
    live: dict[str, tuple[str, str]] = {}
    for category, questions in cases.items():
        for case in questions:
            if category.startswith("multi_turn"):
                found[case.id] = f"multi_turn/{case.id.rpartition('_')[2]}"
            elif category.startswith("live"):
                functions = json.dumps(sorted(json.dumps(function, sort_keys=True) for function in case.functions))
                live[case.id] = (f"{category}/{case.id.split('-')[-2]}", functions)
            else:
                found[case.id] = case.id
    return found | _connected(live)


def _connected(shared: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Join samples that share one of their two keys, directly or through others: the cluster of each (union-find)."""
    root: dict[str, str] = {}

    def find(node: str) -> str:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for first, second in shared.values():
        root[find(first)] = find(second)
    names: dict[str, str] = {}
    for sample, (first, _) in shared.items():
        names.setdefault(find(first), f"live/{sample}")
    return {sample: names[find(first)] for sample, (first, _) in shared.items()}
