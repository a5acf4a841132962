r"""
Rules for ablations of ResT: each changes one thing of the rule `"entropy"` and nothing else.

A recipe names them by their dotted path, such as `coefficients: rest_trl.regions.ablations.no_reasoning`.
"""

from functools import wraps
from typing import Any

import torch

from ..tool_calls import Region
from .coefficients import entropy_coefficients, region_weights
from .normalization import normalize


# `wraps` with nothing to assign gives these two rules the signature of `entropy_coefficients`, and so its arguments.
@wraps(entropy_coefficients, assigned=())
def no_reasoning(*, region_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """
    `"entropy"` without the gradient of reasoning tokens (paper, ablation "without CoT gradients").

    The coefficients of all other tokens stay as they are, so the mean over a completion falls below 1 by what
    reasoning contributed to it.

    Args:
        region_ids (`torch.Tensor` of shape `(B, T)`):
            [`Region`] per token.
        kwargs:
            See [`entropy_coefficients`].

    Returns:
        `torch.Tensor` of shape `(B, T)`
    """
    coefficients = entropy_coefficients(region_ids=region_ids, **kwargs)
    return torch.where(region_ids == Region.REASONING, 0.0, coefficients)


@wraps(entropy_coefficients, assigned=())
def call_tokens_only(*, region_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """
    `"entropy"` with the gradient of format, tool names and parameters only.

    Format holds the tags of reasoning and response as well as those of calls. As in [`no_reasoning`], the other
    coefficients stay as they are.

    Args:
        region_ids (`torch.Tensor` of shape `(B, T)`):
            [`Region`] per token.
        kwargs:
            See [`entropy_coefficients`].

    Returns:
        `torch.Tensor` of shape `(B, T)`
    """
    coefficients = entropy_coefficients(region_ids=region_ids, **kwargs)
    outside = (region_ids == Region.REASONING) | (region_ids == Region.RESPONSE)
    return torch.where(outside, 0.0, coefficients)


def token_entropy(
    *,
    mask: torch.Tensor,
    entropies: torch.Tensor,
    surrogate: str = "one_minus_exp",
    minimum: float = 0.5,
    maximum: float = 1.5,
    **kwargs: object,
) -> torch.Tensor:
    r"""
    Weights from each token's own entropy instead of its region's: \(w_t \propto 1 / (1 - e^{-H_t})\).

    As with regions, the weights of a completion are brought to a mean of 1, bounded, and brought to a mean of 1 again.
    There is no curriculum.

    Args:
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens.
        entropies (`torch.Tensor` of shape `(B, T)`):
            Entropy of every token in nats.
        surrogate (`str`, *optional*, defaults to `"one_minus_exp"`):
            See [`region_weights`].
        minimum, maximum (`float`, *optional*, default to `0.5` and `1.5`):
            Bounds of every weight.
        kwargs:
            What other coefficient functions need.

    Returns:
        `torch.Tensor` of shape `(B, T)`

    Example:

    ```python
    >>> token_entropy(
    ...     mask=torch.ones(1, 2),
    ...     entropies=torch.tensor([[1.0, 0.25]]),
    ...     surrogate="reciprocal",
    ...     minimum=0.5,
    ...     maximum=1.5,
    ... )
    tensor([[0.5000, 1.5000]])

    ```
    """
    policy = mask.to(entropies.dtype)
    rows = [region_weights(entropy, kept, surrogate) for entropy, kept in zip(entropies, policy, strict=True)]
    return normalize(torch.stack(rows).clamp(minimum, maximum), mask)
