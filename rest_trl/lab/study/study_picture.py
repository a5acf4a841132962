"""The curves of a study as one picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..display.writing import write_figure
from .seeds import HELD_OUT, TRAINING, curves, mean_over_seeds, window_means, window_size


_ENTROPIES = ("parameters", "tool_name", "reasoning")
_MOST_BANDS = 6  # arms; the bands of more would cover the lines


def plot_study(results: pd.DataFrame, arms: list[str], baseline: str, path: Path, golds: str = "") -> None:
    """
    Learning curves, their differences to the baseline, gradient norms and entropies over the steps, as a PNG.

    Lines are means over seeds, bands their 95% t intervals; with one or two seeds, or more than six arms, there are no
    bands. `golds` says whose accuracies these are, if not those of all golds.
    """
    # Not pyplot, which would touch the backend of the user's notebook.
    from matplotlib import color_sequences
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(11, 13), layout="constrained")
    axes = figure.subplots(4, 2)
    titles = [
        f"Exact calls{golds}, training rollouts (smoothed)",
        f"Exact calls{golds}, held-out prompts",
        f"Exact calls{golds}, training rollouts: difference to {baseline}",
        f"Exact calls{golds}, training rollouts, by generated tokens",
        "Gradient norm (smoothed)",
        *(f"Entropy, {region.replace('_', ' ')} (nats, smoothed)" for region in _ENTROPIES),
    ]
    colors = color_sequences["tab10" if len(arms) <= 10 else "tab20"]
    has_bands = len(arms) <= _MOST_BANDS
    base = _smoothed(results, baseline, TRAINING)
    beside = 0.008 * results["step"].max()
    for number, arm in enumerate(arms):
        color = colors[number % len(colors)]
        accuracy = _smoothed(results, arm, TRAINING)
        _curve(axes[0, 0], accuracy, color, has_bands)
        _held_out_points(axes[0, 1], results, arm, color, (number - (len(arms) - 1) / 2) * beside)
        if arm != baseline:
            _curve(axes[1, 0], (accuracy - base).dropna(how="all").dropna(axis=1), color, has_bands)
        tokens = _smoothed(results, arm, "generated_tokens")
        _curve(axes[1, 1], accuracy, color, has_bands, None if tokens.empty else tokens.mean().to_numpy())
        _curve(axes[2, 0], _smoothed(results, arm, "grad_norm"), color, has_bands)
        for axis, region in zip((axes[2, 1], axes[3, 0], axes[3, 1]), _ENTROPIES, strict=True):
            _curve(axis, _smoothed(results, arm, f"rest/entropy/{region}"), color, has_bands)
    if HELD_OUT in results:
        axes[0, 1].set_xticks(sorted(results.dropna(subset=[HELD_OUT])["step"].unique()))
    axes[1, 1].xaxis.set_major_formatter(EngFormatter(sep=""))
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("generated tokens" if title.endswith("tokens") else "step")
        axis.grid(alpha=0.3)
        if not axis.has_data():
            axis.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=axis.transAxes)
    axes[1, 0].axhline(0, color="black", linewidth=0.8)
    accuracies = results[[metric for metric in (TRAINING, HELD_OUT) if metric in results]].to_numpy(dtype=float)
    if accuracies.size and np.nanmin(accuracies) >= 0 and np.nanmax(accuracies) <= 1:
        for axis in (axes[0, 0], axes[0, 1], axes[1, 1]):  # only intervals reach beyond
            low, high = axis.get_ylim()
            axis.set_ylim(max(0.0, low), min(1.0, high))
    lines = [Line2D([], [], color=colors[number % len(colors)], label=arm) for number, arm in enumerate(arms)]
    figure.legend(handles=lines, loc="outside upper center", ncols=min(len(arms), 5), fontsize=9)
    write_figure(figure, path, dpi=110)


def _smoothed(results: pd.DataFrame, arm: str, metric: str) -> pd.DataFrame:
    """A smoothed metric of an arm: a row per seed, and a column per window, named by the window's middle."""
    table = curves(results, arm, metric)
    if table.empty:
        return table
    size = window_size(table.shape[1])
    middles = window_means(table.columns.to_numpy(dtype=float), size)
    return pd.DataFrame(window_means(table, size), index=table.index, columns=middles)


def _curve(axis: Any, table: pd.DataFrame, color: Any, has_bands: bool, places: NDArray[Any] | None = None) -> None:
    if table.empty:
        return
    places = table.columns.to_numpy(dtype=float) if places is None else places
    estimates = [mean_over_seeds(table[column]) for column in table]
    marker = "." if len(estimates) == 1 else None
    axis.plot(places, [estimate.value for estimate in estimates], color=color, marker=marker)
    if has_bands:
        low, high = np.array([(estimate.low, estimate.high) for estimate in estimates], dtype=float).T
        axis.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def _held_out_points(axis: Any, results: pd.DataFrame, arm: str, color: Any, shift: float) -> None:
    """Means of the measurements with their intervals, beside those of the other arms; a faint point for each seed."""
    if HELD_OUT not in results:
        return
    measured = results[results["arm"] == arm].dropna(subset=[HELD_OUT])
    if measured.empty:
        return
    steps, estimates = [], []
    for step, rows in measured.groupby("step"):
        steps.append(float(step) + shift)
        estimates.append(mean_over_seeds(rows[HELD_OUT]))
    axis.plot(measured["step"] + shift, measured[HELD_OUT], ".", color=color, alpha=0.25, markersize=4)
    errors = [np.nan if estimate.high is None else estimate.high - estimate.value for estimate in estimates]
    values = [estimate.value for estimate in estimates]
    axis.errorbar(steps, values, yerr=errors, fmt="o", color=color, capsize=3, markersize=5)
