"""What is wrong with a call, judged by the JSON schemas of the tools."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012
from transformers.utils import get_json_schema

from ..tool_calls import ParsedCompletion, ToolCall
from ..tool_calls.declared import OPENING, drop_null_keys, json_schemas
from ..tool_calls.json_calls import as_declared


UNKNOWN_TOOL, MISSING, UNKNOWN = "unknown_tool", "missing_parameter", "unknown_parameter"
WRONG_VALUE, UNREADABLE = "wrong_value", "unparseable"
FAULTS = (UNREADABLE, UNKNOWN_TOOL, MISSING, UNKNOWN, WRONG_VALUE)

# `Tool.judge` finds what these keywords refuse from the names of the parameters.
_OF_NAMES = frozenset(["required", "additionalProperties", "unevaluatedProperties"])
# Nothing is fetched, wherever a schema points to.
_NOWHERE: Registry[Any] = Registry()


class Judgement(NamedTuple):
    """The share of a call's parameters that are wrong, 1 where all of it is, and the kinds of its `FAULTS`."""

    wrong: float
    faults: frozenset[str]


class Tool:
    """
    A tool with the JSON schema of its arguments.

    Parts of a schema that are not JSON Schema, such as a type `List[int]`, are not judged. Functions take only the
    parameters that they name, so a schema that says nothing about other parameters is read as refusing them.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        schema = _nullable({"type": "object", "properties": {}, **parameters})
        self.is_clear = _is_schema(schema)
        if not self.is_clear:
            schema = _clear_part(schema)
        self._validator = validator_for(schema, Draft202012Validator)(schema, registry=_NOWHERE)
        self.properties: dict[str, Any] = schema["properties"]
        self._required = frozenset(schema.get("required", ()))
        says_more = not OPENING.isdisjoint(schema)
        self._is_closed = schema.get("additionalProperties", says_more) is False

    def judge(self, arguments: dict[str, Any], untyped: bool) -> Judgement:
        """Judge the arguments of a call. If `untyped`, a value may also be the string that it is written as."""
        if untyped:
            arguments = {name: self._meant(name, value) for name, value in arguments.items()}
        errors = list(self._validator.iter_errors(arguments))
        missing = self._required - arguments.keys()
        unknown = {name for name in arguments if self._is_closed and not self._is_known(name)}
        wrong = {error.absolute_path[0] for error in errors if error.absolute_path} - unknown
        does_not_fit = any(not error.absolute_path and error.validator not in _OF_NAMES for error in errors)
        found = {MISSING: missing, UNKNOWN: unknown, WRONG_VALUE: wrong or does_not_fit}
        count = len(missing | unknown | wrong)
        share = 1.0 if does_not_fit else count / max(1, len(arguments.keys() | self._required))
        return Judgement(share, frozenset(kind for kind, faulty in found.items() if faulty))

    def _is_known(self, name: str) -> bool:
        patterns = self._validator.schema.get("patternProperties", {})
        return name in self.properties or any(re.search(pattern, name) for pattern in patterns)

    def _meant(self, name: str, value: Any) -> Any:
        if isinstance(value, str) or name not in self.properties:
            return value
        text = json.dumps(value, ensure_ascii=False)
        fits = self._validator.evolve(schema=self.properties[name]).is_valid
        return text if not fits(value) and fits(text) else value


class ToolSchemas:
    """
    The tools that a policy may call: functions as TRL takes them, or JSON schemas, a list or a JSON string of one.

    Example:

    ```python
    >>> parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    >>> tools = ToolSchemas([{"name": "get_weather", "parameters": parameters}])
    >>> judged = tools.judge(ToolCall("get_weather", {"town": "Oslo"}))
    >>> judged.wrong, sorted(judged.faults)
    (1.0, ['missing_parameter', 'unknown_parameter'])

    ```
    """

    def __init__(self, tools: Sequence[Callable[..., Any] | Mapping[str, Any]] | str) -> None:
        declared = tools if isinstance(tools, str) else [get_json_schema(t) if callable(t) else t for t in tools]
        functions = [schema["function"] for schema in json_schemas(declared) or []]
        self._tools = {function["name"]: Tool(function["parameters"]) for function in functions}

    @property
    def unclear(self) -> list[str]:
        """Names of the tools with a schema that is in part not JSON Schema, and not judged there."""
        return [name for name, tool in self._tools.items() if not tool.is_clear]

    def __len__(self) -> int:
        return len(self._tools)

    def schema(self, tool: str, parameter: str) -> Any:
        """JSON schema of a parameter, `None` where none is declared."""
        return self._tools[tool].properties.get(parameter) if tool in self._tools else None

    def typed(self, parsed: ParsedCompletion) -> ParsedCompletion:
        """The same calls, with strings where these tools declare strings and the syntax does not tell."""
        if not parsed.texts:
            return parsed
        calls = [
            ToolCall(
                call.name,
                {
                    key: as_declared(call.arguments[key], text, self.schema(call.name, key))
                    for key, text in texts.items()
                },
            )
            for call, texts in zip(parsed.calls, parsed.texts, strict=True)
        ]
        return replace(parsed, calls=calls)

    def judge(self, call: ToolCall, untyped: bool = False) -> Judgement:
        """Judge a call, see [`Tool.judge`]."""
        tool = self._tools.get(call.name)
        if tool is None:
            return Judgement(1.0, frozenset([UNKNOWN_TOOL]))
        try:
            return tool.judge(call.arguments, untyped)
        # Values that no check can take: nested too deeply, or numbers that cannot be divided, such as infinity.
        except (RecursionError, OverflowError, ValueError):
            return Judgement(1.0, frozenset([WRONG_VALUE]))


def read_tools(tools: Any) -> ToolSchemas:
    """The tools that a row has in the column `tools`, read once for all rows that have the same."""
    return _read_tools(tools if isinstance(tools, str) else json.dumps(drop_null_keys(tools) or []))


def no_tools(name: str) -> str:
    """Message for a reward that has no tools to judge calls by."""
    return (
        f"{name} judges calls by the schemas of the tools, and there are none: give the trainer `tools` or an "
        "`environment_factory`, the data set a column `tools` of JSON schemas, or the reward itself `tools`"
    )


@lru_cache(maxsize=1024)
def _read_tools(text: str) -> ToolSchemas:
    return ToolSchemas(text or "[]")


def _is_schema(schema: Any) -> bool:
    try:
        validator_for(schema, Draft202012Validator).check_schema(schema)
    except SchemaError:
        return False
    resolver = _NOWHERE.with_resource("", DRAFT202012.create_resource(schema)).resolver()
    try:
        for reference in _references(schema):
            resolver.lookup(reference)
    except Unresolvable:
        return False
    return True


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        schema = list(schema.values())
    if isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _clear_part(schema: dict[str, Any]) -> dict[str, Any]:
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    return {
        "properties": {name: value if _is_schema(value) else {} for name, value in schema["properties"].items()},
        "required": [name for name in names if isinstance(name, str)],
    }


def _nullable(schema: Any) -> Any:
    """The schema with OpenAPI's `nullable`, which transformers writes for `None`, expressed in JSON Schema."""
    if not isinstance(schema, dict):
        return schema
    plain = {key: value for key, value in schema.items() if key != "nullable"}
    if isinstance(plain.get("properties"), dict):
        plain["properties"] = {name: _nullable(value) for name, value in plain["properties"].items()}
    if "items" in plain:
        plain["items"] = _nullable(plain["items"])
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain
