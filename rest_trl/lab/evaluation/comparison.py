"""Comparison of two checkpoints on the same samples, its tables and its figure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from ..display import writing
from ..intervals import Interval, PairedComparison, accuracy_interval, compare_paired, holm
from .summary import read_scores


# Settings in which two runs of any benchmark must agree, so that a difference between them comes from the models. The
# `protocol` of a benchmark names its further ones, and a run writes that into its summary.
_PROTOCOL = ("limit", "generation")


@dataclass(frozen=True)
class Comparison:
    """
    Two runs of a benchmark by one metric: their names, accuracies and difference.

    `adjusted_p` is `paired.cluster_p`, adjusted by Holm's method for all benchmarks of the comparison. `warnings` say
    what makes the comparison less fair: settings that differ, and missing completions.
    """

    benchmark: str
    metric: str
    names: tuple[str, str]
    first: Interval
    second: Interval
    paired: PairedComparison
    adjusted_p: float
    warnings: tuple[str, ...]


def find_runs(directory: Path) -> dict[str, Path]:
    """The finished runs in a folder, which may be one itself, by the names of their benchmarks."""
    runs: dict[str, Path] = {}
    for path in sorted(directory.rglob("summary.json")):
        name = read_summary(path.parent)["benchmark"]
        if name in runs:
            raise ValueError(f"{directory} holds two runs of {name}, {runs[name]} and {path.parent}: give one of them")
        runs[name] = path.parent
    if not runs:
        raise FileNotFoundError(f"{directory} holds no finished run, which would have a summary.json")
    return runs


def read_summary(run: Path) -> dict[str, Any]:
    """The summary of a finished run, see [`~rest_trl.lab.evaluation.summary.summarize`]."""
    path = run / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        _ = summary["benchmark"], summary["metrics"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the summary of a run ({error!r}): give the command of the run again"
        ) from error
    return summary


def compare_runs(first: Path, second: Path, metric: str | None = None, subset: str | None = None) -> list[Comparison]:
    """
    Compare all benchmarks that two runs, or folders of runs, have in common.

    By default the first metric of each benchmark is compared, on all samples. Runs without a common benchmark, without
    the metric or the subset, or of other samples are a `ValueError`.
    """
    runs, others = find_runs(first), find_runs(second)
    shared = sorted(runs.keys() & others.keys())
    if not shared:
        raise ValueError(f"{first} has runs of {', '.join(runs)}, {second} of {', '.join(others)}: none in common")
    names = _names(first, second)
    comparisons = [_compare(name, names, runs[name], others[name], metric, subset) for name in shared]
    adjusted = holm([comparison.paired.cluster_p for comparison in comparisons])
    return [replace(comparison, adjusted_p=p) for comparison, p in zip(comparisons, adjusted, strict=True)]


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The ends of two paths from where they differ, such as `grpo` and `rest`; `A` and `B` if they are the same."""
    one, two = first.absolute().parts, second.absolute().parts
    for length in range(1, max(len(one), len(two)) + 1):
        if one[-length:] != two[-length:]:
            return "/".join(one[-length:]), "/".join(two[-length:])
    return "A", "B"


def _compare(
    name: str, names: tuple[str, str], first: Path, second: Path, metric: str | None, subset: str | None
) -> Comparison:
    summaries = read_summary(first), read_summary(second)
    metric = metric or summaries[0]["metrics"][0]
    for run, summary in zip((first, second), summaries, strict=True):
        if metric not in summary["metrics"]:
            raise ValueError(f"{run} has the metrics {', '.join(summary['metrics'])}, not {metric!r}")
        if subset not in (None, *summary["subsets"]):
            raise ValueError(f"{run} has the subsets {', '.join(summary['subsets'])}, not {subset!r}")
    ones, twos = (
        {score.id: score for score in read_scores(run) if subset in (None, score.subset)} for run in (first, second)
    )
    if ones.keys() != twos.keys():
        raise ValueError(
            f"{name}: {len(ones.keys() - twos.keys())} samples are only in {first}, {len(twos.keys() - ones.keys())} "
            f"only in {second}. Paired tests need the same samples: run both on all of them"
        )
    clusters = [score.cluster for score in ones.values()]
    correct = [score.scores[metric] for score in ones.values()], [twos[id].scores[metric] for id in ones]
    warnings = [
        f"{key} differs: {summaries[0].get(key)} and {summaries[1].get(key)}"
        for key in (*summaries[0].get("protocol", ()), *_PROTOCOL)
        if summaries[0].get(key) != summaries[1].get(key)
    ]
    warnings += [
        f"{len(summary['missing'])} samples of {run} have no completion and count as wrong"
        for run, summary in zip((first, second), summaries, strict=True)
        if summary["missing"]
    ]
    paired = compare_paired(*correct, clusters)
    return Comparison(
        name if subset is None else f"{name}, {subset}",
        metric,
        names,
        accuracy_interval(correct[0], clusters),
        accuracy_interval(correct[1], clusters),
        paired,
        paired.cluster_p,
        tuple(warnings),
    )


def columns(comparison: Comparison) -> tuple[str, ...]:
    """What the cells of a comparison are."""
    a, b = comparison.names
    tests = ("p", "p (Holm)", "p (McNemar)", "detectable")
    return ("benchmark", "n (clusters)", a, b, f"{b} - {a}", f"only {b} / only {a}", *tests)


CAPTION = (
    "Accuracies in percent with 95% intervals. p: permutation test over clusters. p (McNemar) assumes independent "
    "samples. Detectable: the smallest true difference that this many samples show with a power of 80%."
)


def cells(comparison: Comparison) -> tuple[str, ...]:
    """A comparison as the cells of a row, one for each of the [`columns`]."""
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
    """A comparison for the terminal, one line for each of the [`columns`], which are too wide side by side."""
    names, texts = columns(comparison)[1:], cells(comparison)
    table = Table(title=texts[0], show_header=False, title_justify="left")
    for name, text in zip(names, texts[1:], strict=True):
        table.add_row(name, text)
    return table


def markdown_table(comparisons: Sequence[Comparison]) -> str:
    """Comparisons as a table in Markdown, one row each."""
    return f"{writing.markdown_table(columns(comparisons[0]), [*map(cells, comparisons)])}\n\n{CAPTION}\n"


def latex_table(comparisons: Sequence[Comparison]) -> str:
    """Comparisons as a table in LaTeX, which needs the package booktabs."""
    rows = [f"{' & '.join(map(_latex, row))} \\\\" for row in (columns(comparisons[0]), *map(cells, comparisons))]
    lines = [
        "\\begin{table}",
        f"\\caption{{{_latex(CAPTION)}}}",
        f"\\begin{{tabular}}{{{'l' * len(columns(comparisons[0]))}}}",
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
    """Draw accuracies and differences with their intervals, into a file whose suffix gives the type of picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    a, b = comparisons[0].names
    names = [f"{comparison.benchmark}\n{comparison.metric}" for comparison in comparisons]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 1.6 + 0.7 * len(names)), sharey=True, layout="constrained"
    )
    for offset, label, intervals in (
        (-0.12, a, [comparison.first for comparison in comparisons]),
        (0.12, b, [comparison.second for comparison in comparisons]),
    ):
        _points(left, [index + offset for index in range(len(names))], intervals, label)
    _points(right, list(range(len(names))), [comparison.paired.difference for comparison in comparisons], None)
    right.axvline(0, color="0.5", linewidth=1)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("accuracy, percent")
    right.set_xlabel(f"difference {b} - {a}, points")
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
