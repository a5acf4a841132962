"""Credit in a training: from the rewards that TRL has computed to the advantages that its loss reads."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from transformers import TrainerState

from .advantages import credited_advantages
from .branches import branched_advantages
from .rewards import DecomposedReward
from .segments import Segment
from .turn_rewards import TurnReward


logger = get_logger(__name__)


class CreditAssignment:
    """
    Credits the tokens of a rollout.

    Args:
        args ([`~rest_trl.ResTGRPOConfig`]):
            Settings of the training.
        reward_funcs (`Sequence` of length `K`):
            Reward functions; those that are a [`DecomposedReward`] say where their parts are decided.
        every_credit (`bool`, *optional*, defaults to `False`):
            Whether `advantages` will also be asked for other credits than that of the settings.
    """

    def __init__(self, args: Any, reward_funcs: Sequence[Any], every_credit: bool = False) -> None:
        self._args, self._has_parts = args, args.credit != "completion" or every_credit
        self._is_first = True
        shared = [reward_func for reward_func in reward_funcs if _is_shared(reward_func, args.credit)]
        # Only the first rollout shows whether a function returns lists. It does not show whether a reward has parts,
        # because there are none as long as the policy writes no calls.
        self._asks_at_runtime = bool(shared) and all(isinstance(reward_func, TurnReward) for reward_func in shared)
        if args.credit != "completion" and not shared:
            self._warn()

    def _warn(self) -> None:
        needed = "returns lists of one number per assistant turn"
        if self._args.credit != "turn":
            needed = (
                f"{needed}, or has a method `segments` that says where its parts are decided, as tool_call_reward has"
            )
        logger.warning(f"credit={self._args.credit!r} changes nothing: none of the rewards {needed}")

    def take(
        self,
        rewards: torch.Tensor,
        reward_funcs: Sequence[Any],
        arguments: dict[str, Any],
        trainer_state: TrainerState,
    ) -> None:
        """
        Keep the rewards of a rollout, and find where their parts are decided.

        Args:
            rewards (`torch.Tensor` of shape `(N, K)`):
                Rewards on all processes, NaN where a function gave none.
            reward_funcs (`Sequence` of length `K`):
                Reward functions.
            arguments (`dict[str, Any]`):
                For the completions of this process: `prompts`, `completions`, `completion_ids`, the columns
                of the data set, and `environments`, if there are any.
            trainer_state ([`~transformers.TrainerState`]):
                State of the training.
        """
        of_rewards = [
            reward_func.segments(trainer_state=trainer_state, **arguments)
            if self._has_parts and isinstance(reward_func, DecomposedReward)
            else [[]] * len(arguments["completion_ids"])
            for reward_func in reward_funcs
        ]
        self._rewards = rewards
        self._segments = gather_object([list(of_completion) for of_completion in zip(*of_rewards, strict=True)])
        self._reward_funcs = list(reward_funcs)
        if self._is_first and self._asks_at_runtime and not any(map(any, self._shared(self._args.credit))):
            self._warn()
        self._is_first = False

    def _shared(self, credit: str) -> list[list[Sequence[Segment]]]:
        """The segments of the rewards that a credit shares out among the tokens of a completion."""
        shared = [_is_shared(reward_func, credit) for reward_func in self._reward_funcs]
        return [
            [found if is_shared else [] for found, is_shared in zip(of_completion, shared, strict=True)]
            for of_completion in self._segments
        ]

    def advantages(
        self,
        advantages: torch.Tensor,
        reward_weights: torch.Tensor,
        num_generations: int,
        num_tokens: int,
        prefix_lengths: Sequence[int] | None = None,
        credit: str | None = None,
    ) -> torch.Tensor:
        """
        Advantages per token of the rollout.

        Args:
            advantages (`torch.Tensor` of shape `(B,)`):
                TRL's, for the completions of this process.
            reward_weights (`torch.Tensor` of shape `(K,)`):
                Weights of the reward functions.
            num_generations (`int`):
                Completions per group.
            num_tokens (`int`):
                `T`, the padded length of the completions.
            prefix_lengths (`Sequence[int]` of length `B`, *optional*):
                Number of tokens that each completion shares with the others of its branch; `None` without branches.
            credit (`str`, *optional*):
                What a token is credited with, by default as the settings say.

        Returns:
            `torch.Tensor` of shape `(B, T)`
        """
        credit = credit or self._args.credit
        if credit == "completion" and prefix_lengths is None:
            return advantages.unsqueeze(1).repeat(1, num_tokens)
        start = PartialState().process_index * len(advantages)
        options: dict[str, Any] = {
            "scale_rewards": self._args.scale_rewards,
            "aggregation": self._args.multi_objective_aggregation,
            "local": credit == "local",
            "leave_one_out": self._args.leaves_one_out,
            "rows": slice(start, start + len(advantages)),
        }
        rollout = self._rewards, reward_weights, self._shared(credit)
        if prefix_lengths is None:
            return credited_advantages(advantages, *rollout, num_generations, num_tokens, **options)
        sizes = num_generations, self._args.branch_size, num_tokens
        return branched_advantages(*rollout, prefix_lengths, *sizes, **options).to(advantages.device)


def _is_shared(reward_func: Any, credit: str) -> bool:
    """Whether tokens of a completion may be credited with different shares of a reward."""
    if credit == "completion":
        return False
    return isinstance(reward_func, TurnReward if credit == "turn" else DecomposedReward)
