"""Rollouts whose completions share their reasonings."""

from typing import Any

import torch

from ..regions import Partitioner
from .cached import branched_generate
from .reasoning import ReasoningEnd
from .rollout import Rollout
from .served import sample_branches


# Settings of a generation whose effect does not depend on where it starts.
_ANYWHERE = {"bad_words_ids", "do_sample", "min_p", "repetition_penalty", "temperature", "top_k", "top_p"}


class Branches:
    """
    Samples one reasoning for every `branch_size` completions, and for each of them what follows.

    Evaluations sample whole completions, because they measure single ones.

    Args:
        trainer ([`~rest_trl.ResTGRPOTrainer`]):
            The trainer.
        partitioner ([`~rest_trl.regions.Partitioner`]):
            Has the bytes of the tokens, and the syntax.

    Raises:
        ValueError: if completions are not sampled by one generation per prompt, or the syntax does not tell where
            reasoning ends.
    """

    def __init__(self, trainer: Any, partitioner: Partitioner) -> None:
        self._size = trainer.args.branch_size
        for name, is_there in (
            ("tools or an environment_factory", bool(trainer.tools) or trainer.environment_factories is not None),
            ("a rollout_func", trainer.rollout_func is not None),
            ("a policy of images", trainer.has_images),
            ("use_transformers_continuous_batching", trainer.use_transformers_continuous_batching),
        ):
            if is_there:
                raise ValueError(f"branch_size={self._size} cannot be combined with {name}: leave out branch_size")
        settings = sorted(set(trainer.args.generation_kwargs or {}) - _ANYWHERE)
        if settings:
            raise ValueError(
                f"branch_size={self._size} starts to generate twice, and generation_kwargs has settings that may "
                f"depend on the start ({', '.join(settings)}): leave them out, or leave out branch_size"
            )
        self._trainer = trainer
        self._reasoning_end = ReasoningEnd(partitioner.token_bytes, partitioner.tool_call_syntax)

    def sample(self, prompt_ids: list[list[int]], num_generations: int) -> tuple[Any, Any, list[int], int]:
        """
        Sample completions.

        Args:
            prompt_ids (`list[list[int]]` of length `B`):
                Prompts of this process, each as often in a row as it has completions here.
            num_generations (`int`):
                Completions per prompt.

        Returns:
            `tuple`: ids and log-probabilities of the completions, the number of tokens that each shares with the
            others of its branch, and the number of tokens that were sampled.
        """
        trainer = self._trainer
        ends: tuple[ReasoningEnd, int, list[int]] = self._reasoning_end, self._size, trainer.eos_token_ids
        if trainer.use_vllm:
            generation = trainer.vllm_generation
            sampled = sample_branches(trainer.complete, generation, prompt_ids, num_generations, *ends)
            ids, logprobs, lengths, discarded = sampled
        else:
            inputs = trainer.tokenizer.pad({"input_ids": prompt_ids}, padding_side="left", return_tensors="pt")
            inputs = inputs.to(trainer.accelerator.device)
            with trainer.generating() as model:
                ids, lengths = branched_generate(
                    model.generate, inputs["input_ids"], inputs["attention_mask"], trainer.generation_config, *ends
                )
            logprobs, discarded = None, 0
        after = sum(map(len, ids)) - sum(lengths)
        return ids, logprobs, lengths, after + sum(lengths[:: self._size]) + discarded

    def log(self, rollout: Rollout) -> None:
        """
        Log shares over all processes: `rest/branch/whole`, of branches with nothing after the reasoning, whose
        completions are all equal, and `rest/branch/without_reasoning`, of those in which no reasoning was opened.
        """
        lengths = rollout.prefix_lengths or []
        columns = rollout.prompt_ids, rollout.completion_ids, lengths
        branches = [rows[:: self._size] for rows in columns]
        after = [len(ids) - length for ids, length in zip(rollout.completion_ids, lengths, strict=True)]
        counts = torch.tensor(
            [
                sum(not any(after[start : start + self._size]) for start in range(0, len(after), self._size)),
                sum(
                    not self._has_reasoning(prompt, ids[:length])
                    for prompt, ids, length in zip(*branches, strict=True)
                ),
                len(branches[0]),
            ],
            device=self._trainer.accelerator.device,
        )
        whole, without, total = self._trainer.accelerator.gather(counts).view(-1, 3).sum(0).tolist()
        self._trainer.log_value("rest/branch/whole", whole / total)
        self._trainer.log_value("rest/branch/without_reasoning", without / total)

    def _has_reasoning(self, prompt_ids: list[int], prefix_ids: list[int]) -> bool:
        watch = self._reasoning_end.watch(prompt_ids)
        for token in prefix_ids:
            watch.ends(token)
        return watch.inside
