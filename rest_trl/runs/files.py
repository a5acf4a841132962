"""Writes files so that nobody finds a part of one under its name."""

import os
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import pandas as pd  # takes seconds to import


def write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a Parquet file so that a part of it never stands under its name."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            table.to_parquet(file, index=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old content or the new one, and never a part."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(encode(text))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = f"cannot write {path}: {error.strerror}: check that the folder is there and yours to write in"
        raise OSError(error.errno, why) from error


def encode(text: str) -> bytes:
    """Encode in UTF-8 a text that a model may have written."""
    # A model may write half a surrogate pair as a JSON escape.
    return text.encode("utf-8", "backslashreplace")
