"""Tables of runs and of comparisons, and a figure of comparisons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..display import writing
from ..intervals import Interval
from .comparison import Comparison


COLUMNS = (
    "benchmark",
    "n (clusters)",
    "A",
    "B",
    "B - A",
    "only B / only A",
    "p",
    "p (Holm)",
    "p (McNemar)",
    "detectable",
)
CAPTION = (
    "Accuracies in percent with 95% intervals. p: permutation test over clusters. p (McNemar) assumes independent "
    "samples. Detectable: the smallest true difference that this many samples show with a power of 80%."
)


def cells(comparison: Comparison) -> tuple[str, ...]:
    """
    Write a comparison as the cells of a row.

    Args:
        comparison ([`Comparison`]):
            The comparison.

    Returns:
        `tuple[str, ...]`: as many as there are [`COLUMNS`].
    """
    paired = comparison.paired
    difference = paired.difference
    return (
        f"{comparison.benchmark}, {comparison.metric}",
        f"{difference.n} ({difference.clusters})",
        _percent(comparison.first),
        _percent(comparison.second),
        _percent(difference, sign="+"),
        f"{paired.gained} / {paired.lost}",
        _p_value(paired.cluster_p),
        _p_value(comparison.adjusted_p),
        _p_value(paired.mcnemar_p),
        "none" if paired.detectable is None else f"{100 * paired.detectable:.1f}",
    )


def comparison_table(comparison: Comparison) -> Table:
    """
    A comparison for the terminal, with one line for each of [`COLUMNS`], which are too wide side by side.

    Args:
        comparison ([`Comparison`]):
            The comparison.

    Returns:
        [`rich.table.Table`]
    """
    columns, texts = COLUMNS[1:], cells(comparison)
    table = Table(title=texts[0], show_header=False, title_justify="left")
    for name, text in zip(columns, texts[1:], strict=True):
        table.add_row(name, text)
    return table


def summary_table(summary: Mapping[str, Any]) -> Table:
    """
    A run for the terminal.

    Args:
        summary (`Mapping[str, Any]`):
            Summary that [`~rest_trl.lab.evaluation.run.evaluate`] returned.

    Returns:
        [`rich.table.Table`]
    """
    adapter = f" + {summary['adapter']}" if summary["adapter"] else ""
    unit = "percent and means" if summary["measures"] else "percent"
    table = Table(title=f"{summary['benchmark']}: {summary['model']}{adapter}, {unit} with 95% intervals")
    for column in ("", "n", *summary["metrics"], *summary["measures"]):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, row in [*summary["subsets"].items(), *summary["groups"].items(), ("overall", summary["overall"])]:
        figures = [cell(row[metric]) or "none" for metric in summary["metrics"]]
        means = [mean_cell(row[measure]) if measure in row else "none" for measure in summary["measures"]]
        table.add_row(name, str(row["n"]), *figures, *means)
    return table


def mean_cell(figure: Mapping[str, float]) -> str:
    """
    Write the figure of a measure.

    Args:
        figure (`Mapping[str, float]`):
            `mean`, and with several clusters `low` and `high`.

    Returns:
        `str`: such as `"3.2 ± 0.3"`.
    """
    mean = f"{figure['mean']:.1f}"
    return f"{mean} ± {(figure['high'] - figure['low']) / 2:.1f}" if "low" in figure else mean


def cell(figure: Mapping[str, Any], digits: int = 1) -> str:
    """
    Write a figure of a summary in percent.

    Args:
        figure (`Mapping[str, Any]`):
            The figure of a metric, with `accuracy`, and with `low` and `high` if it has an interval.
        digits (`int`, *optional*, defaults to `1`):
            Digits after the point.

    Returns:
        `str`: such as `"50.0 [41.2, 58.8]"`; empty if the benchmark refused to give the figure.
    """
    if "accuracy" not in figure:
        return ""
    accuracy = f"{100 * figure['accuracy']:.{digits}f}"
    if "low" not in figure:
        return accuracy
    return f"{accuracy} [{100 * figure['low']:.{digits}f}, {100 * figure['high']:.{digits}f}]"


def markdown_table(comparisons: Sequence[Comparison]) -> str:
    """
    Comparisons as a table in Markdown.

    Args:
        comparisons (`Sequence[Comparison]`):
            One row each.

    Returns:
        `str`
    """
    return f"{writing.markdown_table(COLUMNS, [*map(cells, comparisons)])}\n\n{CAPTION}\n"


def latex_table(comparisons: Sequence[Comparison]) -> str:
    """
    Comparisons as a table in LaTeX, which needs the package booktabs.

    Args:
        comparisons (`Sequence[Comparison]`):
            One row each.

    Returns:
        `str`
    """
    rows = [f"{' & '.join(map(_latex, row))} \\\\" for row in (COLUMNS, *map(cells, comparisons))]
    lines = [
        "\\begin{table}",
        f"\\caption{{{_latex(CAPTION)}}}",
        f"\\begin{{tabular}}{{{'l' * len(COLUMNS)}}}",
        "\\toprule",
        rows[0],
        "\\midrule",
        *rows[1:],
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """
    Draw accuracies and differences with their intervals.

    Args:
        comparisons (`Sequence[Comparison]`):
            The comparisons, one row each.
        path (`Path`):
            The file to write. Its suffix gives the type of picture: .png, .pdf or .svg.

    Raises:
        ValueError: if the suffix is no type of picture.
        OSError: if it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [f"{comparison.benchmark}\n{comparison.metric}" for comparison in comparisons]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 1.6 + 0.7 * len(names)), sharey=True, layout="constrained"
    )
    for offset, label, intervals in (
        (-0.12, "A", [comparison.first for comparison in comparisons]),
        (0.12, "B", [comparison.second for comparison in comparisons]),
    ):
        _points(left, [index + offset for index in range(len(names))], intervals, label)
    _points(right, list(range(len(names))), [comparison.paired.difference for comparison in comparisons], None)
    right.axvline(0, color="0.5", linewidth=1)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("accuracy, percent")
    right.set_xlabel("difference B - A, points")
    left.legend(loc="best")
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
    try:
        writing.write_figure(figure, path, dpi=150)
    finally:
        pyplot.close(figure)


def _points(axis: Any, positions: Sequence[float], intervals: list[Interval], label: str | None) -> None:
    estimates = [100 * interval.estimate for interval in intervals]
    below = [100 * (interval.estimate - interval.low) for interval in intervals]
    above = [100 * (interval.high - interval.estimate) for interval in intervals]
    axis.errorbar(estimates, positions, xerr=[below, above], fmt="o", capsize=3, label=label)


def _percent(interval: Interval, sign: str = "") -> str:
    values = (interval.estimate, interval.low, interval.high)
    estimate, low, high = (format(100 * value, f"{sign}.1f") for value in values)
    return f"{estimate} [{low}, {high}]"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _latex(text: str) -> str:
    for special in "&%_#":
        text = text.replace(special, f"\\{special}")
    return text.replace("<", "$<$")
