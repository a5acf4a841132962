"""Random names for tools and parameters, as Hammer trains with (arXiv 2410.04587)."""

import copy
import json
import random
import string
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from .messages import Message, Step


MASKS = ("functions", "parameters")

# [Hammer] 5 to 15 and 4 to 10 characters. Hammer's names may begin with a digit and hold dots. The names here are
# identifiers, because some wire syntaxes allow nothing else.
_LENGTHS = {"functions": (5, 15), "parameters": (4, 10)}
_FIRST, _LATER = string.ascii_letters, string.ascii_letters + string.digits + "_"


def check_masks(masks: Iterable[str]) -> None:
    """Raise `ValueError` if one of `masks` is not in [`MASKS`]."""
    unknown = [mask for mask in masks if mask not in MASKS]
    if unknown:
        raise ValueError(f"mask_tools has {', '.join(map(repr, unknown))}: choose from {', '.join(MASKS)}.")


def mask_step(step: Step, masks: Collection[str], seed: str) -> Step:
    """
    Give the tools of a step random names, and shuffle them, so that only descriptions tell what a tool does.

    The names are replaced where the tools are declared, in calls of all turns, in the names of results, and in results
    that quote them. All other text stays as it is.
    """
    if not masks or not step.tools or isinstance(step.history, str) or isinstance(step.turn, str):
        return step
    rng = random.Random(seed)
    tools = copy.deepcopy(step.tools)
    names: dict[str, str] = {}
    parameters: dict[str, dict[str, str]] = {}
    for tool in tools:
        function = tool.get("function", tool)
        old = function["name"]
        schema = function.get("parameters")
        if "parameters" in masks and isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
            # If a tool is declared twice, both declarations share one mapping.
            known = parameters.setdefault(old, {})
            for name in schema["properties"]:
                known.setdefault(name, _random_name(rng, "parameters", known.values()))
            schema["properties"] = {known[name]: value for name, value in schema["properties"].items()}
            if isinstance(schema.get("required"), list):
                schema["required"] = [known.get(name, name) for name in schema["required"]]
        if "functions" in masks:
            names.setdefault(old, _random_name(rng, "functions", names.values()))
            function["name"] = names[old]
    rng.shuffle(tools)
    history = [_masked(message, names, parameters) for message in step.history]
    alternatives = step.alternatives
    if alternatives is not None:
        known_of = [parameters.get(call["function"]["name"], {}) for call in step.turn["tool_calls"]]
        alternatives = [
            {known.get(name, name): values for name, values in of_call.items()}
            for known, of_call in zip(known_of, alternatives, strict=True)
        ]
    turn = _masked(step.turn, names, parameters)
    return replace(step, history=history, turn=turn, tools=tools, alternatives=alternatives)


def _random_name(rng: random.Random, kind: str, taken: Collection[str]) -> str:
    while True:
        length = rng.randint(*_LENGTHS[kind])
        name = rng.choice(_FIRST) + "".join(rng.choices(_LATER, k=length - 1))
        if name not in taken:
            return name


def _masked(message: Message, names: dict[str, str], parameters: dict[str, dict[str, str]]) -> Message:
    message = dict(message)
    if message.get("tool_calls"):
        message["tool_calls"] = [_masked_call(call, names, parameters) for call in message["tool_calls"]]
    if message["role"] == "tool":
        if "name" in message:
            message["name"] = names.get(message["name"], message["name"])
        for old, new in names.items():
            message["content"] = message["content"].replace(json.dumps(old, ensure_ascii=False), json.dumps(new))
    return message


def _masked_call(call: dict[str, Any], names: dict[str, str], parameters: dict[str, dict[str, str]]) -> dict[str, Any]:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    known = parameters.get(name, {})
    masked = {known.get(key, key): value for key, value in arguments.items()}
    return {**call, "function": {"name": names.get(name, name), "arguments": masked}}
