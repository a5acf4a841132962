"""What reports are made of: tables in Markdown, and pictures."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """
    A table in Markdown.

    Args:
        header (`Sequence[str]` of length `C`):
            Names of the columns.
        rows (`Sequence[Sequence]`):
            `C` cells each, shown by `str`.

    Returns:
        `str`: without a line break at its end.

    Example:

    ```python
    >>> print(markdown_table(["arm", "seeds"], [["grpo", 8]]))
    | arm | seeds |
    | --- | --- |
    | grpo | 8 |

    ```
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def write_figure(figure: Any, path: Path, dpi: int) -> None:
    """
    Write a picture so that a part of it never stands under its name.

    Args:
        figure ([`~matplotlib.figure.Figure`]):
            The picture.
        path (`Path`):
            The file, whose suffix says its format.
        dpi (`int`):
            Pixels per inch.

    Raises:
        OSError: if it cannot be written. A file that was there before is unchanged.
    """
    temporary = path.with_suffix(f".tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=dpi)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
