"""
Arms without which a win of gold likelihood would prove only that gold calls were used. A study names them by their
dotted path: teachers in `gold_variant`, the reward in `reward_funcs`.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from ...gold import GoldTeacher
from ...rewards import RewardBounds, ToolCallReward, is_exact
from ...rewards.base import LogMetric, Pair
from ...rewards.reading import merge_calls


class EqualWeights(GoldTeacher):
    """Supervised fine-tuning on the gold call after sampled reasonings: each has the same weight."""

    def weights(self, log_probs: torch.Tensor) -> torch.Tensor:
        return torch.where(super().weights(log_probs).isnan(), torch.nan, 1.0)


class WholeGolds(EqualWeights):
    """Supervised fine-tuning on whole gold completions, as many rows of them as there are completions."""

    after_reasoning = False


class GoldOfAnotherPrompt(GoldTeacher):
    """Teaches the gold of the next prompt of the batch: a gain with it would not come from what the gold says."""

    def golds(self, solutions: Sequence[Any]) -> Sequence[Any]:
        size = self._trainer.num_generations
        return [*solutions[size:], *solutions[:size]]


class MaxRLReward(ToolCallReward):
    """
    MaxRL's advantage (https://huggingface.co/papers/2602.02710), `(r - mean) / mean` over the completions of a prompt,
    where `r` is 1 for exactly the gold's calls, also none, and else 0. With `scale_rewards="none"`, the loss has it as
    its advantage. All completions of a prompt must be on one process.
    """

    __name__ = "max_rl_reward"

    def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
        super().__call__(*args, **kwargs)
        advantages: list[float | None] = []
        for _, group in groupby(zip(kwargs["prompts"], self._exact, strict=True), key=lambda pair: pair[0]):
            rewards = [float(is_exact) for _, is_exact in group]
            mean = sum(rewards) / len(rewards)
            advantages += [(reward - mean) / mean if mean else 0.0 for reward in rewards]
        return advantages

    def _score(self, pairs: Sequence[Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        self._exact = [is_exact(merge_calls(turns), gold) for turns, gold in pairs]
        return super()._score(pairs, bounds, log_metric)
