"""Comparison of two checkpoints on the same samples."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..intervals import Interval, PairedComparison, accuracy_interval, compare_paired, holm
from .run import read_scores


# Settings in which two runs of any benchmark must agree, so that a difference between them comes from the models. The
# `protocol` of a benchmark names its further ones, and a run writes that into its summary.
_PROTOCOL = ("limit", "generation")


@dataclass(frozen=True)
class Comparison:
    """
    Two runs of a benchmark.

    Args:
        benchmark, metric (`str`):
            What is compared.
        first, second ([`~rest_trl.lab.intervals.Interval`]):
            Accuracies.
        paired ([`~rest_trl.lab.intervals.PairedComparison`]):
            Their difference.
        adjusted_p (`float`):
            `paired.cluster_p`, adjusted by Holm's method for all benchmarks of the comparison.
        warnings (`tuple[str, ...]`):
            What makes the comparison less fair: settings that differ, and missing completions.
    """

    benchmark: str
    metric: str
    first: Interval
    second: Interval
    paired: PairedComparison
    adjusted_p: float
    warnings: tuple[str, ...]


def find_runs(directory: Path) -> dict[str, Path]:
    """
    Find the finished runs in a folder.

    Args:
        directory (`Path`):
            A run, or a folder of runs.

    Returns:
        `dict[str, Path]`: the folder of the run by the name of its benchmark.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several of one benchmark.
    """
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
    """
    Read the summary of a finished run.

    Args:
        run (`Path`):
            Folder of the run.

    Returns:
        `dict[str, Any]`: see [`~rest_trl.lab.evaluation.run.evaluate`].

    Raises:
        ValueError: if the file is broken, or not the summary of a run.
    """
    path = run / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        _ = summary["benchmark"], summary["metrics"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no summary of a run ({error!r}): give the command of the run again") from error
    return summary


def compare_runs(first: Path, second: Path, metric: str | None = None) -> list[Comparison]:
    """
    Compare all benchmarks that two folders have in common.

    Args:
        first, second (`Path`):
            Runs, or folders of runs.
        metric (`str`, *optional*):
            The metric to compare, by default the first one of each benchmark.

    Returns:
        `list[Comparison]`: one per benchmark.

    Raises:
        FileNotFoundError: if a folder holds no finished run.
        ValueError: if the folders have no benchmark in common, if a run lacks the metric, or if the samples differ.
    """
    runs, others = find_runs(first), find_runs(second)
    shared = sorted(runs.keys() & others.keys())
    if not shared:
        raise ValueError(f"{first} has runs of {', '.join(runs)}, {second} of {', '.join(others)}: none in common")
    comparisons = [_compare(name, runs[name], others[name], metric) for name in shared]
    adjusted = holm([comparison.paired.cluster_p for comparison in comparisons])
    return [replace(comparison, adjusted_p=p) for comparison, p in zip(comparisons, adjusted, strict=True)]


def _compare(name: str, first: Path, second: Path, metric: str | None) -> Comparison:
    summaries = read_summary(first), read_summary(second)
    metric = metric or summaries[0]["metrics"][0]
    for run, summary in zip((first, second), summaries, strict=True):
        if metric not in summary["metrics"]:
            raise ValueError(f"{run} has the metrics {', '.join(summary['metrics'])}, not {metric!r}")
    ones = {score.id: score for score in read_scores(first)}
    twos = {score.id: score for score in read_scores(second)}
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
        name,
        metric,
        accuracy_interval(correct[0], clusters),
        accuracy_interval(correct[1], clusters),
        paired,
        paired.cluster_p,
        tuple(warnings),
    )
