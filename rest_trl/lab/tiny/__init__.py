"""What the package ships: synthetic tool worlds, and tiny Qwen3 checkpoints warm-started on them."""

from collections.abc import Collection, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ...spelling import did_you_mean
from ..packaged import SMOLLM2
from .agents import generate_agent_steps
from .tasks import generate_task
from .world import Split, Step, generate


if TYPE_CHECKING:
    from datasets import Dataset

TINY = "tiny"
TINY_AGENTS = f"{TINY}/agents"
_CHECKPOINTS = Path(__file__).parent / "checkpoints"
# The embedded models. Each has the name of the data set that it was warm-started on.
TINY_MODELS = {
    TINY: _CHECKPOINTS / "world",
    f"{TINY}/decides": _CHECKPOINTS / "decides",
    # They share a checkpoint, because both tasks copy values from the request into calls.
    f"{TINY}/calls": _CHECKPOINTS / "copies",
    f"{TINY}/arguments": _CHECKPOINTS / "copies",
    TINY_AGENTS: _CHECKPOINTS / "agents",
}
TINY_MODEL_DIR = TINY_MODELS[TINY]
TINY_DATASETS = tuple(TINY_MODELS)


def is_tiny(name: str, choices: Collection[str]) -> bool:
    """
    Whether a name is one of the choices, which are `TINY_MODELS` or `TINY_DATASETS`.

    Raises:
        ValueError: if it begins with `tiny/`, and is neither among the choices nor an existing path.
    """
    if name in choices:
        return True
    if name.startswith(f"{TINY}/") and not Path(name).exists():
        hint = did_you_mean(name, choices)
        raise ValueError(f"the package holds no {name}: {hint}choose one of {', '.join(choices)}")
    return False


def resolve_model(name: str) -> str:
    """
    The directory of an embedded model, or of `smollm2`; any other name is returned as it is.

    Raises as [`is_tiny`] and [`~rest_trl.lab.packaged.smollm2.smollm2_dir`] do.
    """
    if name == SMOLLM2:
        from ..packaged.smollm2 import smollm2_dir

        return str(smollm2_dir())
    return str(TINY_MODELS[name]) if is_tiny(name, TINY_MODELS) else name


def generate_steps(name: str, split: Split, seed: int = 0) -> Iterator[Step]:
    """Distinct steps of an embedded data set's split without end; raises `ValueError` for an unknown name or split."""
    if name not in TINY_DATASETS:
        raise ValueError(f"the package holds no data set {name}: choose one of {', '.join(TINY_DATASETS)}")
    if name == TINY_AGENTS:
        return generate_agent_steps(split, seed)
    return generate(split, seed) if name == TINY else generate_task(name.removeprefix(f"{TINY}/"), split, seed)


def load_tiny_dataset(split: Split = "train", size: int = 2048, seed: int = 0, name: str = TINY) -> "Dataset":
    """
    A split of a synthetic tool world, rendered for the tiny model that was warm-started on it.

    Args:
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"test"`; their prompts are disjoint, whatever the seeds.
        size (`int`, *optional*, defaults to `2048`):
            Number of rows. A larger data set of the same seed starts with the rows of a smaller one.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the world.
        name (`str`, *optional*, defaults to `"tiny"`):
            `"tiny"`, the world in which half of the reasonings are mere noise; one of the tasks of
            [`~rest_trl.lab.tiny.tasks.generate_task`]: `"tiny/decides"`, `"tiny/calls"`, `"tiny/arguments"`; or
            `"tiny/agents"`, single steps of dialogues at the help desk. [`~rest_trl.lab.tiny.agents.load_tasks`] gives
            the desk's tasks for an environment.

    Returns:
        `datasets.Dataset`: columns `prompt` (`str`: tools, history and the opened assistant turn) and `solution`
        (`str`: the gold completion in the hermes wire syntax).

    Raises:
        ValueError: if there is no such split or name.
    """
    from datasets import Dataset  # here, because the world itself does not need it

    prompts, solutions = render_rows(name, split, size, seed)
    return Dataset.from_dict({"prompt": list(prompts), "solution": list(solutions)})


@cache
def render_rows(name: str, split: Split, size: int, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    The prompts and the solutions of [`load_tiny_dataset`], which has the same arguments.

    They are kept: rendering takes a second, and a process that makes several trainers needs the same rows each time.
    """
    from transformers import AutoTokenizer

    from .tokenization import render_prompt

    steps = list(islice(generate_steps(name, split, seed), size))
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODELS[name])
    return tuple(render_prompt(step, tokenizer) for step in steps), tuple(step.solution for step in steps)
