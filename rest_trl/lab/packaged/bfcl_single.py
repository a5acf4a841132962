"""
BFCL's questions that are answered in one turn, from the installed bfcl-eval (Apache-2.0), as data for training.

Tools of training and held-out tools are disjoint. Functions that stand in one question belong together, and so do all
that such questions join; a hash of the first name of such a group says on which side its questions are.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import BFCL_SINGLE, STAMP, TRAINED_ON_BFCL, cache_dir


# Those with functions in Python and gold calls.
CATEGORIES = (
    *("simple_python", "multiple", "parallel", "parallel_multiple"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
)
MAX_SCHEMA = 1600  # characters of a question's functions, some 500 tokens: what a small model on a CPU can read
UNANSWERABLE = {"live_simple_112-68-0", "live_multiple_964-207-0"}  # the official checker takes no call for right
ONE_CALL = "one_call"  # the configuration of questions that one call answers
HELD_OUT = 0.2  # share of the groups of functions


def bfcl_rows(split: str, config: str | None = None) -> list[dict[str, Any]]:
    """
    The questions of a split with their official answers: columns `id`, `question`, `function`, `ground_truth`.

    The configuration `"one_call"` has those whose answer is one call; by default there are answers of several, too.

    Raises:
        FileNotFoundError: if bfcl-eval is not installed, with the command that does.
        ValueError: if there is no such split or configuration.
    """
    if config not in (None, ONE_CALL):
        raise ValueError(f"{BFCL_SINGLE} has the configuration {ONE_CALL!r}, not {config!r}: take it, or none")
    if split not in ("train", "test"):
        raise ValueError(f"{BFCL_SINGLE} has the splits 'train' and 'test', not {split!r}")
    rows = [row for category in CATEGORIES for row in _read(category)]
    rows = [row for row in rows if len(json.dumps(row["function"])) <= MAX_SCHEMA and row["id"] not in UNANSWERABLE]
    groups = group_names([[function["name"] for function in row["function"]] for row in rows])
    return [
        row
        for row, group in zip(rows, groups, strict=True)
        if is_held_out(group) == (split == "test") and (config is None or len(row["ground_truth"]) == 1)
    ]


def group_names(names: Sequence[Sequence[str]]) -> list[str]:
    """
    The group of each row of names: rows that share a name, directly or through others, are in one.

    ```python
    >>> group_names([["b", "c"], ["d"], ["c", "a"]])
    ['a', 'd', 'a']

    ```
    """
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    for of_row in names:
        for name in of_row:
            first, second = sorted((find(of_row[0]), find(name)))
            root[second] = first
    return [find(of_row[0]) for of_row in names]


def is_held_out(group: str) -> bool:
    """Whether the functions of a group are held out, by a hash of its name."""
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % 1000 < 1000 * HELD_OUT


def is_trained_on_bfcl(model: str | Path | None) -> bool:
    """Whether the card in the directory of a model, or of an adapter, says that it was trained on these questions."""
    card = Path(model or "").expanduser() / "README.md"
    if not model or not card.is_file():
        return False
    from huggingface_hub import ModelCard

    return TRAINED_ON_BFCL in (ModelCard.load(card).data.tags or [])


def _read(category: str) -> list[dict[str, Any]]:
    folder = _data_folder()
    name = f"BFCL_v4_{category}.json"
    answers = {row["id"]: row["ground_truth"] for row in _lines(folder / "possible_answer" / name)}
    return [
        {key: row[key] for key in ("id", "question", "function")} | {"ground_truth": answers[row["id"]]}
        for row in _lines(folder / name)
    ]


def _data_folder() -> Path:
    environment = cache_dir() / "bfcl_v4"
    folders = sorted(environment.glob("lib/python3*/site-packages/bfcl_eval/data"))
    if not folders or not (environment / STAMP).is_file():
        raise FileNotFoundError(
            f"{BFCL_SINGLE} is read from bfcl-eval, which is not in {environment}: run "
            "`rest-trl evaluate --setup bfcl_v4`"
        )
    return folders[0]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
