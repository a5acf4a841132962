"""
The help desk: a small API with a state, and tasks in it for agents that call tools over several turns.

```yaml
dataset_name: tiny/agents
environment_factory: rest_trl.lab.tiny.agents.HelpDesk
```
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ..world import Split, Step, generate
from .desk import HelpDesk, OutcomeHelpDesk
from .desk_tasks import Task, generate_tasks
from .dialogues import sample_dialogue


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["HelpDesk", "OutcomeHelpDesk", "Task", "generate_agent_steps", "generate_tasks", "load_tasks"]


def generate_agent_steps(split: Split, seed: int = 0) -> Iterator[Step]:
    """Distinct steps of gold dialogues without end, as [`~rest_trl.lab.tiny.world.generate`] yields them."""
    return generate(split, seed, sample_dialogue)


def load_tasks(split: Split = "train", size: int = 2048, seed: int = 0) -> "Dataset":
    """
    Tasks of the help desk, one per row.

    Args:
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"test"`; their requests are disjoint, whatever the seeds.
        size (`int`, *optional*, defaults to `2048`):
            Number of rows. A larger data set of the same seed starts with the rows of a smaller one.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the tasks.

    Returns:
        `datasets.Dataset`: columns `prompt` (messages: the request) and `task` (`str`, for the desk's `reset`).

    Raises:
        ValueError: if there is no such split.
    """
    from datasets import Dataset  # imported here, because the world itself does not need it

    tasks = list(islice(generate_tasks(split, seed), size))
    prompts = [[{"role": "user", "content": task.request}] for task in tasks]
    return Dataset.from_dict({"prompt": prompts, "task": [task.to_json() for task in tasks]})
