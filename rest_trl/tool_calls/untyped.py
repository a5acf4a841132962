"""Values of syntaxes that do not say whether `3` is a number or a string."""

import json
import math
from typing import Any


# Models and chat templates write constants as JSON does or as Python does, in any syntax.
CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_FIRST_CHARACTERS = frozenset("-0123456789{[")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no JSON number")
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def read_untyped(text: str) -> Any:
    """
    The JSON number, boolean, null, object or array that a text encodes, or the text itself if it encodes none.

    A server decides by the tool's schema, which a completion does not show. Python's constants are read, too.

    Args:
        text (`str`):
            The text of a value.

    Returns:
        `Any`

    Example:

    ```python
    >>> [read_untyped(text) for text in ("3", "[1, null]", "Oslo", '"3"', "007")]
    [3, [1, None], 'Oslo', '"3"', '007']

    ```
    """
    stripped = text.strip()
    if stripped in CONSTANTS:
        return CONSTANTS[stripped]
    if stripped[:1] not in _FIRST_CHARACTERS:
        return text
    try:
        return _DECODER.decode(stripped)
    except (ValueError, RecursionError):
        return text
