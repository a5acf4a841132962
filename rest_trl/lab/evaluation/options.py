"""Options that several benchmarks share, and readers of their values."""

import json
from collections.abc import Mapping
from typing import Any

from ...tool_calls import SYNTAXES


def json_object(text: str) -> dict[str, Any]:
    """
    The value of an option that is a JSON object.

    Raises:
        ValueError: if it is something else.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text} is no JSON object")
    return value


def positive(text: str) -> int:
    """
    The value of an option that is a positive whole number.

    Raises:
        ValueError: if it is something else.
    """
    value = int(text)
    if value < 1:
        raise ValueError(f"{text} is not positive")
    return value


PROMPT_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "tool_call_syntax": {
        "choices": sorted(SYNTAXES),
        "help": "default: the one that the chat template shows; for API-Bank's paper form, rlla",
    },
    "chat_template_kwargs": {"type": json_object, "help": "JSON, such as '{\"enable_thinking\": false}'"},
}
