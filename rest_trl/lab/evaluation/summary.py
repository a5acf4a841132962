"""One run of a benchmark: completions, scores, the summary with its intervals, and its table."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from ...runs.files import write_atomically
from ..intervals import accuracy_interval, mean_interval
from .benchmark import Benchmark, Score
from .generation import CompletionStore, Generator


_MOST_GROUPS = 30  # that a table shows, of own data with hundreds of tools
_PACKAGES = ("rest-trl", "transformers", "torch")


def evaluate(
    benchmark: Benchmark, generator: Generator, output_dir: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Run a benchmark, or continue an interrupted run, and return its summary.

    Each completion is appended to `completions.jsonl` as soon as it is there. At the end, `samples.jsonl`, with one
    [`Score`] per line, and `summary.json` are written. If no completion is missing, the model is not run, so scoring
    again is cheap. `settings` are what the completions depend on besides the benchmark, such as model, adapter and
    backend.
    """
    start = time.monotonic()
    settings = {"benchmark": benchmark.name, **benchmark.settings, **settings}
    with CompletionStore(output_dir, settings) as store:
        reused = len(store)
        scores = benchmark.run(generator, store)
        summary = {
            **settings,
            **summarize(scores, benchmark),
            "protocol": list(benchmark.protocol),
            "notes": benchmark.notes,
            "versions": {package: version(package) for package in _PACKAGES},
            "generated": len(store) - reused,
            "reused": reused,
            "seconds": round(time.monotonic() - start, 1),
        }
        write_atomically(output_dir / "samples.jsonl", "".join(map(_line, scores)))
        write_atomically(output_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def summarize(scores: Sequence[Score], benchmark: Benchmark) -> dict[str, Any]:
    """
    Compute the accuracies of every subset and overall, with 95% intervals.

    Returns a dictionary with the keys

    - `metrics`, `measures`: their names.
    - `subsets`, `groups`, `overall`: number of samples, number of missing ones, and a figure per metric. `overall` is
      the benchmark's figure, or `refused` with the reason why there is none. A figure that is the share of right
      samples has an interval. Where completions are missing, it also has `accuracy_of_generated`, the share among the
      generated ones, which some released scorers report. A measure has `mean`, `low` and `high` over the samples that
      were generated.
    - `missing`: ids of the samples without a completion, which count as wrong.
    """
    if not scores or len({score.id for score in scores}) < len(scores):
        raise ValueError(f"{benchmark.name} must have samples, and ids that are unique")
    subsets: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        subsets[score.subset].append(score)
    overall = _row(scores, benchmark)
    for metric in benchmark.metrics:
        figure = benchmark.overall(scores, metric)
        overall[metric] = {"refused": figure} if isinstance(figure, str) else _figure(figure, scores, metric)
    groups: dict[str, dict[str, Any]] = {}
    for metric in benchmark.metrics:
        for name, (figure, members) in benchmark.groups(scores, metric).items():
            groups.setdefault(name, _row(members, benchmark))[metric] = _figure(figure, members, metric)
    return {
        "metrics": list(benchmark.metrics),
        "measures": list(benchmark.measures),
        "subsets": {
            name: {**_row(members, benchmark), **{metric: _accuracy(members, metric) for metric in benchmark.metrics}}
            for name, members in sorted(subsets.items())
        },
        "groups": groups,
        "overall": overall,
        "missing": [score.id for score in scores if score.missing],
    }


def read_scores(output_dir: Path) -> list[Score]:
    """The scores of a finished run, of `samples.jsonl`."""
    path = output_dir / "samples.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{output_dir} holds no finished run: give the command of the run again to finish it")
    try:
        return [Score(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give the command of the run again to write it") from error


def _line(score: Score) -> str:
    """A line of `samples.jsonl`. Calls that are too deep to be written as JSON are left out; the text has them."""
    try:
        return json.dumps(vars(score), ensure_ascii=False) + "\n"
    except RecursionError:
        return json.dumps({**vars(score), "calls": []}, ensure_ascii=False) + "\n"


def _row(scores: Sequence[Score], benchmark: Benchmark) -> dict[str, Any]:
    """Number of samples, number of missing ones, and the means of the measures over those that are not missing."""
    generated = [score for score in scores if not score.missing]
    row: dict[str, Any] = {"n": len(scores), "missing": len(scores) - len(generated)}
    for measure in benchmark.measures if generated else ():
        values = [score.measures[measure] for score in generated]
        interval = mean_interval(values, [score.cluster for score in generated])
        row[measure] = {"mean": interval.estimate}
        if interval.clusters > 1:
            row[measure] |= {"low": interval.low, "high": interval.high}
    return row


def _figure(figure: float, scores: Sequence[Score], metric: str) -> dict[str, Any]:
    """A benchmark's figure. If it is the share of right samples, it comes with the interval of that share."""
    interval = _accuracy(scores, metric)
    return interval if abs(interval["accuracy"] - figure) < 1e-9 else {"accuracy": figure}


def _accuracy(scores: Sequence[Score], metric: str) -> dict[str, Any]:
    interval = accuracy_interval([score.scores[metric] for score in scores], [score.cluster for score in scores])
    figures: dict[str, Any] = {
        "accuracy": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "clusters": interval.clusters,
    }
    generated = [score.scores[metric] for score in scores if not score.missing]
    if len(generated) < len(scores):
        figures["accuracy_of_generated"] = sum(generated) / len(generated) if generated else None
    return figures


def summary_table(summary: Mapping[str, Any]) -> Table:
    """A run for the terminal."""
    adapter = f" + {summary['adapter']}" if summary["adapter"] else ""
    unit = "percent and means" if summary["measures"] else "percent"
    table = Table(title=f"{summary['benchmark']}: {summary['model']}{adapter}, {unit} with 95% intervals")
    for column in ("", "n", *summary["metrics"], *summary["measures"]):
        table.add_column(column, justify="left" if column == "" else "right")
    groups = list(summary["groups"].items())
    if len(groups) > _MOST_GROUPS:
        table.caption = f"{len(groups) - _MOST_GROUPS} more groups in summary.json"
    rows = [*summary["subsets"].items(), *groups[:_MOST_GROUPS], ("overall", summary["overall"])]
    for name, row in rows:
        figures = [cell(row[metric]) or "none" for metric in summary["metrics"]]
        means = [mean_cell(row[measure]) if measure in row else "none" for measure in summary["measures"]]
        table.add_row(name, str(row["n"]), *figures, *means)
    return table


def mean_cell(figure: Mapping[str, float]) -> str:
    """The figure of a measure, such as `3.2 ± 0.3`."""
    mean = f"{figure['mean']:.1f}"
    return f"{mean} ± {(figure['high'] - figure['low']) / 2:.1f}" if "low" in figure else mean


def cell(figure: Mapping[str, Any], digits: int = 1) -> str:
    """The figure of a metric in percent, such as `50.0 [41.2, 58.8]`; empty if the benchmark refused to give it."""
    if "accuracy" not in figure:
        return ""
    accuracy = f"{100 * figure['accuracy']:.{digits}f}"
    if "low" not in figure:
        return accuracy
    return f"{accuracy} [{100 * figure['low']:.{digits}f}, {100 * figure['high']:.{digits}f}]"
