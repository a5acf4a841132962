r"""
Advantages of completions that share their reasoning.

For a prompt, \(n\) reasonings \(z_k\) are sampled, and for each of them \(m\) continuations \(y_{k1}, \dots, y_{km}\).
The return of a completion is \(R_{kj}\). A token of the reasoning and a token after it get

$$
A_k = \frac{\bar R_k - b}{\sigma}, \qquad A_{kj} = \frac{R_{kj} - b_k}{\sigma},
$$

where \(\bar R_k\) is the mean of the branch's returns, \(b\) that of the prompt's, \(b_k = \bar R_k\), and
\(\sigma\) the deviation of the prompt's returns. The tokens of a reasoning occur in all \(m\) completions of its
branch with the same advantage, so together they have the weight \(1/n\).

Proof that the gradient keeps its mean. Split \(\mathbb{E}[R\, \nabla \log \pi(z, y)]\) where the reasoning ends:

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
anew would be wrong: completions that do not end their reasoning would then be too few.

Inside a continuation, parts of a reward are credited as in [`~rest_trl.credit.credited_advantages`], but completions
are compared only with their siblings of the same status, not with the whole group.
"""

from collections.abc import Sequence

import torch

from .advantages import credit_segments
from .scaling import affine, counted_rewards
from .segments import Segment


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
    Advantages per token of completions that share prefixes, see the head of this module.

    Notation: `N` completions on all processes, `B` on this one, groups of `G`, of which `m` in a row share a prefix,
    `K` rewards, `T` tokens.

    Args:
        rewards (`torch.Tensor` of shape `(N, K)`):
            Rewards of each function, NaN where it gave none.
        weights (`torch.Tensor` of shape `(K,)`):
            Weights of the functions.
        segments (`Sequence[Sequence[Sequence[Segment]]]` of shape `(N, K, ...)`):
            Segments of each completion under each function, see [`~rest_trl.credit.credited_advantages`].
        prefix_lengths (`Sequence[int]` of length `B`):
            Number of tokens that each completion shares with the others of its branch.
        num_generations (`int`):
            `G`.
        branch_size (`int`):
            `m`.
        num_tokens (`int`):
            `T`.
        scale_rewards, aggregation, local, leave_one_out, rows:
            See [`~rest_trl.credit.credited_advantages`]. Where there is no other completion to compare with, the
            advantage is 0.

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
    local_rows = range(len(rewards))[rows or slice(None)]
    rewards, weights = rewards.float().cpu(), weights.float().cpu()
    factors, offsets = affine(rewards, weights, num_generations, scale_rewards, aggregation)
    unscorable = rewards.isnan().all(1)
    counted = counted_rewards(rewards, aggregation)
    of_branch, siblings = _sums(counted, branch_size)
    of_group, members = _sums(counted, num_generations)
    if leave_one_out:
        behind = counted - (of_branch - counted) / (siblings - 1)
        shared = of_branch / siblings - (of_group - of_branch) / (members - siblings)
    else:
        behind = counted - of_branch / siblings
        shared = of_branch / siblings - of_group / members
    behind, shared = (
        ((values * factors).nan_to_num(0.0, 0.0, 0.0).sum(1) - offsets).masked_fill(unscorable, 0.0)[
            local_rows.start : local_rows.stop
        ]
        for values in (behind, shared)
    )
    per_token = behind.unsqueeze(1).repeat(1, num_tokens)
    credit_segments(
        per_token,
        counted,
        factors,
        offsets,
        segments,
        branch_size,
        local_rows,
        local=local,
        leave_one_out=leave_one_out,
    )
    in_prefix = torch.arange(num_tokens) < torch.tensor(prefix_lengths).unsqueeze(1)
    return torch.where(in_prefix, shared.unsqueeze(1), per_token)


def _sums(values: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and number of the values other than NaN in every `size` rows, for each row: of shape `(N, K)`."""
    blocks = values.view(-1, size, values.size(1))
    sums, counts = blocks.nansum(1), (~blocks.isnan()).sum(1)
    return sums.repeat_interleave(size, 0), counts.repeat_interleave(size, 0)
