"""
Files of the shapes of the paper's data, written from a seed: API-Bank, ToolRL's rows, and scored completions.

They let tests of these shapes run in any clone. The texts are our own; where the real files are at hand, the same
tests run on them too (the fixture `paper_data`).
"""

from pathlib import Path

from .api_bank import write_api_bank
from .golden import write_golden
from .rlla import sft_rows, write_rlla


def write_paper_data(folder: Path) -> Path:
    """Write `api_bank/`, `rlla/` and `golden/` under `folder`, with the names and sizes of the real files."""
    rows = sft_rows()
    write_api_bank(folder / "api_bank")
    write_rlla(folder / "rlla", rows)
    write_golden(folder / "golden", [row["output"] for row in rows])
    return folder
