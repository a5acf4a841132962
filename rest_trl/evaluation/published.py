"""The paper's figures beside a run of one's own, and what differs in protocol."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.table import Table

from .comparison import read_summary
from .report import cell


# The metric that the paper reports: its API-Bank scorer is the soft one.
PAPER_METRICS = {"api_bank": "soft", "bfcl_v3": "valid"}


@dataclass(frozen=True)
class Published:
    """
    A published figure.

    Args:
        benchmark, figure, model, method (`str`):
            What it is a figure of; `figure` is `"overall"` or the name of a part.
        percent (`tuple[float, float]`):
            Lowest and highest value that is given, mostly the same.
    """

    benchmark: str
    figure: str
    model: str
    method: str
    percent: tuple[float, float]


def load_published() -> list[Published]:
    """
    All published figures that come with the package.

    Returns:
        `list[Published]`

    Example:

    ```python
    >>> [row.percent for row in load_published() if row.model == "Llama-3.2-3B-Instruct"]
    [(62.81, 62.81), (59.13, 59.13)]

    ```
    """
    content = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    rows = []
    for benchmark, figure, model, method, percent in content["rows"]:
        low, high = percent if isinstance(percent, list) else (percent, percent)
        rows.append(Published(benchmark, figure, model, method, (low, high)))
    return rows


def beside(summary: Mapping[str, Any]) -> list[Published]:
    """
    The published figures of the benchmark of a run.

    Args:
        summary (`Mapping[str, Any]`):
            Summary of the run.

    Returns:
        `list[Published]`: none, if nothing is published on that benchmark.
    """
    return [row for row in load_published() if row.benchmark == summary["benchmark"]]


def protocol_differences(summary: Mapping[str, Any]) -> list[str]:
    """
    What a run does otherwise than the paper.

    Args:
        summary (`Mapping[str, Any]`):
            Summary of the run.

    Returns:
        `list[str]`: one clause each.
    """
    generation = summary["generation"]
    differences = []
    if summary.get("limit") is not None:
        differences.append(f"only {summary['limit']} samples were run, the paper ran all")
    if generation["temperature"] > 0.0001:
        differences.append(f"sampled at temperature {generation['temperature']}, the paper at 0.0001")
    if summary["benchmark"] == "api_bank":
        if summary["prompt_form"] != "paper":
            differences.append("tools and history go through the chat template, the paper writes them out as text")
        if generation["max_new_tokens"] != 4096:
            differences.append(f"at most {generation['max_new_tokens']} new tokens, the paper allows 4096")
        differences.append("a sample without a completion counts as wrong, in the paper's scorer it is left out")
        differences.append("prompt and completion may fill the model's context, the paper's server had 4096 tokens")
    if summary["benchmark"] == "bfcl_v3":
        differences.append("our prompts and parsing for the model's own syntax, the paper's handler is not published")
    differences.append("the published figures have no error bars, so overlap with ours cannot be judged")
    return differences


def published_table(run: Path) -> tuple[Table, list[str]]:
    """
    A run beside the published figures of its benchmark.

    Args:
        run (`Path`):
            Folder of a finished run.

    Returns:
        `tuple[rich.table.Table, list[str]]`: the table, and what differs in protocol.

    Raises:
        ValueError: if nothing is published on that benchmark.
    """
    summary = read_summary(run)
    rows = beside(summary)
    if not rows:
        raise ValueError(f"nothing is published on {summary['benchmark']}, which {run} is a run of")
    metric = PAPER_METRICS[summary["benchmark"]]
    table = Table(title=f"{summary['benchmark']}, {metric}: {summary['model']} beside arXiv 2509.21826, percent")
    for column in ("figure", "model", "method", "percent"):
        table.add_column(column)
    for name in sorted({row.figure for row in rows}):
        groups = {**summary.get("groups", {}), "overall": summary["overall"]}
        figure = groups.get(name, {}).get(metric, {})
        table.add_row(name, summary["model"], "this run", cell(figure, 2) or "not run in full", style="bold")
    for row in rows:
        low, high = row.percent
        table.add_row(row.figure, row.model, row.method, f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}")
    return table, protocol_differences(summary)
