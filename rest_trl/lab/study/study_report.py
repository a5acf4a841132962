"""The report of a study: `report.md` and `report.png`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ...runs.files import write_atomically
from ..display.writing import markdown_table
from .arms import Run, Study
from .seeds import (
    HELD_OUT,
    KINDS,
    TRAINING,
    Estimate,
    collapse_step,
    curves,
    mean_over_seeds,
    paired_difference,
    price_of_level,
    window_size,
)
from .study_picture import plot_study


_LEAST_MEASUREMENTS = 5  # held-out ones, that a price can be read off
_UNITS = {"rollouts": "rollouts", "generated_tokens": "generated tokens", "seconds": "seconds"}
_INTERNALS = ("grad_norm", "rest/entropy/parameters", "rest/entropy/tool_name", "rest/entropy/reasoning")
_Measure = Callable[[pd.DataFrame, str, str], pd.Series]


def write_report(
    study: Study,
    results: pd.DataFrame,
    failures: Mapping[Run, str],
    versions: Mapping[str, str],
    command: str,
) -> Path:
    """
    Write `report.md` and `report.png` into the folder of a study, and return the path of the former.

    Only the arms and seeds of this study are reported, even if its folder holds others, so that `command` reproduces
    the whole report.

    Raises:
        ValueError: if the baseline has no finished run.
    """
    results = results[results["arm"].isin(list(study.arms)) & results["seed"].isin(study.seeds)]
    if "step_time" in results:
        results = results.assign(seconds=results.groupby(["arm", "seed"])["step_time"].cumsum())
    arms = [arm for arm in study.arms if (results["arm"] == arm).any()]
    if study.baseline not in arms:
        raise ValueError(f"no run of the baseline {study.baseline} is finished: run the study without --report_only")
    golds, watched = {"": ""}, results
    if all(f"{HELD_OUT}{kind}" in results for kind in KINDS):
        golds |= {kind: f", {name}" for kind, name in KINDS.items()}
        # Any text without a call is as good as a gold without one, which would hide a collapse.
        names = {metric: f"{metric}_with_calls" for metric in (TRAINING, HELD_OUT)}
        watched = results.assign(**{metric: results[name] for metric, name in names.items() if name in results})
    of_calls = golds.get("_with_calls", "")
    plot_study(watched, arms, study.baseline, study.output_dir / "report.png", of_calls)
    sections = [
        _head(study, results, arms, versions, command, is_split=watched is not results),
        _accuracies(results, arms, golds),
        _differences(results, arms, study.baseline, golds),
        _prices(watched, arms, study.baseline),
        _internals(results, arms),
        _collapses(study, watched, arms, failures),
    ]
    path = study.output_dir / "report.md"
    write_atomically(path, "\n\n".join(sections) + "\n")
    return path


def _head(
    study: Study,
    results: pd.DataFrame,
    arms: Sequence[str],
    versions: Mapping[str, str],
    command: str,
    is_split: bool,
) -> str:
    keys = sorted({key for settings in study.arms.values() for key in settings})
    differing = [key for key in keys if len({repr(settings.get(key)) for settings in study.arms.values()}) > 1] or [
        "nothing"
    ]
    settings = [
        [arm, *(f"`{study.arms[arm][key]}`" if key in study.arms[arm] else "default" for key in differing)]
        for arm in study.arms
    ]
    steps = results.groupby("arm")["step"].max()
    plays = any(settings.get("environment_factory") for settings in study.arms.values())
    measured = "the mean `get_reward` of the dialogues" if plays else "the share of exact calls"
    apart = ""
    if is_split:
        apart = (
            " Any text without a call is as good as a gold without one, so golds with and without calls are also told "
            "apart; curves, prices and collapses are those of golds with calls."
        )
    return "\n".join(
        [
            f"# Study: {', '.join(arms)}",
            "",
            "All figures here are those of",
            "",
            "```shell",
            command,
            "```",
            "",
            f"with {', '.join(f'{name} {version}' for name, version in versions.items())}. The runs of a seed share "
            "their start, their prompts and the random numbers of each step, so arms are compared seed by seed. "
            f"Runs have {_one_or_range(steps)} steps. *Training* is {measured} among the rollouts that are trained "
            "on. *Held-out* is the same among one completion, sampled at temperature 1, for each of at "
            f"most {study.held_out} prompts of the test split, always the same ones.{apart} Brackets are "
            "95 % intervals over seeds, by Student's t unless stated. They are not widened for the number of arms. A "
            "figure without a bracket has too few seeds for one, or the same value in all of them.",
            "",
            "![Curves of the study](report.png)",
            "",
            markdown_table(["arm", *differing], settings),
        ]
    )


def _held_out_at(results: pd.DataFrame, arm: str, kind: str, *, share: float) -> pd.Series:
    """Held-out accuracy by seed, if it was measured at this share of the run."""
    of_arm = results[results["arm"] == arm]
    if HELD_OUT not in of_arm:
        return pd.Series(dtype=float)
    rows = of_arm[of_arm["step"] == round(of_arm["step"].max() * share)]
    return rows.set_index("seed")[f"{HELD_OUT}{kind}"].dropna()


def _second_half(results: pd.DataFrame, arm: str, kind: str) -> pd.Series:
    table = curves(results, arm, f"{TRAINING}{kind}")
    return table.iloc[:, table.shape[1] // 2 :].mean(axis=1)


_MEASURES: dict[str, _Measure] = {
    "held-out, at the end": partial(_held_out_at, share=1.0),
    "held-out, half way": partial(_held_out_at, share=0.5),
    "training, second half": _second_half,
}


def _accuracies(results: pd.DataFrame, arms: Sequence[str], golds: Mapping[str, str]) -> str:
    rows = []
    for arm, (kind, of_golds) in product(arms, golds.items()):
        by_seed = [measure(results, arm, kind) for measure in _MEASURES.values()]
        cells = [_estimate(mean_over_seeds(values)) if len(values) else "not measured" for values in by_seed]
        rows.append([f"{arm}{of_golds}", results.loc[results["arm"] == arm, "seed"].nunique(), *cells])
    return "## Accuracy\n\n" + markdown_table(["arm", "seeds", *_MEASURES], rows)


def _differences(results: pd.DataFrame, arms: Sequence[str], baseline: str, golds: Mapping[str, str]) -> str:
    rows = []
    for arm, (kind, of_golds), (name, measure) in product(arms, golds.items(), _MEASURES.items()):
        paired = paired_difference(measure(results, arm, kind), measure(results, baseline, kind))
        if arm == baseline or paired is None:
            continue
        difference = paired.difference
        won = f"{paired.won} of {difference.seeds}" + (f", {paired.tied} tied" if paired.tied else "")
        rows.append([arm, f"{name}{of_golds}", difference.seeds, _estimate(difference, "+"), won])
    return f"## Paired differences to {baseline}\n\n" + (
        markdown_table(["arm", "measure", "seeds", "difference", "seeds won"], rows)
        if rows
        else "There is no pair of runs."
    )


def _prices(results: pd.DataFrame, arms: Sequence[str], baseline: str) -> str:
    measured = results.dropna(subset=[HELD_OUT]) if HELD_OUT in results else results.iloc[:0]
    rows, windows = [], set()
    for arm in arms:
        for name, metric, of, window in (("training", TRAINING, results, None), ("held-out", HELD_OUT, measured, 1)):
            ours, base = curves(of, arm, metric), curves(of, baseline, metric)
            if arm == baseline or ours.empty or base.empty or (window and base.shape[1] < _LEAST_MEASUREMENTS):
                continue
            pairs, reached, cells = len(ours.index.intersection(base.index)), "undefined", []
            for unit in _UNITS:
                spent, base_spent = curves(of, arm, unit), curves(of, baseline, unit)
                price = None if spent.empty else price_of_level(ours, spent, base, base_spent, window)
                cells.append("undefined" if price is None else _estimate(price.ratio, digits=2))
                if price is not None:
                    reached = f"{price.reached} of {pairs}"
            if not window:  # an arm of fewer steps than the baseline has smaller windows, for both
                windows.add(window_size(min(ours.shape[1], base.shape[1])))
            rows.append([arm, name, pairs, *cells, reached])
    steps = f"{' or '.join(map(str, sorted(windows or {1})))} step{'s' * (windows != {1})}"
    text = (
        f"## Price of {baseline}'s final level\n\n"
        f"The level is {baseline}'s mean accuracy at the end: in training over its last {steps}, held-out in its last "
        f"measurement. Mean curves, in training smoothed over windows of {steps}, are read where they first come to "
        "the level, by interpolation, and the ratio is what the arm has spent there over what "
        f"{baseline} has (bootstrap over pairs of seeds, which draws the level, too). *Seconds* are those of the "
        "training steps, and mean little on a busy machine. *Reached* counts the seeds whose single "
        f"curve comes to the level. The ratio is undefined where {baseline} ends no better than it starts; a held-out "
        f"one needs {_LEAST_MEASUREMENTS} measurements (`evaluations`).\n\n"
    )
    header = ["arm", "accuracy", "seeds", *_UNITS.values(), "reached"]
    return text + (markdown_table(header, rows) if rows else "There is no pair.")


def _internals(results: pd.DataFrame, arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        for metric in _INTERNALS:
            table = curves(results, arm, metric)
            if table.empty:
                continue
            size = window_size(table.shape[1])
            first, last = table.iloc[:, :size].mean(axis=1), table.iloc[:, -size:].mean(axis=1)
            rows.append(
                [arm, f"`{metric}`", len(table), _estimate(mean_over_seeds(first)), _estimate(mean_over_seeds(last))]
            )
    return (
        "## Gradient norms and entropies (nats)\n\nMeans over the first and the last window of steps.\n\n"
        + markdown_table(["arm", "metric", "seeds", "start", "end"], rows)
    )


def _collapses(study: Study, results: pd.DataFrame, arms: Sequence[str], failures: Mapping[Run, str]) -> str:
    lines = []
    for arm in arms:
        table = curves(results, arm, TRAINING)
        fallen = {seed: collapse_step(row) for seed, row in table.iterrows()}
        where = [f"seed {seed} at step {table.columns[place - 1]}" for seed, place in fallen.items() if place]
        lines.append(f"- {arm}: {len(where)} of {len(table)}{': ' if where else ''}{', '.join(where)}")
    for arm in study.arms:
        missing = [seed for seed in study.seeds if not ((results["arm"] == arm) & (results["seed"] == seed)).any()]
        reasons = [f"seed {seed} failed" for seed in missing if (arm, seed) in failures]
        if missing:
            reasons.append(f"{len(missing) - len(reasons)} not finished")
            lines.append(f"- {arm}: without {len(missing)} of {len(study.seeds)} seeds ({', '.join(reasons)})")
    return (
        "## Collapses and missing runs\n\nA run has collapsed if its training accuracy, smoothed over 5 steps or "
        "more, falls under half of the best before, and by more than five standard errors.\n\n" + "\n".join(lines)
    )


def _estimate(estimate: Estimate, sign: str = "", digits: int = 4) -> str:
    def number(value: float) -> str:
        return f"{value:{sign}.{digits}f}" if np.isfinite(value) else "never"

    if estimate.low is None or estimate.high is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def _one_or_range(values: pd.Series) -> str:
    return f"{values.min()}" if values.min() == values.max() else f"{values.min()} to {values.max()}"
