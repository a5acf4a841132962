r"""
Fresh prompts in the place of wasted groups.

A group whose completions have equal rewards has no advantages, so its generation is wasted. Up to `refill_groups`
groups of fresh prompts are sampled per rollout, and those whose rewards have a spread replace wasted groups.

The mean gradient keeps its direction. A wasted group's gradient is 0, so the mean gradient of a random prompt's group
is \(\mathbb{E}[g] = P(\text{spread})\, \mathbb{E}[g \mid \text{spread}]\). That of a group drawn until it has spread
is the same, longer by the factor \(1 / P(\text{spread})\).
"""

from typing import Any

import numpy as np
from accelerate.utils import gather_object
from datasets import Dataset

from ..credit.scaling import wasted_groups
from .rollout import Rollout


class RefilledGroups:
    """
    Replaces groups whose completions have equal rewards.

    The prompts come from a stream of their own, which depends on the seed and the step alone, so a resumed run draws
    the same ones. All ranks decide from the same rewards, so they generate equally often.

    Args:
        trainer ([`~rest_trl.ResTGRPOTrainer`]):
            The trainer.

    Raises:
        ValueError: if completions are not sampled by one generation per prompt, the data set is streamed, or
            `refill_groups` cannot be split over the processes.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, self._budget = trainer, trainer.args.refill_groups
        for name, is_there in (
            ("tools or an environment_factory", bool(trainer.tools) or trainer.environment_factories is not None),
            ("a rollout_func", trainer.rollout_func is not None),
            ("a policy of images", trainer.has_images),
            ("a data set that is streamed", not isinstance(trainer.train_dataset, Dataset)),
        ):
            if is_there:
                raise ValueError(f"refill_groups={self._budget} cannot be combined with {name}: set refill_groups=0")
        processes, size = trainer.accelerator.num_processes, trainer.num_generations
        # Groups that can be split evenly over the processes, branches staying whole.
        self._unit = int(np.lcm(size, processes * (trainer.args.branch_size or 1))) // size
        if self._budget % self._unit:
            raise ValueError(
                f"refill_groups={self._budget} groups of num_generations={size} cannot be split over {processes} "
                f"processes: make it a multiple of {self._unit}"
            )
        self._number = (-1, 0)  # step, and rollouts of it so far

    def refill(self, rollout: Rollout) -> None:
        """
        Replace the wasted groups of a rollout that has its rewards, and log how many groups were sampled and taken.

        Args:
            rollout ([`Rollout`]):
                Changed in place.
        """
        trainer, size, budget = self._trainer, self._trainer.num_generations, self._budget
        process, rewards = trainer.accelerator.process_index, rollout.rewards
        assert rewards is not None
        places, stream, first = wasted_groups(rewards, trainer), self._fresh_prompts(), process * len(rollout)
        num_extra, num_refilled = 0, 0
        while places and num_extra < budget:
            count = min(-(-len(places) // self._unit) * self._unit, budget - num_extra)
            chosen = stream[num_extra : num_extra + count]
            inputs = [trainer.train_dataset[i] for i in chosen for _ in range(size)]
            share = len(inputs) // trainer.accelerator.num_processes
            inputs = inputs[process * share : (process + 1) * share]
            extra = trainer.sample(inputs, [row["prompt"] for row in inputs])
            trainer.read(extra)
            fresh_rewards = trainer.reward(extra)
            fresh = gather_object([extra.row(index) for index in range(len(extra))])
            for group in sorted(set(range(count)) - set(wasted_groups(fresh_rewards, trainer))):
                if not places:
                    break
                place = places.pop(0) * size
                rewards[place : place + size] = fresh_rewards[group * size : (group + 1) * size]
                num_refilled += 1
                for member in range(size):
                    if first <= place + member < first + len(rollout):
                        rollout.replace(place + member - first, fresh[group * size + member])
            num_extra += count
            rollout.num_generated += extra.num_generated
        trainer.log_value("rest/groups/extra", num_extra)
        trainer.log_value("rest/groups/refilled", num_refilled)

    def _fresh_prompts(self) -> list[int]:
        step, number = self._number
        now = self._trainer.state.global_step
        self._number = (step, number + 1) if step == now else (now, 0)
        rng = np.random.default_rng((self._trainer.args.seed, *self._number))
        size = len(self._trainer.train_dataset)
        return rng.choice(size, self._budget, replace=self._budget > size).tolist()  # type: ignore[no-any-return]
