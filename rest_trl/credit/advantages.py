r"""
Advantages per token: the undecided return minus a baseline of the decided prefix.

GRPO gives all tokens of a completion one advantage, \((R_i - b) / \sigma\). Where a reward is a sum of parts that are
decided one after the other, a token cannot change the parts that the tokens before it have decided, so they are noise
in its advantage. A *segment* of a completion names the tokens that share:

- `decided`, \(D_i(t)\): the parts of the reward that the prefix before the segment has decided;
- `state`, \(s_i(t)\): what else the prefix tells, such as "the value of `city` in the first call".

A token of the segment gets

$$
A_i(t) = \frac{R_i - D_i(t) - b(s_i(t))}{\sigma}, \qquad
b(s) = \text{mean of } R_j - D_j \text{ over the completions } j \text{ of the group with a token of state } s.
$$

Proof that the gradient keeps its mean. By the score function's identity
\(\mathbb{E}[\nabla \log \pi(y_t \mid y_{<t})\, f(y_{<t})] = 0\) for every function \(f\) of the prefix, and both
\(D_i(t)\) and the state are such functions. The baseline depends on the completion itself only through its own share
in the mean, as in GRPO; with `leave_one_out` it does not, and the mean is exact. This requires that *every* completion
that has the state enters the baseline: leaving out those that turn out unparseable would condition on the future.

A reward without parts has no segments: all of it is undecided to the end, and its tokens keep GRPO's advantage.
This module knows neither calls nor turns; [`~rest_trl.credit.turns`] makes segments from turns.

A mean over the few completions of a rare state is noisy. With a `shrinkage` \(p\), the guess that the completion
will get the group's mean reward, \(\bar R - D_i(t)\), enters \(b\) as \(p\) more completions. The guess is a function
of the prefix, too.

Completions that share their reasoning (branches) split where it ends. For a prompt, \(n\) reasonings \(z_k\) are
sampled, and for each of them \(m\) continuations \(y_{k1}, \dots, y_{km}\). A token of the reasoning and a token after
it get

$$
A_k = \frac{\bar R_k - b}{\sigma}, \qquad A_{kj} = \frac{R_{kj} - b_k}{\sigma},
$$

where \(\bar R_k\) is the mean of the branch's returns, \(b\) that of the prompt's, \(b_k = \bar R_k\), and
\(\sigma\) the deviation of the prompt's returns. The tokens of a reasoning occur in all \(m\) completions of its
branch with the same advantage, so together they have the weight \(1/n\). The gradient keeps its mean:

- \(\mathbb{E}[R\, \nabla \log \pi(z)] = \mathbb{E}[\bar R_k \nabla \log \pi(z_k)]\), as the continuations are
  independent given the reasoning. A baseline of the *other* reasonings is independent of \(z_k\), so by the score
  function's identity it changes nothing.
- \(\mathbb{E}[R\, \nabla \log \pi(y \mid z)]\): given \(z_k\), the siblings are independent, so the mean return of the
  *other* siblings is a constant for \(y_{kj}\), a baseline of the prefix as good as any.

With `leave_one_out` these are the baselines, and the mean is exact. The baseline of a reasoning leaves out all
completions of its branch, because they depend on it. Otherwise, as in GRPO, the share of a completion in its own
baseline shrinks advantages: those of the reasoning by \(1 - 1/n\), those of the tokens after it by \(1 - 1/m\). GRPO
shrinks all by one factor, but here \(n \neq m\) changes the direction of the gradient, so `leave_one_out` suits
branches better. As always, dividing by the length of a completion (`loss_type="grpo"`) or by \(\sigma\) changes it.

The end of the reasoning may be any place that its prefix determines (a stopping time). A completion that ends before
such a place is all prefix, and its \(m\) continuations are empty, so its \(m\) rows are equal. Sampling these rows
again would be wrong: completions that do not end their reasoning would then be too few.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch

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
            other completion has the state, the token keeps the advantage of the whole completion. Tokens without a
            segment then get GRPO's advantage times `n / (n - 1)`, `n` being the completions of the group that have a
            reward, which leaves out the completion as well.
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
    group = _Comparison(rewards, weights, num_generations, scale_rewards, aggregation, rows)
    per_token = advantages.unsqueeze(1).repeat(1, num_tokens).cpu()
    if leave_one_out:
        scorable = (~group.unscorable).float().unsqueeze(1)
        count = _sums(scorable, num_generations)[0][group.rows.start : group.rows.stop]
        per_token = per_token * (count / (count - 1).clamp(min=1))
    group.credit(per_token, segments, num_generations, local=local, leave_one_out=leave_one_out)
    return per_token.to(advantages.device)


def branched_advantages(
    rewards: torch.Tensor,
    weights: torch.Tensor,
    segments: Sequence[Sequence[Sequence[Segment]]],
    prefix_lengths: Sequence[int],
    num_generations: int,
    branch_size: int,
    num_tokens: int,
    *,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
    local: bool = False,
    leave_one_out: bool = False,
    rows: slice | None = None,
) -> torch.Tensor:
    r"""
    Advantages per token of completions that share their reasoning, see the head of this module.

    Inside a continuation, parts of a reward are credited as in [`credited_advantages`], but completions are compared
    only with their siblings of the same state, not with the whole group. Notation as there; `m` completions in a row
    share a prefix.

    Args:
        rewards, weights, segments, num_generations, num_tokens:
            See [`credited_advantages`].
        prefix_lengths (`Sequence[int]` of length `B`):
            Number of tokens that each completion shares with the others of its branch.
        branch_size (`int`):
            `m`.
        scale_rewards, aggregation, local, leave_one_out, rows:
            See [`credited_advantages`]. Where there is no other completion to compare with, the advantage is 0.

    Returns:
        `torch.Tensor` of shape `(B, T)`

    Example:

    Two reasonings of one token with two continuations each. The first reasoning is worth more; only in its branch do
    the continuations differ.

    ```python
    >>> rewards = torch.tensor([[3.0], [1.0], [0.0], [0.0]])
    >>> branched_advantages(
    ...     rewards, torch.ones(1), [[[]]] * 4, [1, 1, 1, 1], 4, 2, 3, scale_rewards="none", leave_one_out=True
    ... )
    tensor([[ 2.,  2.,  2.],
            [ 2., -2., -2.],
            [-2.,  0.,  0.],
            [-2.,  0.,  0.]])

    ```
    """
    group = _Comparison(rewards, weights, num_generations, scale_rewards, aggregation, rows)
    shared = group.centred(branch_size, num_generations, leave_one_out)
    per_token = group.centred(1, branch_size, leave_one_out).unsqueeze(1).repeat(1, num_tokens)
    group.credit(per_token, segments, branch_size, local=local, leave_one_out=leave_one_out)
    in_prefix = torch.arange(num_tokens) < torch.tensor(prefix_lengths).unsqueeze(1)
    return torch.where(in_prefix, shared.unsqueeze(1), per_token)


class _Comparison:
    """The rewards of a rollout as TRL counts and scales them. Notation as in [`credited_advantages`]."""

    def __init__(
        self,
        rewards: torch.Tensor,
        weights: torch.Tensor,
        num_generations: int,
        scale_rewards: str,
        aggregation: str,
        rows: slice | None,
    ) -> None:
        rewards, weights = rewards.float().cpu(), weights.float().cpu()
        self.rows = range(len(rewards))[rows or slice(None)]
        self.unscorable = rewards.isnan().all(1)
        self.factors, self.offsets = affine(rewards, weights, num_generations, scale_rewards, aggregation)
        self.counted = counted_rewards(rewards, aggregation)

    def centred(self, unit: int, block: int, leave_one_out: bool) -> torch.Tensor:
        """
        Scaled mean reward of every `unit` rows minus that of the `block` rows around them, of shape `(B,)`.

        With `leave_one_out` the latter leaves out the unit. Where there is nothing to compare with, it is 0.
        """
        of_unit, size = _sums(self.counted, unit)
        of_block, all_sizes = _sums(self.counted, block)
        baseline = (of_block - of_unit) / (all_sizes - size) if leave_one_out else of_block / all_sizes
        scaled = ((of_unit / size - baseline) * self.factors).nan_to_num(0.0, 0.0, 0.0).sum(1) - self.offsets
        return scaled.masked_fill(self.unscorable, 0.0)[self.rows.start : self.rows.stop]

    def credit(
        self,
        per_token: torch.Tensor,
        segments: Sequence[Sequence[Sequence[Segment]]],
        num_compared: int,
        *,
        local: bool,
        leave_one_out: bool,
    ) -> None:
        """
        Give the tokens of segments their advantages, in place of those in `per_token` of shape `(B, T)`.

        `num_compared` completions in a row are compared with each other.
        """
        # In NumPy, because a completion has only a few segments, and a tensor operation for each is slower.
        rewards, factors, offsets = (v.double().numpy() for v in (self.counted, self.factors, self.offsets))
        scorable, found = (~self.counted.isnan().all(1)).tolist(), per_token.numpy()
        first_group = self.rows.start // num_compared * num_compared
        for group in range(first_group, self.rows.stop, num_compared):
            rows = [row for row in range(group, group + num_compared) if scorable[row]]
            decomposed = [k for k in range(rewards.shape[1]) if any(segments[row][k] for row in rows)]
            runs = [(row, run) for row in rows for run in joint_runs(segments[row], decomposed)]
            if not runs:
                continue
            of_row = np.array([row for row, _ in runs])
            values = [[(s.decided, s.part, s.discounted, s.shrinkage) for s in run.segments] for _, run in runs]
            decided, part, discounted, shrinkage = np.array(values).transpose(2, 0, 1)
            totals = rewards[of_row]
            left_out = np.isnan(totals)
            to_go = np.where(left_out, np.nan, part) if local else totals - decided - discounted
            states, weight = [run.state for _, run in runs], np.zeros(len(runs)) if local else shrinkage.max(1)
            baseline = _baselines(states, to_go, decided, totals, weight, rewards[rows], leave_one_out)
            centred = np.where(left_out, 0.0, to_go - baseline)
            credited = (centred * factors[of_row]).sum(1) - offsets[of_row]
            for (row, run), value in zip(runs, credited.tolist(), strict=True):
                # NaN where there is nothing to compare with, or TRL's scaling has no value.
                if row in self.rows and not math.isnan(value):
                    found[row - self.rows.start, run.start : run.stop] = value


def _sums(values: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and number of the values other than NaN in every `size` rows, for each row: of shape `(N, K)`."""
    blocks = values.view(-1, size, values.size(1))
    sums, counts = blocks.nansum(1), (~blocks.isnan()).sum(1)
    return sums.repeat_interleave(size, 0), counts.repeat_interleave(size, 0)


def _baselines(
    states: Sequence[Hashable],
    to_go: np.ndarray,
    decided: np.ndarray,
    totals: np.ndarray,
    shrinkage: np.ndarray,
    of_group: np.ndarray,
    leave_one_out: bool,
) -> np.ndarray:
    """
    Baselines of the `M` runs of a group, of shape `(M, K)`; NaN where there is nothing to compare with.

    `to_go`, `decided` and `totals` have the shape `(M, K)`, `of_group` has the rewards of all completions of the
    group, those without any run included.
    """
    numbers: dict[Hashable, int] = {}
    indices = np.array([numbers.setdefault(state, len(numbers)) for state in states])
    left_out = int(leave_one_out)
    sums, counts = (
        _of_state(values, indices, len(numbers)) - left_out * values
        for values in (np.nan_to_num(to_go), 1.0 - np.isnan(to_go))
    )
    num_others = (~np.isnan(of_group)).sum(0) - left_out * ~np.isnan(totals)
    weights = shrinkage[:, None] * (num_others > 0)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where there is no other completion
        guesses = (np.nansum(of_group, 0) - left_out * np.nan_to_num(totals)) / num_others - decided
        return (sums + np.where(weights > 0, weights * guesses, 0.0)) / (counts + weights)


def _of_state(values: np.ndarray, indices: np.ndarray, num_states: int) -> np.ndarray:
    """For each run, the sum of the values over all runs of its state: of shape `(M, K)`."""
    sums = np.zeros((num_states, values.shape[1]))
    np.add.at(sums, indices, values)
    return sums[indices]
