"""The curves of a run as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...tool_calls import Region
from .colors import COLORS
from .writing import write_figure


_SMOOTHED_FROM = 10  # points: of fewer, a mean over neighbours says less than the points themselves
_WINDOW = 0.1  # share of the points that a smoothed value is the mean of


def smoothed(values: Sequence[float]) -> list[float]:
    """
    Smooth a curve by centred running means.

    At the ends they are over fewer points, the same number on both sides, so that a trend is not bent.

    ```python
    >>> smoothed([0.0, 6.0, 0.0, 6.0])
    [0.0, 2.0, 4.0, 6.0]

    ```
    """
    reach = max(1, round(len(values) * _WINDOW / 2))
    means = []
    for index in range(len(values)):
        width = min(reach, index, len(values) - 1 - index)
        window = values[index - width : index + width + 1]
        means.append(sum(window) / len(window))
    return means


def plot_curves(
    log_history: Sequence[dict[str, float]],
    path: Path,
    baseline: Sequence[dict[str, float]] = (),
    baseline_name: str = "baseline",
    name: str = "",
) -> None:
    """
    Rewards, unscaled scores, region entropies and coefficients over the steps, as a PNG.

    Under uniform coefficients the size of the advantages is shown in their place.

    The rewards are what the policy was trained on, with the bounds of the reward schedule; the scores are what the
    rewards are made from before any schedule, so that they can be compared over a run.

    Args:
        log_history (`Sequence[dict[str, float]]`):
            `trainer.state.log_history`.
        path (`Path`):
            The file to write.
        baseline (`Sequence[dict[str, float]]`, *optional*):
            The `log_history` of another run, of which the summed reward, the scores and the entropies are drawn in
            dashes of the same colours.
        baseline_name (`str`, *optional*, defaults to `"baseline"`):
            What the legends call it.
        name (`str`, *optional*, defaults to `""`):
            The run and its arm, as the heading of the picture.
    """
    # Not pyplot: a checkpoint in the middle of a run must not touch the backend of the user's notebook.
    from matplotlib.figure import Figure

    logs = [log for log in log_history if "rest/progress" in log]
    keys = sorted({key for log in logs for key in log})
    figure = Figure(figsize=(13, 7), layout="constrained")
    figure.suptitle(name)
    axes = figure.subplots(2, 2, sharex=True)
    rewards = [key for key in keys if key.startswith("rewards/") and key.endswith("/mean")]
    _curve(axes[0, 0], logs, "reward", "sum", "black")
    labels = [key.split("/")[1].removesuffix("_reward") for key in rewards]
    scores = [key for key in keys if key.startswith("rest/reward/") and f"{key}_with_calls" not in keys]
    # A score has the colour of its reward.
    names = list(dict.fromkeys([*labels, *(key.removeprefix("rest/reward/") for key in scores)]))
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    for key, label in zip(rewards, labels, strict=True):
        _curve(axes[0, 0], logs, key, label, colors[label])
    for key in scores:
        label = key.removeprefix("rest/reward/")
        _curve(axes[0, 1], logs, key, label, colors[label])
    # Under uniform coefficients only the advantages show what a rule of credit does.
    coefficients = [value for log in logs for key, value in log.items() if key.startswith("rest/coefficient/")]
    last = "advantage" if all(abs(value - 1) < 1e-4 for value in coefficients) else "coefficient"
    for region in list(Region)[1:]:
        name, color = region.name.lower(), COLORS[region].line
        _curve(axes[1, 0], logs, f"rest/entropy/{name}", name, color)
        _curve(axes[1, 1], logs, f"rest/{last}/{name}", name, color)
        _dashed(axes[1, 0], baseline, f"rest/entropy/{name}", color)
    _dashed(axes[0, 0], baseline, "reward", "black")
    for key in scores:
        _dashed(axes[0, 1], baseline, key, colors[key.removeprefix("rest/reward/")])
    for axis in (axes[0, 0], axes[0, 1], axes[1, 0]) if baseline else ():
        axis.plot([], [], color="gray", linestyle="--", label=baseline_name)
    titles = (
        "Reward, as scheduled",
        "Scores of the training rollouts, unscaled",
        "Entropy per region (nats)",
        f"Mean {'size of the advantage' if last == 'advantage' else 'coefficient'} per region",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if axis.lines:
            # Beside the axes, where it covers no line.
            axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2, frameon=False)
        else:
            axis.text(0.5, 0.5, "none logged", ha="center", va="center", transform=axis.transAxes)
    for axis in axes[1]:
        axis.set_xlabel("step")
        axis.locator_params(axis="x", integer=True)
    write_figure(figure, path, dpi=120)


def _points(logs: Sequence[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    kept = [log for log in logs if log.get(key) is not None]
    return [log["step"] for log in kept], [log[key] for log in kept]


def _dashed(axis: Any, logs: Sequence[dict[str, float]], key: str, color: str) -> None:
    steps, values = _points([log for log in logs if "rest/progress" in log], key)
    if len(values) >= _SMOOTHED_FROM:
        values = smoothed(values)
    if values:
        axis.plot(steps, values, color=color, linestyle="--", linewidth=1)


def _curve(axis: Any, logs: Sequence[dict[str, float]], key: str, label: str, color: str) -> None:
    steps, values = _points(logs, key)
    if not values:
        return
    if len(values) < _SMOOTHED_FROM:
        axis.plot(steps, values, color=color, label=label, marker=".")
        return
    axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    axis.plot(steps, smoothed(values), color=color, label=label)
