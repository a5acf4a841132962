"""Credit in a training: from the rewards that TRL has computed to the advantages that its loss reads."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import gather_object

from .advantages import branched_advantages, credited_advantages
from .segments import DecomposedReward, Segment
from .turn_rewards import TurnReward


logger = get_logger(__name__)


def find_segments(reward_funcs: Sequence[Any], arguments: dict[str, Any]) -> list[list[Sequence[Segment]]]:
    """
    Where the parts of the rewards of a rollout are decided, gathered from all processes, of shape `(N, K, ...)`.

    `arguments` are what [`DecomposedReward.segments`] is called with, for the completions of this process.
    """
    of_rewards = [
        reward_func.segments(**arguments)
        if isinstance(reward_func, DecomposedReward)
        else [[]] * len(arguments["completion_ids"])
        for reward_func in reward_funcs
    ]
    return gather_object([list(of_completion) for of_completion in zip(*of_rewards, strict=True)])


def assigned_advantages(
    advantages: torch.Tensor,
    rollout: Any,
    reward_funcs: Sequence[Any],
    reward_weights: torch.Tensor,
    args: Any,
    num_generations: int,
    num_tokens: int,
    credit: str | None = None,
) -> torch.Tensor:
    """
    Advantages per token of a rollout, as the settings say.

    Args:
        advantages (`torch.Tensor` of shape `(B,)`):
            TRL's, for the completions of this process.
        rollout ([`~rest_trl.rollouts.Rollout`]):
            Has rewards, segments and shared prefixes.
        reward_funcs (`Sequence` of length `K`):
            Reward functions.
        reward_weights (`torch.Tensor` of shape `(K,)`):
            Their weights.
        args ([`~rest_trl.ResTGRPOConfig`]):
            Settings of the training.
        num_generations (`int`):
            Completions per group.
        num_tokens (`int`):
            `T`, the padded length of the completions.
        credit (`str`, *optional*):
            What a token is credited with, by default as the settings say.

    Returns:
        `torch.Tensor` of shape `(B, T)`
    """
    credit = credit or args.credit
    if credit == "completion" and rollout.prefix_lengths is None:
        return advantages.unsqueeze(1).repeat(1, num_tokens)
    start = PartialState().process_index * len(advantages)
    options: dict[str, Any] = {
        "scale_rewards": args.scale_rewards,
        "aggregation": args.multi_objective_aggregation,
        "local": credit == "local",
        "leave_one_out": args.leaves_one_out,
        "rows": slice(start, start + len(advantages)),
    }
    rewards = rollout.rewards, reward_weights, _shared(rollout.segments, reward_funcs, credit)
    if rollout.prefix_lengths is None:
        return credited_advantages(advantages, *rewards, num_generations, num_tokens, **options)
    sizes = num_generations, args.branch_size, num_tokens
    return branched_advantages(*rewards, rollout.prefix_lengths, *sizes, **options).to(advantages.device)


def warn_without_parts(reward_funcs: Sequence[Any], credit: str, rollout: Any = None) -> None:
    """
    Warn if no reward has parts that a credit could share out.

    Only the first rollout shows whether a function returns lists. It does not show whether a reward has parts,
    because there are none as long as the policy writes no calls. Before it, `rollout` is `None`.
    """
    shared = [reward_func for reward_func in reward_funcs if _is_shared(reward_func, credit)]
    if rollout is not None:
        lists_alone = bool(shared) and all(isinstance(reward_func, TurnReward) for reward_func in shared)
        if not lists_alone or any(map(any, _shared(rollout.segments, reward_funcs, credit))):
            return
    elif shared:
        return
    needed = "returns lists of one number per assistant turn"
    if credit != "turn":
        needed += ", or has a method `segments` that says where its parts are decided, as tool_call_reward has"
    logger.warning(f"credit={credit!r} changes nothing: none of the rewards {needed}")


def _shared(
    segments: list[list[Sequence[Segment]]], reward_funcs: Sequence[Any], credit: str
) -> list[list[Sequence[Segment]]]:
    """The segments of the rewards that a credit shares out among the tokens of a completion."""
    shared = [_is_shared(reward_func, credit) for reward_func in reward_funcs]
    return [
        [found if is_shared else [] for found, is_shared in zip(of_completion, shared, strict=True)]
        for of_completion in segments
    ]


def _is_shared(reward_func: Any, credit: str) -> bool:
    """Whether tokens of a completion may be credited with different shares of a reward."""
    if credit == "completion":
        return False
    return isinstance(reward_func, TurnReward if credit == "turn" else DecomposedReward)
