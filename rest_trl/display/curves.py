"""Curves of a run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..tool_calls import Region


def plot_curves(log_history: Sequence[dict[str, float]], path: Path) -> None:
    """
    Rewards, exact accuracy, region entropies and coefficients over the steps, as a PNG.

    Args:
        log_history (`Sequence[dict[str, float]]`):
            `trainer.state.log_history`.
        path (`Path`):
            The file to write.

    Raises:
        ImportError: if matplotlib is not installed (the extra `demo`).
    """
    # Not pyplot: a checkpoint in the middle of a run must not touch the backend of the user's notebook.
    from matplotlib.figure import Figure

    logs = [log for log in log_history if "rest/progress" in log]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)

    def curve(axis: Any, key: str, label: str) -> None:
        points = [(log["step"], log[key]) for log in logs if log.get(key) is not None]
        axis.plot(*zip(*points, strict=True), label=label) if points else None

    curve(axes[0, 0], "reward", "sum")
    curve(axes[0, 0], "rewards/tool_call_reward/mean", "tool calls")
    curve(axes[0, 0], "rewards/layout_reward/mean", "format")
    curve(axes[0, 1], "rest/reward/exact", "exact calls, training rollouts")
    for region in list(Region)[1:]:
        curve(axes[1, 0], f"rest/entropy/{region.name.lower()}", region.name.lower())
        curve(axes[1, 1], f"rest/coefficient/{region.name.lower()}", region.name.lower())
    titles = ("Reward", "Accuracy", "Entropy per region (nats)", "Mean coefficient per region")
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("step")
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)
