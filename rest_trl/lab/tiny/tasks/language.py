"""Words and definitions that the tasks share."""

from random import Random
from typing import Any


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
OPENINGS = ("", "please ", "hello, ", "okay, ")


def definition(name: str, parameters: dict[str, str]) -> dict[str, Any]:
    """
    The definition of a tool whose parameters are all required.

    Args:
        name (`str`):
            Name of the tool.
        parameters (`dict[str, str]`):
            JSON type by parameter.

    Returns:
        `dict[str, Any]`: an OpenAI function definition.
    """
    properties = {parameter: {"type": kind} for parameter, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}


def shuffled(rng: Random, items: list[Any]) -> list[Any]:
    """
    A shuffled copy.

    Args:
        rng (`random.Random`):
            Source of randomness.
        items (`list`):
            Not modified.

    Returns:
        `list`
    """
    return rng.sample(items, len(items))
