"""One run of a benchmark: completions, scores, summary."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...runs.files import write_atomically
from ..intervals import accuracy_interval, mean_interval
from .benchmark import Benchmark
from .generation import Generator
from .samples import Score
from .store import CompletionStore


_PACKAGES = ("rest-trl", "transformers", "torch")


def evaluate(
    benchmark: Benchmark, generator: Generator, output_dir: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Run a benchmark, or go on with a run that was interrupted.

    Each completion is appended to `completions.jsonl` as soon as it is there. At the end, `samples.jsonl`, with one
    [`Score`] per line, and `summary.json` are written. If no completion is missing, the
    model is not run, so scoring again is cheap.

    Args:
        benchmark ([`Benchmark`]):
            What to run.
        generator ([`Generator`]):
            Runs the model.
        output_dir (`Path`):
            Folder of the run.
        settings (`Mapping[str, Any]`):
            What the completions depend on besides the benchmark, such as model, adapter, sampling and backend.

    Returns:
        `dict[str, Any]`: the summary.

    Raises:
        ValueError, OSError: see [`CompletionStore`].
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

    Args:
        scores (`Sequence[Score]`):
            One per sample.
        benchmark ([`Benchmark`]):
            Their benchmark.

    Returns:
        `dict[str, Any]`: with the keys

        - `metrics`, `measures`: their names.
        - `subsets`, `groups`, `overall`: number of samples, number of missing ones, and a figure per metric. `overall`
          is the benchmark's own figure, or `refused` with the reason why there is none. A figure that is the share of
          right samples has an interval. Where completions are missing, it also has `accuracy_of_generated`, the
          share among the generated ones, which some released scorers report. A measure has `mean`, `low` and `high`
          over the samples that were generated.
        - `missing`: ids of the samples without a completion, which count as wrong.

    Raises:
        ValueError: if there is no sample, or two have the same id.
    """
    if not scores or len({score.id for score in scores}) < len(scores):
        raise ValueError(f"{benchmark.name} must have samples, and ids that are unique")
    subsets: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        subsets[score.subset].append(score)
    overall: dict[str, Any] = {"n": len(scores), "missing": _missing(scores), **_means(scores, benchmark)}
    for metric in benchmark.metrics:
        figure = benchmark.overall(scores, metric)
        overall[metric] = {"refused": figure} if isinstance(figure, str) else _figure(figure, scores, metric)
    groups: dict[str, dict[str, Any]] = {}
    for metric in benchmark.metrics:
        for name, (figure, members) in benchmark.groups(scores, metric).items():
            group = groups.setdefault(
                name, {"n": len(members), "missing": _missing(members), **_means(members, benchmark)}
            )
            group[metric] = _figure(figure, members, metric)
    return {
        "metrics": list(benchmark.metrics),
        "measures": list(benchmark.measures),
        "subsets": {
            name: {
                "n": len(group),
                "missing": _missing(group),
                **{metric: _accuracy(group, metric) for metric in benchmark.metrics},
                **_means(group, benchmark),
            }
            for name, group in sorted(subsets.items())
        },
        "groups": groups,
        "overall": overall,
        "missing": [score.id for score in scores if score.missing],
    }


def read_scores(output_dir: Path) -> list[Score]:
    """
    The scores of a finished run.

    Args:
        output_dir (`Path`):
            Folder of the run.

    Returns:
        `list[Score]`

    Raises:
        FileNotFoundError: if there is no finished run.
        ValueError: if the file is broken.
    """
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


def _missing(scores: Sequence[Score]) -> int:
    return sum(score.missing for score in scores)


def _means(scores: Sequence[Score], benchmark: Benchmark) -> dict[str, dict[str, float]]:
    generated = [score for score in scores if not score.missing]
    if not generated:
        return {}
    clusters = [score.cluster for score in generated]
    means = {}
    for measure in benchmark.measures:
        interval = mean_interval([score.measures[measure] for score in generated], clusters)
        means[measure] = {"mean": interval.estimate}
        if interval.clusters > 1:
            means[measure] |= {"low": interval.low, "high": interval.high}
    return means


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
