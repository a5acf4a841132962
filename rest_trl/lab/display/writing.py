"""Tables in Markdown, pictures that are never half written, and failures that do not end a training."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """
    Format a table in Markdown; cells are shown by `str`.

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
    """Save a matplotlib figure; if that fails, a file that was there before is unchanged."""
    temporary = path.with_suffix(f".tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=dpi)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def warned_if_failing(what: str) -> Iterator[None]:
    """
    Log a failure of the block, or of the decorated function, as a warning that `what` was not written.

    The trainer writes the model card before the checkpoint, so an exception in a card would cost the checkpoint.
    """
    try:
        yield
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning(f"{what} was not written, and the run goes on without it: {cause}")
