"""Held-out accuracy of a policy while it trains."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...regions import Partitioner
from ...regions.token_bytes import TokenBytes
from ...rewards import ToolCallReward
from ...tool_calls import get_syntax
from ...trainer import ResTGRPOTrainer
from ..evaluation.agents_benchmark import Dialogue
from ..sampling import end_ids, sample, until_end
from .seeds import HELD_OUT, KINDS, TRAINING


_SPLIT = {f"{TRAINING}{kind}": f"{HELD_OUT}{kind}" for kind in ("", *KINDS)}
_MAX_TURNS = 16  # rounds of calls in a dialogue, where the training sets no limit


class HeldOut(TrainerCallback):
    """
    Measures the accuracy of the policy on held-out prompts, with one completion each that is sampled at temperature 1,
    and puts it into the trainer's log history as `held_out/exact`, with those of parts of the prompts beside it. The
    measurements, `evaluations` of them, are evenly spaced over the run, the last one at its end.

    The prompts and the seed of the sampling are always the same, and the trainer's random state is left alone.
    """

    def __init__(self, trainer: ResTGRPOTrainer, evaluations: int) -> None:
        self._trainer, self._evaluations = trainer, evaluations
        tokenizer: Any = trainer.processing_class
        self._tokenizer = tokenizer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        shares = range(1, self._evaluations + 1)
        if state.global_step in {round(state.max_steps * share / self._evaluations) for share in shares}:
            # Not through `trainer.log`, which would log and clear the metrics that this step has collected so far.
            state.log_history.append({"step": state.global_step, **self.measure()})

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Accuracy of the current policy, and of parts of the prompts, by the names under which they are logged."""

    def _sample(self, prompts: Sequence[str], seed: int, add_special_tokens: bool = False) -> list[list[int]]:
        """Ids of each completion up to the token that ends the turn, which is the last one if it was sampled."""
        max_new_tokens: Any = self._trainer.args.max_completion_length
        sampled = sample(
            self._model(), self._tokenizer, prompts, max_new_tokens, seed, add_special_tokens=add_special_tokens
        )
        ends = self._ends()
        return [until_end(ids, ends) for ids in sampled.tolist()]

    def _model(self) -> Any:
        return self._trainer.accelerator.unwrap_model(self._trainer.model)

    def _ends(self) -> set[int]:
        return end_ids(self._model(), self._tokenizer)


class HeldOutCalls(HeldOut):
    """
    The share of prompts, of the columns `prompt` (text) and `solution`, that are answered with exactly the gold calls;
    also apart for golds with calls, and without, as which any text without a call is as good.

    Raises:
        ValueError: if the prompts are messages.
    """

    def __init__(self, trainer: ResTGRPOTrainer, dataset: Dataset, evaluations: int) -> None:
        super().__init__(trainer, evaluations)
        if not isinstance(dataset[0]["prompt"], str):
            raise ValueError("the held-out prompts are messages, not text: load them with load_rest_dataset")
        self._prompts, self._solutions = list(dataset["prompt"]), list(dataset["solution"])
        name = trainer.tool_call_syntax
        partitioner = Partitioner(self._tokenizer, get_syntax(name))
        self._tools = list(dataset["tools"]) if "tools" in dataset.column_names else None
        self._reward = ToolCallReward().bind(
            name, lambda ids: partitioner.read_lists(ids).turns, "static", 1, end_ids=self._ends()
        )

    def measure(self) -> dict[str, float]:
        """See [`HeldOut.measure`]."""
        size, sampled = self._trainer.args.generation_batch_size or 1, []
        for start in range(0, len(self._prompts), size):
            prompts = self._prompts[start : start + size]
            sampled += self._sample(prompts, seed=start, add_special_tokens=True)  # as in the training
        metrics: dict[str, float] = {}
        self._reward(
            completions=[""] * len(sampled),
            completion_ids=sampled,
            solution=self._solutions,
            tools=self._tools,
            log_metric=metrics.__setitem__,
        )
        return {held_out: metrics[name] for name, held_out in _SPLIT.items() if name in metrics}


class HeldOutDialogues(HeldOut):
    """
    The mean `get_reward` of dialogues with an environment, one for each row: its column `prompt` (messages), and what
    the environment's `reset` takes.

    Raises:
        ValueError: if the environment has no `get_reward`.
    """

    def __init__(
        self,
        trainer: ResTGRPOTrainer,
        dataset: Dataset,
        evaluations: int,
        environment_factory: Callable[[], Any],
    ) -> None:
        super().__init__(trainer, evaluations)
        self._rows, self._factory = list(dataset), environment_factory
        environment = environment_factory()
        if not hasattr(environment, "get_reward"):
            raise ValueError(
                f"{type(environment).__name__} has no get_reward, so a study cannot tell which dialogues succeed: "
                "give it one that returns 1 for a success and 0 otherwise"
            )
        self.outcome = f"rewards/{type(environment).__name__}/mean"  # the name under which TRL logs it for rollouts

    def measure(self) -> dict[str, float]:
        """See [`HeldOut.measure`]."""
        trainer, total = self._trainer, 0.0
        size = trainer.args.generation_batch_size or 1
        syntax = get_syntax(trainer.tool_call_syntax)
        # Not `tokenizer.decode`, which would drop markers that are special tokens.
        token_bytes = TokenBytes(self._tokenizer, syntax.markers)
        kwargs: Any = trainer.args.chat_template_kwargs
        ends = self._ends()
        for start in range(0, len(self._rows), size):
            rows = self._rows[start : start + size]
            dialogues = [Dialogue(self._factory(), row, self._tokenizer, syntax, kwargs) for row in rows]
            live = dialogues
            for turn in range(1 + (trainer.args.max_tool_calling_iterations or _MAX_TURNS)):
                # Each turn of each batch has its seed.
                sampled = self._sample([dialogue.prompt for dialogue in live], seed=start + turn * len(self._rows))
                live = [
                    dialogue
                    for dialogue, ids in zip(live, sampled, strict=True)
                    if ids[-1] in ends and dialogue.take(token_bytes.text(ids[:-1]))
                ]
                if not live:
                    break
            total += sum(dialogue.environment.get_reward() for dialogue in dialogues)
        return {HELD_OUT: total / len(self._rows)}
