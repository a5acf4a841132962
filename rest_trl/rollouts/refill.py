r"""
Fresh prompts in the place of wasted groups.

A group whose completions have equal rewards has no advantages, so its generation is wasted. Up to `refill_groups`
groups of fresh prompts are sampled per rollout, and those whose rewards have a spread replace wasted groups.

The mean gradient keeps its direction. A wasted group's gradient is 0, so the mean gradient of a random prompt's group
is \(\mathbb{E}[g] = P(\text{spread})\, \mathbb{E}[g \mid \text{spread}]\). That of a group drawn until it has spread
is the same, longer by the factor \(1 / P(\text{spread})\).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from ..credit.scaling import has_spread


class _Row(NamedTuple):
    """One completion with its row of the data set, and the columns that rewards have logged for it."""

    inputs: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    logprobs: list[float | None] | None
    prefix_length: int | None
    columns: dict[str, Any]


class RefilledGroups:
    """
    Mixin of a [`~trl.GRPOTrainer`] that replaces groups whose completions have equal rewards.

    Each rollout of the training logs `rest/groups/wasted`: of the groups before any is replaced, the share in which
    all completions have equal rewards, up to rounding. TRL's `frac_reward_zero_std` is that share after replacing; it
    misses groups whose rewards differ by rounding alone, and with `scale_rewards="batch"` and `normalize_then_sum` it
    is computed over the batch. With `refill_groups`, `rest/groups/extra` counts the groups that were sampled in
    addition, and `rest/groups/refilled` those of them that were used.

    The prompts come from a stream of their own, which depends on the seed and the step alone, so a resumed run draws
    the same ones. All ranks decide from the same rewards, so they generate equally often.
    """

    args: Any
    accelerator: Any
    state: Any
    prefix_lengths: list[int] | None
    _ready: tuple[Any, torch.Tensor] | None = None  # what TRL gets instead of a generation and its rewards
    _rewards: torch.Tensor  # of the last rollout
    _refill_number: tuple[int, int] = (-1, 0)  # step, and rollouts of it so far
    _refill_unit: int = 1  # groups that can be split evenly over the processes

    def _set_up_refill(self) -> None:
        """
        Refuse settings with which groups cannot be refilled.

        Raises:
            ValueError: if completions are not sampled by one generation per prompt, the data set is streamed, or
                `refill_groups` cannot be split over the processes.
        """
        trainer: Any = self
        budget, size = self.args.refill_groups, self.args.branch_size if self.args.branch else 1
        if not budget:
            return
        for name, is_there in (
            ("tools or an environment_factory", bool(trainer.tools) or trainer.environment_factories is not None),
            ("a rollout_func", trainer.rollout_func is not None),
            ("a policy of images", trainer._is_vlm),
            ("a data set that is streamed", not isinstance(trainer.train_dataset, Dataset)),
        ):
            if is_there:
                raise ValueError(f"refill_groups={budget} cannot be combined with {name}: set refill_groups=0")
        processes = self.accelerator.num_processes
        self._refill_unit = int(np.lcm(trainer.num_generations, processes * size)) // trainer.num_generations
        if budget % self._refill_unit:
            raise ValueError(
                f"refill_groups={budget} groups of num_generations={trainer.num_generations} cannot be split over "
                f"{processes} processes: make it a multiple of {self._refill_unit}"
            )

    def _generate(self, prompts: list) -> Any:
        return super()._generate(prompts) if self._ready is None else self._ready[0]  # type: ignore[misc]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if self._ready is not None:
            return self._ready[1]
        self._rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        return self._rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        trainer: Any = self
        if not trainer.model.training or not self.args.refill_groups:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
            if trainer.model.training:
                self._log_groups(wasted=len(self._wasted(self._rewards)) / self._num_groups(self._rewards))
            return output
        rows, rewards = self._sample(inputs)
        wasted = self._wasted(rewards)
        self._log_groups(wasted=len(wasted) / self._num_groups(rewards))
        rows, num_extra, num_refilled = self._refill(rows, rewards, wasted)
        self._log_groups(extra=num_extra, refilled=num_refilled)
        if rows[0].prefix_length is not None:
            self.prefix_lengths = [row.prefix_length for row in rows]  # type: ignore[misc]
        for column in {name: None for row in rows for name in row.columns}:
            trainer._pending_extra_logs[column] = [row.columns.get(column) for row in rows]
        logprobs = None if rows[0].logprobs is None else [row.logprobs for row in rows]
        prompt_ids, completion_ids = [row.prompt_ids for row in rows], [row.completion_ids for row in rows]
        completions = [row.completion for row in rows]
        self._ready = (prompt_ids, completion_ids, None, completions, logprobs, {}, None, []), rewards
        try:
            return super()._generate_and_score_completions([row.inputs for row in rows])  # type: ignore[misc, no-any-return]
        finally:
            self._ready = None

    def _sample(self, inputs: list[dict[str, Any]]) -> tuple[list[_Row], torch.Tensor]:
        """Completions of this process, and the rewards of all processes, of shape `(N, K)`."""
        trainer: Any = self
        prompts = [row["prompt"] for row in inputs]
        prompt_ids, completion_ids, _, completions, logprobs, *_ = trainer._generate(prompts)
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)  # type: ignore[misc]
        logged = {name: list(values) for name, values in trainer._pending_extra_logs.items()}
        trainer._pending_extra_logs.clear()
        rows = [
            _Row(
                inputs=inputs[i],
                prompt_ids=prompt_ids[i],
                completion_ids=completion_ids[i],
                completion=completions[i],
                logprobs=None if logprobs is None else logprobs[i],
                prefix_length=None if self.prefix_lengths is None else self.prefix_lengths[i],
                columns={name: values[i] for name, values in logged.items()},
            )
            for i in range(len(inputs))
        ]
        return rows, rewards

    def _refill(self, rows: list[_Row], rewards: torch.Tensor, wasted: list[int]) -> tuple[list[_Row], int, int]:
        """Rows with `wasted` groups replaced, here and in `rewards`; and how many groups were sampled and used."""
        trainer: Any = self
        size, process = trainer.num_generations, self.accelerator.process_index
        places, stream, first = list(wasted), self._fresh_prompts(), process * len(rows)
        rows, num_extra = list(rows), 0
        while places and num_extra < self.args.refill_groups:
            count = -(-len(places) // self._refill_unit) * self._refill_unit
            count = min(count, self.args.refill_groups - num_extra)
            inputs = [trainer.train_dataset[i] for i in stream[num_extra : num_extra + count] for _ in range(size)]
            share = len(inputs) // self.accelerator.num_processes
            local, fresh_rewards = self._sample(inputs[process * share : (process + 1) * share])
            fresh = gather_object(local)
            useless = self._wasted(fresh_rewards)
            for group in sorted(set(range(count)) - set(useless)):
                if not places:
                    break
                place = places.pop(0) * size
                rewards[place : place + size] = fresh_rewards[group * size : (group + 1) * size]
                for member in range(size):
                    if first <= place + member < first + len(rows):
                        rows[place + member - first] = fresh[group * size + member]
            num_extra += count
        return rows, num_extra, len(wasted) - len(places)

    def _fresh_prompts(self) -> list[int]:
        trainer: Any = self
        step, number = self._refill_number
        self._refill_number = (step, number + 1) if step == self.state.global_step else (self.state.global_step, 0)
        rng = np.random.default_rng((self.args.seed, *self._refill_number))
        size, budget = len(trainer.train_dataset), self.args.refill_groups
        return rng.choice(size, budget, replace=budget > size).tolist()  # type: ignore[no-any-return]

    def _wasted(self, rewards: torch.Tensor) -> list[int]:
        trainer: Any = self
        weights, size = trainer.reward_weights.float().cpu(), trainer.num_generations
        spread = has_spread(rewards.float().cpu(), weights, size, trainer.multi_objective_aggregation)
        return torch.nonzero(~spread).flatten().tolist()

    def _num_groups(self, rewards: torch.Tensor) -> int:
        trainer: Any = self
        return len(rewards) // int(trainer.num_generations)

    def _log_groups(self, **values: float) -> None:
        trainer: Any = self
        for name, value in values.items():
            trainer._metrics["train"][f"rest/groups/{name}"].append(value)
