r"""
Advantages per token: the undecided return minus a baseline of the decided prefix.

GRPO gives all tokens of a completion one advantage, \((R_i - b) / \sigma\). Where a reward is a sum of parts that are
decided one after the other, a token cannot change the parts that the tokens before it have decided, so they are noise
in its advantage. A *segment* of a completion names the tokens that share a state of affairs:

- `decided`, \(D_i(t)\): the parts of the reward that the prefix before the segment has decided;
- `status`, \(s_i(t)\): what else the prefix tells, such as "the value of `city` in the first call".

A token of the segment gets

$$
A_i(t) = \frac{R_i - D_i(t) - b(s_i(t))}{\sigma}, \qquad
b(s) = \text{mean of } R_j - D_j \text{ over the completions } j \text{ of the group with a token of status } s.
$$

Proof that the gradient keeps its mean. By the score function's identity
\(\mathbb{E}[\nabla \log \pi(y_t \mid y_{<t})\, f(y_{<t})] = 0\) for every function \(f\) of the prefix, and both
\(D_i(t)\) and the status are such functions. The baseline depends on the completion itself only through its own share
in the mean, as in GRPO; with `leave_one_out` it does not, and the mean is exact. This requires that *every* completion
that has the status enters the baseline: leaving out those that turn out unparseable would condition on the future.

A reward without parts has no segments: all of it is undecided to the end, and its tokens keep GRPO's advantage.
This module knows neither calls nor turns; [`~rest_trl.credit.turns`] makes segments from turns.

A mean over the few completions of a rare status is noisy. With a `prior` \(p\), the guess that the completion will
get the group's mean reward, \(\bar R - D_i(t)\), enters \(b\) as \(p\) more members. The guess is a function of the
prefix, too.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from .baselines import Members, baselines
from .scaling import affine, counted_rewards
from .segments import Segment, joint_runs


def credited_advantages(
    advantages: torch.Tensor,
    rewards: torch.Tensor,
    weights: torch.Tensor,
    segments: Sequence[Sequence[Sequence[Segment]]],
    num_generations: int,
    num_tokens: int,
    *,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
    local: bool = False,
    leave_one_out: bool = False,
    rows: slice | None = None,
) -> torch.Tensor:
    r"""
    Advantages per token from rewards and their segments, see the head of this module.

    Notation: `N` completions on all processes, `B` on this one, groups of `G`, `K` rewards, `T` tokens.

    Args:
        advantages (`torch.Tensor` of shape `(B,)`):
            GRPO's advantages, which tokens without a segment keep.
        rewards (`torch.Tensor` of shape `(N, K)`):
            Rewards of each function, NaN where it gave none.
        weights (`torch.Tensor` of shape `(K,)`):
            Weights of the functions.
        segments (`Sequence[Sequence[Sequence[Segment]]]` of shape `(N, K, ...)`):
            Segments of each completion under each function, in order; none for a reward without parts.
        num_generations (`int`):
            `G`.
        num_tokens (`int`):
            `T`.
        scale_rewards (`str`, *optional*, defaults to `"group"`):
            `"group"`, `"batch"` or `"none"`, as in [`~trl.GRPOConfig`].
        aggregation (`str`, *optional*, defaults to `"sum_then_normalize"`):
            `multi_objective_aggregation` of [`~trl.GRPOConfig`].
        local (`bool`, *optional*, defaults to `False`):
            Whether a segment is credited with its own part alone, instead of all that is undecided. This lowers the
            variance but changes the mean: what a token does to later segments is not credited.
        leave_one_out (`bool`, *optional*, defaults to `False`):
            Whether the baseline leaves out the completion itself, which makes the mean of the gradient exact. Where no
            other completion has the status, the token keeps the advantage of the whole completion. Tokens without a
            segment then get GRPO's advantage times `G / (G - 1)`, which leaves out the completion as well.
        rows (`slice`, *optional*):
            The B completions of this process, all by default. A baseline is taken over the whole group.

    Returns:
        `torch.Tensor` of shape `(B, T)`, on the device of `advantages`.

    Example:

    Two completions get the first part right, worth 2. The tokens of the second, worth 1, are credited with it alone.

    ```python
    >>> first = [Segment(0, 2, "first", 0.0, 2.0), Segment(2, 3, "second", 2.0, 1.0)]
    >>> second = [Segment(0, 2, "first", 0.0, 2.0), Segment(2, 3, "second", 2.0, 0.0)]
    >>> third = [Segment(0, 2, "first", 0.0, 0.0), Segment(2, 3, "second", 0.0, 1.0)]
    >>> rewards = torch.tensor([[3.0], [2.0], [1.0]])
    >>> segments = [[first], [second], [third]]
    >>> credited_advantages(
    ...     torch.tensor([1.0, 0.0, -1.0]), rewards, torch.ones(1), segments, 3, 4, scale_rewards="none"
    ... )
    tensor([[ 1.0000,  1.0000,  0.3333,  1.0000],
            [ 0.0000,  0.0000, -0.6667,  0.0000],
            [-1.0000, -1.0000,  0.3333, -1.0000]])

    ```
    """
    scale = num_generations / (num_generations - 1) if leave_one_out and num_generations > 1 else 1.0
    per_token = (advantages * scale).unsqueeze(1).repeat(1, num_tokens).cpu()
    local_rows = range(len(rewards))[rows or slice(None)]
    rewards, weights = rewards.float().cpu(), weights.float().cpu()
    factors, offsets = affine(rewards, weights, num_generations, scale_rewards, aggregation)
    credit_segments(
        per_token,
        counted_rewards(rewards, aggregation),
        factors,
        offsets,
        segments,
        num_generations,
        local_rows,
        local=local,
        leave_one_out=leave_one_out,
    )
    return per_token.to(advantages.device)


def credit_segments(
    per_token: torch.Tensor,
    rewards: torch.Tensor,
    factors: torch.Tensor,
    offsets: torch.Tensor,
    segments: Sequence[Sequence[Sequence[Segment]]],
    num_compared: int,
    local_rows: range,
    *,
    local: bool,
    leave_one_out: bool,
) -> None:
    """
    Give the tokens of segments their advantages, in place.

    Notation as in [`credited_advantages`].

    Args:
        per_token (`torch.Tensor` of shape `(B, T)`):
            Advantages, which tokens without a segment keep.
        rewards (`torch.Tensor` of shape `(N, K)`):
            Rewards of each function, see [`~rest_trl.credit.scaling.counted_rewards`].
        factors, offsets (`torch.Tensor` of shapes `(N, K)` and `(N,)`):
            See [`~rest_trl.credit.scaling.affine`].
        segments (`Sequence[Sequence[Sequence[Segment]]]` of shape `(N, K, ...)`):
            Segments of each completion under each function.
        num_compared (`int`):
            How many consecutive completions are compared with each other.
        local_rows (`range` of length `B`):
            The rows of `rewards` that `per_token` holds.
        local, leave_one_out (`bool`):
            See [`credited_advantages`].
    """
    # In NumPy from here on: a completion has only a few segments, and a tensor operation for each is slower.
    known, scales, shifts = (values.double().numpy() for values in (rewards, factors, offsets))
    scorable, found = (~rewards.isnan().all(1)).tolist(), per_token.numpy()
    first_group = local_rows.start // num_compared * num_compared
    for group in range(first_group, local_rows.stop, num_compared):
        rows = [row for row in range(group, group + num_compared) if scorable[row]]
        decomposed = [k for k in range(known.shape[1]) if any(segments[row][k] for row in rows)]
        runs = [(row, run) for row in rows for run in joint_runs(segments[row], decomposed)]
        if not runs:
            continue
        of_row = np.array([row for row, _ in runs])
        parts = np.array(
            [[(part.decided, part.own, part.lost, part.prior) for part in run.segments] for _, run in runs]
        )
        decided, own, lost, prior = parts.transpose(2, 0, 1)
        left_out = np.isnan(known[of_row])
        undecided = np.where(left_out, np.nan, own) if local else known[of_row] - decided - lost
        guesses = np.zeros(len(runs)) if local else prior.max(1)
        members = Members([run.status for _, run in runs], undecided, decided, known[of_row], guesses)
        centred = undecided - baselines(members, known[rows], leave_one_out)
        values = (np.where(left_out, 0.0, centred) * scales[of_row]).sum(1) - shifts[of_row]
        for (row, run), value in zip(runs, values.tolist(), strict=True):
            # NaN where there is nothing to compare with, or TRL's scaling has no value.
            if row in local_rows and not math.isnan(value):
                found[row - local_rows.start, run.start : run.stop] = value
