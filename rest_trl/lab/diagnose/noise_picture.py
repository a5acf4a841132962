"""A picture of where the gradient's noise comes from."""

from pathlib import Path
from typing import Any

import torch

from ...regions import Region
from ..display.colors import COLORS
from ..display.writing import write_figure
from .diagnosis import Diagnosis
from .moments import Estimates


_REGIONS = list(Region)[1:]


def plot_diagnosis(diagnosis: Diagnosis, minibatch: int, path: Path) -> None:
    """
    Noise by rule and region, noise and signal of GRPO by region, signal-to-noise by rule, and Lemma 2, as a PNG.

    Error bars are 95% intervals over groups. Bars that reach beyond an axis are cut off by it.
    """
    # Not pyplot, which would touch the backend of the user's notebook.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    found = diagnosis.gradient_estimates(minibatch)
    rules = [str(rule) for rule in diagnosis.rules]
    _noise_by_rule(axes[0, 0], rules, found["trace_share"])
    _noise_and_signal(axes[0, 1], found["trace_share"], found["signal_share"])
    _signal_to_noise(axes[1, 0], rules, found["esnr_ratio"])
    _lemma(axes[1, 1], diagnosis.lemma_estimates())
    for axis in axes.flat:
        axis.grid(alpha=0.3, axis="x" if axis in axes[:, 0] else "y")
        axis.set_axisbelow(True)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(rules)), rules)
        axis.invert_yaxis()
    for axis in axes[:, 1]:
        axis.set_xticks(range(len(_REGIONS)), [region.name.lower().replace("_", " ") for region in _REGIONS])
        for label, region in zip(axis.get_xticklabels(), _REGIONS, strict=True):
            label.set_color(COLORS[region].line)
            label.set_fontweight("bold")
            label.set_fontsize(9)
    write_figure(figure, path, dpi=100)


def _points(axis: Any, places: Any, estimates: Estimates, *, horizontal: bool = False, **style: Any) -> None:
    """Points with their intervals; one without an interval has no bar."""
    value, low, high = (part.tolist() for part in estimates)
    errors = [
        [middle - end if end == end else 0.0 for middle, end in zip(value, low, strict=True)],
        [end - middle if end == end else 0.0 for middle, end in zip(value, high, strict=True)],
    ]
    style = {"fmt": "o", "capsize": 3, "markersize": 5, **style}
    if horizontal:
        axis.errorbar(value, places, xerr=errors, **style)
    else:
        axis.errorbar(places, value, yerr=errors, **style)


def _end(estimates: Estimates, least: float = 0.0) -> float:
    """The end of an axis: beyond the intervals, but not so far that long ones squeeze the values."""
    value = max(least, float(estimates.value.nan_to_num(0.0).max()))
    return 1.1 * min(max(value, float(estimates.high.nan_to_num(0.0).max())), 2 * value)


def _noise_by_rule(axis: Any, rules: list[str], share: Estimates) -> None:
    starts = torch.zeros(len(rules), dtype=torch.float64)
    for region in _REGIONS:
        widths = share.value[:, region].nan_to_num(0.0).clamp(min=0.0)
        name = region.name.lower().replace("_", " ")
        axis.barh(range(len(rules)), widths.tolist(), left=starts.tolist(), color=COLORS[region].line, label=name)
        starts = starts + widths
    whole = Estimates(*(part[:, 0] for part in share))
    _points(axis, range(len(rules)), whole, horizontal=True, color="black", fmt="D", label="whole gradient")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xlim(0, _end(whole, 1.0))
    axis.set_title("Noise: trace of the covariance, GRPO's whole gradient is 1", fontsize=10)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.06), ncols=6, columnspacing=1, frameon=False)


def _noise_and_signal(axis: Any, noise: Estimates, signal: Estimates) -> None:
    places = torch.arange(len(_REGIONS)).double()
    shown = torch.tensor(_REGIONS)
    ends = []
    for shift, estimates, label, alpha in ((-0.2, noise, "noise", 1.0), (0.2, signal, "signal", 0.35)):
        of_grpo = Estimates(*(part[0, shown] for part in estimates))
        heights = of_grpo.value.nan_to_num(0.0).tolist()
        colors = [COLORS[region].line for region in _REGIONS]
        axis.bar((places + shift).tolist(), heights, 0.38, color=colors, alpha=alpha)
        _points(axis, (places + shift).tolist(), of_grpo, color="black", fmt="none")
        ends.append(_end(of_grpo))
        axis.bar([0], [0], color="black", alpha=alpha, label=label)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_ylim(top=max(ends))
    axis.set_title("GRPO: noise and signal of each region, whole gradient is 1", fontsize=10)
    axis.legend(fontsize=8)


def _signal_to_noise(axis: Any, rules: list[str], ratio: Estimates) -> None:
    whole = Estimates(*(part[:, 0] for part in ratio))
    _points(axis, range(len(rules)), whole, horizontal=True, color="black")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_title("Signal-to-noise along GRPO's mean gradient, GRPO is 1", fontsize=10)
    axis.set_ylim(-0.5, len(rules) - 0.5)
    axis.set_xlim(left=0)


def _lemma(axis: Any, found: dict[str, Estimates]) -> None:
    shown = torch.tensor(_REGIONS)
    for shift, name, label, marker in (
        (-0.15, "squares", "square of the score, sampled", "o"),
        (0.0, "expected", "its expectation, 1 - sum p²", "s"),
        (0.15, "bound", "bound of Lemma 2, 1 - exp(-H)", "^"),
    ):
        places = [place + shift for place in range(len(_REGIONS))]
        estimates = Estimates(*(part[shown] for part in found[name]))
        _points(axis, places, estimates, fmt=marker, label=label, color={"o": "black", "s": "C0", "^": "C3"}[marker])
    axis.set_ylim(bottom=0)
    axis.set_title("Lemma 2: the score of a token, means by region", fontsize=10)
    axis.legend(fontsize=8)
