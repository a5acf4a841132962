"""What a check found."""

from dataclasses import dataclass
from typing import Literal


Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """
    One row of the report.

    Args:
        name (`str`):
            What was looked at.
        status (`str`):
            `"ok"`, `"warning"` (works, but poorly or not for everything) or `"problem"` (training would fail).
        found (`str`):
            What is there.
        cure (`str`, *optional*, defaults to `""`):
            What to do about it.
    """

    name: str
    status: Status
    found: str
    cure: str = ""


def brief(error: BaseException | str, length: int = 240) -> str:
    """An error on one line: its type and the start of its message."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
