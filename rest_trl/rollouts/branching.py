"""Rollouts whose completions share their reasonings, in a trainer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..serving.recovery import GuardedGeneration
from .cached import BranchedGenerate
from .reasoning import ReasoningEnd
from .served import sample_branches


# Settings of a generation whose effect does not depend on where it starts.
_ANYWHERE = {"bad_words_ids", "do_sample", "min_p", "repetition_penalty", "temperature", "top_k", "top_p"}


class BranchedRollouts:
    """
    Mixin of a [`~trl.GRPOTrainer`] that samples branches where its `args` say so.

    Evaluations sample whole completions, because they measure single ones.

    Each rollout of the training logs `rest/generated_tokens`, the number of tokens that were sampled for it: tokens
    that completions share count once, and discarded ones count too. With branches it also logs `rest/branch/whole`,
    the share of branches with nothing after the reasoning, whose completions are all equal, and
    `rest/branch/without_reasoning`, the share of those in which no reasoning was opened.

    Attributes:
        prefix_lengths (`list[int]` of length `B`, *optional*):
            Number of tokens that each completion of the last rollout shares with the others of its branch; `None` if
            it was sampled without branches.
    """

    args: Any
    accelerator: Any
    prefix_lengths: list[int] | None = None
    _reasoning_end: ReasoningEnd | None = None
    _num_generated: int = 0

    def _set_up_branches(self, partitioner: Any) -> None:
        """
        Set up branches if the `args` say so, and refuse settings that they do not work with.

        Args:
            partitioner ([`~rest_trl.regions.Partitioner`]):
                Has the bytes of the tokens, and the syntax.

        Raises:
            ValueError: if completions are not sampled by one generation per prompt, or the syntax does not tell where
                reasoning ends.
        """
        if self.args.branch is None:
            return
        trainer: Any = self
        for name, is_there in (
            ("tools or an environment_factory", bool(trainer.tools) or trainer.environment_factories is not None),
            ("a rollout_func", trainer.rollout_func is not None),
            ("a policy of images", trainer._is_vlm),
            ("use_transformers_continuous_batching", trainer.use_transformers_continuous_batching),
        ):
            if is_there:
                raise ValueError(f"branch={self.args.branch!r} cannot be combined with {name}: set branch=None")
        settings = sorted(set(self.args.generation_kwargs or {}) - _ANYWHERE)
        if settings:
            raise ValueError(
                f"branch={self.args.branch!r} starts to generate twice, and generation_kwargs has settings that may "
                f"depend on the start ({', '.join(settings)}): leave them out, or set branch=None"
            )
        self._reasoning_end = ReasoningEnd(partitioner.token_bytes, partitioner.tool_call_syntax)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        trainer: Any = self
        self._num_generated = 0
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if trainer.model.training:
            count = torch.tensor([self._num_generated], device=self.accelerator.device)
            trainer._metrics["train"]["rest/generated_tokens"].append(self.accelerator.gather(count).sum().item())
        return output

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *args: Any, **kwargs: Any
    ) -> Any:
        trainer: Any = self
        inputs = images, multimodal_fields, num_generations
        if self._reasoning_end is None or not trainer.model.training:
            self.prefix_lengths = None
            output = super()._generate_single_turn(prompt_ids, *inputs, *args, **kwargs)  # type: ignore[misc]
            self._num_generated += sum(map(len, output[0]))
            return output
        if trainer.use_vllm:
            generation = trainer.vllm_generation
            sampled = sample_branches(
                lambda ids, count: super(BranchedRollouts, self)._generate_single_turn(ids, None, {}, count),  # type: ignore[misc]
                generation.generation if isinstance(generation, GuardedGeneration) else generation,
                self._reasoning_end,
                prompt_ids,
                num_generations,
                self.args.branch_size,
                trainer.eos_token_ids,
            )
            completion_ids, logprobs, self.prefix_lengths, num_discarded = sampled
        else:
            with self._branched_generate(self._reasoning_end) as generate:
                output = super()._generate_single_turn(prompt_ids, *inputs, *args, **kwargs)  # type: ignore[misc]
            (completion_ids, logprobs), self.prefix_lengths, num_discarded = output, generate.prefix_lengths, 0
        self._log_branches(prompt_ids, completion_ids, num_discarded)
        return completion_ids, logprobs

    @contextmanager
    def _branched_generate(self, reasoning_end: ReasoningEnd) -> Iterator[BranchedGenerate]:
        """Make TRL's generation sample branches, and keep all that it prepares for sharded models."""
        trainer: Any = self
        model = self.accelerator.unwrap_model(trainer.model_wrapped)
        size = self.args.branch_size
        branched = BranchedGenerate(model.generate, reasoning_end, size, trainer.eos_token_ids)
        model.generate = branched
        try:
            yield branched
        finally:
            del model.generate  # restores the method of its class

    def _log_branches(self, prompt_ids: Any, completion_ids: list[list[int]], num_discarded: int) -> None:
        trainer: Any = self
        size, prefix_lengths = self.args.branch_size, self.prefix_lengths or []
        branches = list(zip(prompt_ids, completion_ids, prefix_lengths, strict=True))[::size]
        behind = [len(ids) - length for ids, length in zip(completion_ids, prefix_lengths, strict=True)]
        self._num_generated += sum(behind) + sum(prefix_lengths[::size]) + num_discarded
        counts = torch.tensor(
            [
                sum(not any(behind[start : start + size]) for start in range(0, len(behind), size)),
                sum(not self._has_reasoning(prompt, ids[:length]) for prompt, ids, length in branches),
                len(branches),
            ],
            device=self.accelerator.device,
        )
        whole, without, total = self.accelerator.gather(counts).view(-1, 3).sum(0).tolist()
        metrics = trainer._metrics["train"]
        metrics["rest/branch/whole"].append(whole / total)
        metrics["rest/branch/without_reasoning"].append(without / total)

    def _has_reasoning(self, prompt_ids: list[int], prefix_ids: list[int]) -> bool:
        watch = self._reasoning_end.watch(prompt_ids)  # type: ignore[union-attr]  # only with branches
        for token in prefix_ids:
            watch.ends(token)
        return watch.inside
