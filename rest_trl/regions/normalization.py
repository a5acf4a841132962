"""Coefficients brought to a mean of 1: over a completion, or over each of its turns."""

import numpy as np
import torch

from ..spelling import did_you_mean
from .partition import find_turns


DELTA = 1e-8  # stabiliser of the normalisation

SCOPES = ("completion", "turn")


def normalize(coefficients: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Divide by each completion's mean coefficient, so that the scale of the loss stays GRPO's (paper, algorithm, last
    step).

    Args:
        coefficients (`torch.Tensor` of shape `(B, T)`):
            Non-negative coefficients.
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the tokens that the mean is taken over.

    Returns:
        `torch.Tensor` of shape `(B, T)`: zero outside the mask, mean 1 inside it (0 where all are 0).

    Example:

    ```python
    >>> normalize(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[1, 1, 0]]))
    tensor([[0.5000, 1.5000, 0.0000]])

    ```
    """
    mask = mask.to(coefficients.dtype)
    coefficients = coefficients * mask
    mean = coefficients.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return coefficients / (mean + DELTA)


def normalize_turns(coefficients: torch.Tensor, mask: torch.Tensor, policy_mask: torch.Tensor) -> torch.Tensor:
    """
    Divide by the mean coefficient of each assistant turn, so that a turn's weight in the loss is its number of tokens.

    A completion of one turn gets what [`normalize`] gives, bit for bit. Time and memory are linear in `B * T`, however
    many turns there are.

    Args:
        coefficients (`torch.Tensor` of shape `(B, T)`):
            Non-negative coefficients.
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the tokens that the means are taken over.
        policy_mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens: every contiguous run is a turn.

    Returns:
        `torch.Tensor` of shape `(B, T)`: zero outside the mask, mean 1 inside it in each turn (0 where all are 0).

    Example:

    ```python
    >>> coefficients = torch.tensor([[1.0, 3.0, 9.0, 2.0, 6.0]])
    >>> mask = torch.tensor([[1, 1, 0, 1, 1]])
    >>> normalize_turns(coefficients, mask, mask)
    tensor([[0.5000, 1.5000, 0.0000, 0.5000, 1.5000]])

    ```
    """
    whole = normalize(coefficients, mask)
    policy = policy_mask.cpu().numpy().astype(bool)
    rows, starts, stops = find_turns(policy)
    several = np.bincount(rows, minlength=len(policy)) > 1
    if not several.any():
        return whole
    # On the CPU, because sums by index are not deterministic on a GPU.
    edges = np.column_stack([starts, stops]) + policy.shape[1] * rows[:, None]  # of each turn, in the flat batch
    kept = mask.to(coefficients.dtype)
    weighed = coefficients * kept
    sums, tokens = (
        np.add.reduceat(np.append(values.detach().cpu().numpy().ravel().astype(np.float64), 0), edges.ravel())[::2]
        for values in (weighed, kept)
    )
    means = np.zeros(policy.size)
    means[policy.ravel()] = np.repeat(sums / tokens.clip(1), stops - starts)
    means_of_turns = torch.from_numpy(means).to(weighed).view_as(weighed)
    # A sum in another order differs in the last bits, so completions of one turn keep theirs.
    has_several = torch.from_numpy(several).to(weighed.device).unsqueeze(1)
    return torch.where(has_several, weighed / (means_of_turns + DELTA), whole)


def normalize_within(
    scope: str, coefficients: torch.Tensor, mask: torch.Tensor, policy_mask: torch.Tensor
) -> torch.Tensor:
    """
    Bring coefficients to a mean of 1 over each completion, or over each of its turns.

    Args:
        scope (`str`):
            `"completion"` for [`normalize`], `"turn"` for [`normalize_turns`].
        coefficients, mask, policy_mask:
            See [`normalize_turns`].

    Returns:
        `torch.Tensor` of shape `(B, T)`

    Raises:
        ValueError: if there is no such scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope={scope!r}: {did_you_mean(scope, SCOPES)}choose one of {', '.join(SCOPES)}")
    return normalize_turns(coefficients, mask, policy_mask) if scope == "turn" else normalize(coefficients, mask)
