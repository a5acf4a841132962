"""The paper's figures beside a run of your own, with the differences in protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from .catalog import find_benchmarks
from .comparison import read_summary
from .report import cell


def protocol_differences(summary: Mapping[str, Any]) -> list[str]:
    """
    How a run differs from the paper's.

    Args:
        summary (`Mapping[str, Any]`):
            Summary of a run of a benchmark that [`find_benchmarks`] returns.

    Returns:
        `list[str]`: one clause for each difference.
    """
    temperature, differences = summary["generation"]["temperature"], []
    if summary.get("limit") is not None:
        differences.append(f"only {summary['limit']} samples were run, the paper ran all")
    if temperature > 0.0001:
        differences.append(f"sampled at temperature {temperature}, the paper at 0.0001")
    differences += find_benchmarks()[summary["benchmark"]].protocol_differences(summary)
    differences.append("the published figures have no error bars, so overlap with ours cannot be judged")
    return differences


def published_table(run: Path) -> tuple[Table, list[str]]:
    """
    Set a run beside the published figures of its benchmark.

    Args:
        run (`Path`):
            Folder of a finished run.

    Returns:
        `tuple[rich.table.Table, list[str]]`: the table, and the differences in protocol.

    Raises:
        ValueError: if nothing is published on that benchmark.
    """
    summary = read_summary(run)
    benchmark = find_benchmarks().get(summary["benchmark"])
    if benchmark is None or not benchmark.published:
        raise ValueError(f"nothing is published on {summary['benchmark']}, which {run} is a run of")
    rows, metric = benchmark.published, benchmark.published_metric
    table = Table(title=f"{summary['benchmark']}, {metric}: {summary['model']} beside arXiv 2509.21826, percent")
    for column in ("figure", "model", "method", "percent"):
        table.add_column(column)
    for name in sorted({row.figure for row in rows}):
        groups = {**summary.get("groups", {}), "overall": summary["overall"]}
        figure = groups.get(name, {}).get(metric, {})
        table.add_row(name, summary["model"], "this run", cell(figure, 2) or "not run in full", style="bold")
    for row in rows:
        percent = f"{row.low:.2f}" if row.high is None else f"{row.low:.2f} to {row.high:.2f}"
        table.add_row(row.figure, row.model, row.method, percent)
    return table, protocol_differences(summary)
