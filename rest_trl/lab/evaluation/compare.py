"""`rest-trl compare`: two runs on the same samples, or a run beside the paper's figures."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...runs.endings import one_line
from ...runs.files import write_atomically
from ...spelling import HintingParser
from .benchmark import find_benchmarks


_FILES = ("markdown", "latex", "figure")


def make_parser() -> argparse.ArgumentParser:
    """Parser of `rest-trl compare`."""
    parser = HintingParser("rest-trl compare", description="Tell whether one checkpoint beats another.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="A and B, or with --published one or more")
    parser.add_argument("--metric", help="default: the first of each benchmark")
    parser.add_argument("--subset", help="only the samples of this subset, such as 'golds with calls' of own data")
    parser.add_argument("--published", action="store_true", help="set runs beside the paper's figures")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--latex", type=Path, help="write the table to this file")
    parser.add_argument("--figure", type=Path, help="write a picture to this file (.png, .pdf, .svg)")
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Compare as the command line says; what is wrong is a `SystemExit` with one line of cause and cure."""
    arguments = make_parser().parse_args(args)
    from . import comparison as compared  # with scipy, for which `--help` need not wait

    console = Console(markup=False, emoji=False)  # paths and settings are shown as they are, with their brackets
    try:
        if arguments.published:
            unused = [name for name in ("metric", "subset", *_FILES) if vars(arguments)[name] is not None]
            if unused:
                raise ValueError(f"--published only prints, in the paper's metric: leave out --{', --'.join(unused)}")
            for directory in arguments.runs:
                for run in compared.find_runs(directory).values():
                    table, differences = published_table(run)
                    console.print(table)
                    for difference in differences:
                        console.print(f"Other than in the paper: {difference}")
            return
        if len(arguments.runs) != 2:
            raise ValueError(f"two runs are compared, A and B, not {len(arguments.runs)}")
        comparisons = compared.compare_runs(arguments.runs[0], arguments.runs[1], arguments.metric, arguments.subset)
        for name, run in zip(comparisons[0].names, arguments.runs, strict=True):
            console.print(f"{name}: {run}", soft_wrap=True, highlight=False)
        for comparison in comparisons:
            console.print(compared.comparison_table(comparison))
            for warning in comparison.warnings:
                console.print(f"Warning: {comparison.benchmark}: {warning}")
        console.print(compared.CAPTION)
        if arguments.markdown:
            write_atomically(arguments.markdown, compared.markdown_table(comparisons))
        if arguments.latex:
            write_atomically(arguments.latex, compared.latex_table(comparisons))
        if arguments.figure:
            compared.plot(comparisons, arguments.figure)
    except (ValueError, OSError) as error:
        raise SystemExit(f"rest-trl compare: error: {one_line(error)}") from error


def protocol_differences(summary: Mapping[str, Any]) -> list[str]:
    """How a run of one of the benchmarks of [`find_benchmarks`] differs from the paper's: a clause each."""
    temperature, differences = summary["generation"]["temperature"], []
    if summary.get("limit") is not None:
        differences.append(f"only {summary['limit']} samples were run, the paper ran all")
    if temperature > 0.0001:
        differences.append(f"sampled at temperature {temperature}, the paper at 0.0001")
    differences += find_benchmarks()[summary["benchmark"]].protocol_differences(summary)
    differences.append("the published figures have no error bars, so overlap with ours cannot be judged")
    return differences


def published_table(run: Path) -> tuple[Table, list[str]]:
    """A run beside the published figures of its benchmark, and the differences in protocol."""
    from .comparison import read_summary
    from .summary import cell

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


if __name__ == "__main__":
    main()
