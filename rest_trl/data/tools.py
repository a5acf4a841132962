"""Tools as data sets declare them, brought to JSON schemas."""

import json
import re
from typing import Any

from .messages import MalformedRowError, normalize_tools


# Names that ToolACE, BFCL and xLAM use for the types of JSON Schema. More specific names, as "List[int]", are kept.
_TYPES = {
    "dict": "object",
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
}
_LIST_AHEAD = re.compile(r"\[\s*\{")


def json_schemas(tools: Any) -> list[dict[str, Any]] | None:
    """
    Bring tools to the form that chat templates expect.

    Args:
        tools (`Any`):
            List of tools, or a JSON string of such a list. Each tool has a name. Its parameters are a JSON schema or a
            plain mapping of names to schemas (xLAM, Hammer), and types may have the names that Python gives them.

    Returns:
        `list[dict]` or `None`: `{"type": "function", "function": {"name", "description", "parameters"}}` with JSON
        schemas, `None` if there are no tools. For a plain mapping no list of required parameters is made: hints about
        them stay in its types and defaults.

    Raises:
        [`MalformedRowError`]: If `tools` is not such a list.
    """
    normalized = normalize_tools(tools)
    if normalized is None:
        return None
    return [_json_schema(tool.get("function", tool), f"tools[{index}]") for index, tool in enumerate(normalized)]


def _json_schema(function: dict[str, Any], label: str) -> dict[str, Any]:
    kept = {key: value for key, value in function.items() if value is not None and key not in ("type", "parameters")}
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise MalformedRowError(f"{label}.parameters is a {type(parameters).__name__}, not an object")
    if not _is_schema(parameters):
        if parameters.get("type") in ("object", "dict") and "properties" not in parameters:
            parameters = {**parameters, "properties": {}}
        else:
            parameters = {"type": "object", "properties": parameters}
    return {"type": "function", "function": {**kept, "parameters": _typed({"type": "object", **parameters})}}


def _is_schema(parameters: dict[str, Any]) -> bool:
    """
    Tell a JSON schema from a plain mapping, in which "properties" and "type" may name parameters.

    The types of the values tell it: a type is a string, and each property is a schema or null. The properties decide
    only where there is no type, because some data sets write a mere string for the schema of a property.
    """
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        return False
    if "type" in parameters:
        return isinstance(parameters["type"], str)
    return all(isinstance(value, dict | bool | None) for value in properties.values())


def _typed(schema: Any) -> Any:
    """A schema with the types of JSON Schema. Only schemas are changed, because a property can be called `type`."""
    if not isinstance(schema, dict):
        return schema
    typed = {key: value for key, value in schema.items() if value is not None}
    if isinstance(typed.get("type"), str):
        typed["type"] = _TYPES.get(typed["type"], typed["type"])
    if isinstance(typed.get("properties"), dict):
        typed["properties"] = {name: _typed(value) for name, value in typed["properties"].items()}
    if isinstance(typed.get("items"), dict):
        typed["items"] = _typed(typed["items"])
    return typed


def find_tools(text: str) -> tuple[int, int, list[dict[str, Any]]] | None:
    """
    Find a JSON list of tools in a text.

    Args:
        text (`str`):
            A system prompt.

    Returns:
        `tuple[int, int, list[dict]]` or `None`: Start and end in characters of the first list of objects that each
        have a name, and the list itself.

    Example:

    ```python
    >>> find_tools('Call these: [{"name": "get_time"}]. Be brief.')
    (12, 34, [{'name': 'get_time'}])

    ```
    """
    decoder = json.JSONDecoder()
    for match in _LIST_AHEAD.finditer(text):
        try:
            tools, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if all(isinstance(tool, dict) and isinstance(tool.get("name"), str) for tool in tools):
            return match.start(), end, tools
    return None
