"""Held-out accuracy of a policy while it trains."""

from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..regions import Partitioner
from ..regions.rollout import RolloutReader
from ..rewards import ToolCallReward
from ..runs.held_out import sample
from ..tool_calls import get_syntax
from ..trainer import ResTGRPOTrainer


METRIC = "held_out/exact"


class HeldOut(TrainerCallback):
    """
    Measures the share of held-out prompts that one completion, sampled at temperature 1, answers with exactly the gold
    calls, and puts it into the trainer's log history as `held_out/exact`.

    The prompts and the seed of the sampling are always the same, and the trainer's random state is left alone.

    Args:
        trainer ([`ResTGRPOTrainer`]):
            The trainer.
        dataset ([`~datasets.Dataset`]):
            Columns `prompt` (text) and `solution`.
        evaluations (`int`):
            How often to measure, evenly over the run; the last time at its end.

    Raises:
        ValueError: if the prompts are messages.
    """

    def __init__(self, trainer: ResTGRPOTrainer, dataset: Dataset, evaluations: int) -> None:
        if not isinstance(dataset[0]["prompt"], str):
            raise ValueError("the held-out prompts are messages, not text: load them with load_rest_dataset")
        self._trainer = trainer
        self._prompts, self._solutions = list(dataset["prompt"]), list(dataset["solution"])
        self._evaluations = evaluations
        name = trainer.tool_call_syntax
        tokenizer: Any = trainer.processing_class
        self._tokenizer = tokenizer
        partitioner = Partitioner(tokenizer, get_syntax(name))
        self._reward = ToolCallReward().bind(name, RolloutReader(partitioner).turns, "static", 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        shares = range(1, self._evaluations + 1)
        if state.global_step in {round(state.max_steps * share / self._evaluations) for share in shares}:
            # Not by `trainer.log`, which would take the step's own metrics with it.
            state.log_history.append({"step": state.global_step, METRIC: self.measure()})

    def measure(self) -> float:
        """
        Accuracy of the policy as it is.

        Returns:
            `float`
        """
        trainer = self._trainer
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        size, exact = trainer.args.generation_batch_size or 1, 0.0
        max_new_tokens: Any = trainer.args.max_completion_length
        end = model.generation_config.eos_token_id
        ends = set(end) if isinstance(end, list) else {end, self._tokenizer.eos_token_id}
        for start in range(0, len(self._prompts), size):
            solutions = self._solutions[start : start + size]
            prompts = self._prompts[start : start + size]
            sampled = sample(model, self._tokenizer, prompts, max_new_tokens, seed=start)
            completion_ids = [_until_end(ids, ends) for ids in sampled.tolist()]
            metrics: dict[str, float] = {}
            self._reward(
                completions=[""] * len(solutions),
                completion_ids=completion_ids,
                solution=solutions,
                log_metric=metrics.__setitem__,
            )
            readable = len(solutions) * (1 - metrics["rest/reward/unreadable_solution"])
            exact += metrics.get("rest/reward/exact", 0.0) * readable
        return exact / len(self._prompts)


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    """Completion ids with the first end, and without the padding behind it."""
    return ids[: next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))]
