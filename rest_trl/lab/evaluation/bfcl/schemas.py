"""Official descriptions of functions as JSON Schema."""

from typing import Any


# Names of types in the official descriptions that are not JSON Schema's.
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def tool_schema(function: dict[str, Any]) -> dict[str, Any]:
    """
    Turn an official description of a function into a tool for chat templates.

    Args:
        function (`dict[str, Any]`):
            One of the functions of a [`Case`].

    Returns:
        `dict[str, Any]`: the function with JSON Schema's names of types.

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
