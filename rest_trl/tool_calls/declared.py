"""Tools as data sets and callers declare them, brought to JSON schemas."""

import json
from typing import Any


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
# Keywords of a schema that may allow parameters which its `properties` do not name.
OPENING = frozenset(["$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "unevaluatedProperties"])
# Where the parameters of a tool stand: OpenAI and Hugging Face; MCP and Bedrock; Anthropic; Gemini.
_PARAMETERS = ("parameters", "inputSchema", "input_schema", "parametersJsonSchema", "parameters_json_schema")
# Other keys of a tool that may hold objects.
_OTHERS = (
    "annotations",
    "cache_control",
    "_meta",
    "metadata",
    "output",
    "output_schema",
    "outputSchema",
    "response",
    "return",
    "returns",
)


def drop_null_keys(value: Any) -> Any:
    """
    Remove the null-valued keys of all dictionaries in `value`.

    Arrow gives all structs of a column the same keys, and fills keys that a row does not have with null. It does not
    pad lists, so nulls in lists stay. So do nulls in JSON strings.
    """
    if isinstance(value, dict):
        return {key: drop_null_keys(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [drop_null_keys(item) for item in value]
    return value


def read_json(value: Any, label: str) -> Any:
    """Decode `value` if it is a string. Data sets store nested columns of varying type as JSON strings."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{label} is not valid JSON ({error})") from error


def declared_tools(tools: Any) -> list[dict[str, Any]] | None:
    """
    Check the tools of a row: a list of tools or of JSON strings of them, a JSON string of such a list, or none.

    A blank string is none, too. Every tool has a name. Its parameters are put under `parameters`, under which chat
    templates look for them; a tool that seems to have them under a key that is not known is refused.
    """
    tools = None if isinstance(tools, str) and not tools.strip() else read_json(tools, "tools")
    if not tools:
        return None
    if not isinstance(tools, list):
        raise ValueError(f"tools is a {type(tools).__name__}, not a list of JSON schemas")
    declared = [read_json(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    for index, tool in enumerate(declared):
        if not isinstance(tool, dict) or not has_name(tool.get("function", tool)):
            raise ValueError(f"tools[{index}] is not a JSON schema with a name")
    return [_with_parameters(tool, f"tools[{index}]") for index, tool in enumerate(declared)]


def _with_parameters(tool: dict[str, Any], label: str) -> dict[str, Any]:
    if "function" in tool:
        stray = _key_of_objects(tool, ("function", *_OTHERS))
        if stray is not None:
            raise ValueError(f"{label} has the key {stray!r} beside its function: move it into the function")
        return {**tool, "function": _with_parameters(tool["function"], label)}
    given = [key for key in _PARAMETERS if tool.get(key)]
    if not given:
        stray = _key_of_objects(tool, (*_PARAMETERS, *_OTHERS))
        if stray is not None:
            raise ValueError(
                f"{label} ({tool['name']}) has its parameters under {stray!r}: rename the key to one of "
                f"{', '.join(_PARAMETERS)}"
            )
        return tool
    if len(given) > 1:
        raise ValueError(f"{label} ({tool['name']}) has parameters under {' and '.join(given)}: keep one of them")
    parameters = read_json(tool[given[0]], f"{label}.{given[0]}")
    if not isinstance(parameters, dict):
        raise ValueError(f"{label}.{given[0]} is a {type(parameters).__name__}, not an object")
    if given[0] == "inputSchema" and list(parameters) == ["json"]:  # Bedrock
        parameters = parameters["json"]
    if given[0] == "parameters" and parameters is tool["parameters"]:
        return tool
    renamed = {("parameters" if key == given[0] else key): value for key, value in tool.items()}
    return renamed | {"parameters": parameters}


def _key_of_objects(tool: dict[str, Any], known: tuple[str, ...]) -> str | None:
    """The first unknown key that holds an object, or a list of objects."""
    for key, value in tool.items():
        if key not in known and value and isinstance(value[0] if isinstance(value, list) else value, dict):
            return key
    return None


def has_name(function: Any) -> bool:
    """Whether a tool or a call has a name that is not empty."""
    return isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"] != ""


def json_schemas(tools: Any) -> list[dict[str, Any]] | None:
    """
    Bring tools to the form that chat templates expect.

    The parameters of a tool are a JSON schema or a plain mapping of names to schemas (xLAM, Hammer), and types may
    have the names that Python gives them. For a plain mapping no list of required parameters is made: hints about them
    stay in its types and defaults.

    Args:
        tools (`Any`):
            See [`declared_tools`].

    Returns:
        `list[dict]` or `None`: `{"type": "function", "function": {"name", "description", "parameters"}}` with JSON
        schemas, `None` if there are no tools.

    Raises:
        ValueError: if `tools` is not such a list.
    """
    declared = declared_tools(tools)
    if declared is None:
        return None
    return [_json_schema(tool.get("function", tool)) for tool in declared]


def _json_schema(function: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in function.items() if value is not None and key not in ("type", "parameters")}
    parameters = function.get("parameters") or {}
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
    if typed.get("type") == "any":  # which JSON Schema says by no type
        del typed["type"]
    if isinstance(typed.get("type"), str):
        typed["type"] = _TYPES.get(typed["type"], typed["type"])
    if isinstance(typed.get("properties"), dict):
        typed["properties"] = {name: _typed(value) for name, value in typed["properties"].items()}
    if isinstance(typed.get("items"), dict):
        typed["items"] = _typed(typed["items"])
    return typed
