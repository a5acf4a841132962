"""Extension of Griffe: docstrings of Hugging Face's style, read as the Google style that mkdocstrings knows."""

import re
from typing import Any

import griffe


_REFERENCE = re.compile(r"\[`~?(?:[\w.]+\.)?(\w+)`\](?!\()")
_HEADED_REFERENCE = re.compile(r"\[`?([\w.]+)`?\]\([\w.]+\)")
_RAISED = re.compile(r"^( *)\[?`(\w+)`\]?(: )", re.MULTILINE)
_ITEM = re.compile(r"^( *[\w, *]+ \()(.*)(\):)$", re.MULTILINE)


def to_google(docstring: str) -> str:
    """
    Rewrite what the two styles write differently: references, and the markup of types.

    Args:
        docstring (`str`):
            A docstring of this package.

    Returns:
        `str`
    """
    text = _RAISED.sub(r"\1\2\3", docstring)
    text = _REFERENCE.sub(r"`\1`", text)
    text = _HEADED_REFERENCE.sub(r"`\1`", text)
    # Griffe knows the defaults from the signatures.
    return _ITEM.sub(
        lambda item: item[1] + re.sub(r"[`*]|(?<=optional\*), defaults to .*", "", item[2]) + item[3], text
    )


class HuggingFaceDocstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """See `griffe.Extension`."""
        if obj.docstring is not None:
            obj.docstring.value = to_google(obj.docstring.value)
