"""Tasks in addition to the world of `rest_trl.lab.tiny.world`, and the checkpoints that are warm-started on them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from ..world import Split, Step, generate
from . import arguments, calls, decides


# How each task draws its steps.
TASKS: dict[str, Callable[[Random], list[Step]]] = {
    "decides": decides.sample_dialogue,
    "calls": calls.sample_dialogue,
    "arguments": arguments.sample_dialogue,
}
_CHECKPOINTS = Path(__file__).parent / "checkpoints"
# `calls` and `arguments` share a checkpoint, because both copy values from the request into calls.
TASK_MODEL_DIRS = {
    "decides": _CHECKPOINTS / "decides",
    "calls": _CHECKPOINTS / "copies",
    "arguments": _CHECKPOINTS / "copies",
}


def generate_task(task: str, split: Split, seed: int = 0) -> Iterator[Step]:
    """
    Generate distinct steps of a task's split without end.

    Args:
        task (`str`):
            `"decides"`: the request lacks the values, and the reasoning works them out. `"calls"`: two to four calls.
            `"arguments"`: one call with eight arguments.
        split (`str`):
            `"train"` or `"test"`. No request of one split occurs in the other, whatever the seeds.
        seed (`int`, *optional*, defaults to `0`):
            The same seed gives the same stream.

    Returns:
        `Iterator[Step]`: as [`~rest_trl.lab.tiny.world.generate`] yields them.

    Raises:
        ValueError: if there is no such task or split.
    """
    if task not in TASKS:
        raise ValueError(f"Unknown task {task!r} of the tiny world: use one of {', '.join(TASKS)}.")
    return generate(split, seed, TASKS[task])
