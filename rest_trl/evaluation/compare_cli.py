"""
`rest-trl compare`.

```shell
rest-trl compare outputs/grpo outputs/rest --markdown comparison.md --figure comparison.png
rest-trl compare outputs/rest --published
```
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .comparison import compare_runs, find_runs, read_summary
from .published import PAPER_METRICS, beside, protocol_differences
from .report import latex_table, markdown_table, plot, rich_table
from .store import write_atomically


def make_parser() -> argparse.ArgumentParser:
    """Parser of `rest-trl compare`."""
    parser = argparse.ArgumentParser("rest-trl compare", description="Tell whether one checkpoint beats another.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="A and B, or with --published one or more")
    parser.add_argument("--metric", help="default: the first of each benchmark")
    parser.add_argument("--published", action="store_true", help="set runs beside the paper's figures")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--latex", type=Path, help="write the table to this file")
    parser.add_argument("--figure", type=Path, help="write a picture to this file (.png, .pdf, .svg)")
    return parser


def published_table(run: Path) -> Table:
    """
    A run beside the published figures of its benchmark.

    Args:
        run (`Path`):
            Folder of a finished run.

    Returns:
        [`rich.table.Table`]: its caption says what differs in protocol.

    Raises:
        ValueError: if nothing is published on that benchmark.
    """
    summary = read_summary(run)
    rows = beside(summary)
    if not rows:
        raise ValueError(f"nothing is published on {summary['benchmark']}, which {run} is a run of")
    metric = PAPER_METRICS[summary["benchmark"]]
    table = Table(
        title=f"{summary['benchmark']}, {metric}: {summary['model']} beside arXiv 2509.21826, percent",
        caption="Other than in the paper: " + "; ".join(protocol_differences(summary)) + ".",
    )
    for column in ("figure", "model", "method", "percent"):
        table.add_column(column)
    for name in sorted({row.figure for row in rows}):
        figure = (
            summary["overall"][metric] if name == "overall" else summary.get("groups", {}).get(name, {}).get(metric)
        )
        table.add_row(name, summary["model"], "this run", _cell(figure), style="bold")
    for row in rows:
        low, high = row.percent
        table.add_row(row.figure, row.model, row.method, f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}")
    return table


def _cell(figure: dict[str, float] | None) -> str:
    if figure is None or "accuracy" not in figure:
        return "not run in full"
    text = f"{100 * figure['accuracy']:.2f}"
    return f"{text} [{100 * figure['low']:.2f}, {100 * figure['high']:.2f}]" if "low" in figure else text


def main(args: Sequence[str] | None = None) -> None:
    """
    Compare as the command line says.

    Args:
        args (`Sequence[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with one line that names cause and cure, if the runs cannot be compared.
    """
    arguments = make_parser().parse_args(args)
    console = Console()
    try:
        if arguments.published:
            for directory in arguments.runs:
                for run in find_runs(directory).values():
                    console.print(published_table(run))
            return
        if len(arguments.runs) != 2:
            raise ValueError(f"two runs are compared, A and B, not {len(arguments.runs)}")
        comparisons = compare_runs(arguments.runs[0], arguments.runs[1], arguments.metric)
        console.print(rich_table(comparisons))
        for comparison in comparisons:
            for warning in comparison.warnings:
                console.print(f"Warning: {comparison.benchmark}: {warning}")
        if arguments.markdown:
            write_atomically(arguments.markdown, markdown_table(comparisons))
        if arguments.latex:
            write_atomically(arguments.latex, latex_table(comparisons))
        if arguments.figure:
            plot(comparisons, arguments.figure)
    except (ValueError, OSError) as error:
        raise SystemExit(f"rest-trl compare: error: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    main()
