"""Dynamic scaling: how the bounds of the rewards move with the training."""

from typing import NamedTuple

from ..spelling import did_you_mean


SCHEDULES = ("static", "released", "horizon")

# Steps after which the released correctness bounds no longer move; the layout minimum stops after half of them.
RELEASED_RAMP = 150


class RewardBounds(NamedTuple):
    """The least and the greatest reward of both components."""

    layout_min: float
    layout_max: float
    correctness_min: float
    correctness_max: float


def check_schedule(schedule: str) -> None:
    """
    Check the name of a schedule.

    Raises:
        ValueError: if there is no such schedule.
    """
    if schedule not in SCHEDULES:
        hint = did_you_mean(schedule, SCHEDULES)
        raise ValueError(f"unknown reward schedule {schedule!r}: {hint}choose one of {', '.join(SCHEDULES)}")


def reward_bounds(schedule: str, step: int, max_steps: int) -> RewardBounds:
    """
    Bounds of both rewards at a training step. All schedules but `"static"` move weight from the layout to the calls.

    Args:
        schedule (`str`):
            - `"static"`: layout in [0, 1] and correctness in [-3, 3] at every step (ToolRL; the paper's ablation
              without dynamic reward).
            - `"released"`: the authors' code. With `x = step / 150`, layout in `[min(-1, -2 + 2x), max(1, 2 - x)]` and
              correctness in `[max(-3, -2 - x), min(3, 2 + x)]`.
            - `"horizon"`: the same with the training progress `x = step / max_steps`, so that a training of
              any length runs through the whole ramp.
        step (`int`):
            Rollouts done; with one update per rollout, `TrainerState.global_step`.
        max_steps (`int`):
            Rollouts of the whole training. Only `"horizon"` reads it; 0, as in an
            evaluation before any training, is progress 0 at step 0.

    Returns:
        [`RewardBounds`]

    Raises:
        ValueError: if there is no such schedule.
    """
    check_schedule(schedule)
    if schedule == "static":
        return RewardBounds(0.0, 1.0, -3.0, 3.0)
    ramp = step / (RELEASED_RAMP if schedule == "released" else max(1, max_steps))
    return RewardBounds(min(-1.0, -2 + 2 * ramp), max(1.0, 2 - ramp), max(-3.0, -2 - ramp), min(3.0, 2 + ramp))
