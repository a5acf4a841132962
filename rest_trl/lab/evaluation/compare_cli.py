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

from ...runs.files import write_atomically
from .comparison import compare_runs, find_runs
from .published import published_table
from .report import CAPTION, comparison_table, latex_table, markdown_table, plot


_FILES = ("markdown", "latex", "figure")


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
    console = Console(markup=False, emoji=False)  # paths and settings are shown as they are, with their brackets
    try:
        if arguments.published:
            unused = [name for name in ("metric", *_FILES) if vars(arguments)[name] is not None]
            if unused:
                raise ValueError(f"--published only prints, in the paper's metric: leave out --{', --'.join(unused)}")
            for directory in arguments.runs:
                for run in find_runs(directory).values():
                    table, differences = published_table(run)
                    console.print(table)
                    for difference in differences:
                        console.print(f"Other than in the paper: {difference}")
            return
        if len(arguments.runs) != 2:
            raise ValueError(f"two runs are compared, A and B, not {len(arguments.runs)}")
        comparisons = compare_runs(arguments.runs[0], arguments.runs[1], arguments.metric)
        console.print(f"A: {arguments.runs[0]}\nB: {arguments.runs[1]}", soft_wrap=True, highlight=False)
        for comparison in comparisons:
            console.print(comparison_table(comparison))
            for warning in comparison.warnings:
                console.print(f"Warning: {comparison.benchmark}: {warning}")
        console.print(CAPTION)
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
