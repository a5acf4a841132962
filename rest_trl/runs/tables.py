"""Tables on disk."""

import os
from pathlib import Path

import pandas as pd


def write_table(table: pd.DataFrame, path: Path) -> None:
    """
    Write a Parquet file so that at no time a part of it can be found under its name.

    Args:
        table (`pd.DataFrame`):
            What to write.
        path (`Path`):
            The file.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            table.to_parquet(file, index=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
