r"""
STARE (arXiv 2606.19236): against the collapse of entropy, surprising tokens of good completions weigh more.

A recipe names it by its dotted path, `coefficients: rest_trl.regions.stare.stare`.
"""

import torch


def stare(
    *,
    mask: torch.Tensor,
    advantages: torch.Tensor,
    entropies: torch.Tensor,
    per_token_logps: torch.Tensor,
    weight: float = 1.1,
    share: float = 0.1,
    target_entropy: float = 0.3,
    **kwargs: object,
) -> torch.Tensor:
    r"""
    `weight` at the most surprising tokens with a positive advantage while entropy is below its target, 1 elsewhere.

    Surprise is \(-\log \pi(y_t \mid y_{<t})\). Tokens are ranked, and the mean entropy is taken, over the micro-batch
    that the loss sees. The defaults are those of the authors' code.

    Args:
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens.
        advantages (`torch.Tensor` of shape `(B,)` or `(B, T)`):
            The advantages that the coefficients will multiply.
        entropies (`torch.Tensor` of shape `(B, T)`):
            Entropy at every token in nats.
        per_token_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probability of every sampled token.
        weight (`float`, *optional*, defaults to `1.1`):
            Coefficient of the chosen tokens.
        share (`float`, *optional*, defaults to `0.1`):
            Share of the tokens with a positive advantage that is chosen; at least one token is.
        target_entropy (`float`, *optional*, defaults to `0.3`):
            Mean entropy in nats at or above which all tokens weigh the same.
        kwargs:
            What other coefficient functions need.

    Returns:
        `torch.Tensor` of shape `(B, T)`

    Raises:
        ValueError: if `share` is not between 0 and 1.

    Example:

    ```python
    >>> stare(
    ...     mask=torch.ones(2, 2),
    ...     advantages=torch.tensor([1.0, -1.0]),
    ...     entropies=torch.full((2, 2), 0.1),
    ...     per_token_logps=torch.tensor([[-0.1, -2.0], [-0.1, -3.0]]),
    ...     share=0.5,
    ... )
    tensor([[1.0000, 1.1000],
            [1.0000, 1.0000]])

    ```
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"share={share} must be between 0 and 1: it is the share of the tokens that stare weighs more"
        )
    policy = mask.bool()
    coefficients = torch.ones_like(entropies)
    per_token = advantages if advantages.dim() == 2 else advantages.unsqueeze(1)
    rows, columns = (policy & (per_token > 0)).nonzero(as_tuple=True)
    if len(rows) and entropies[policy].mean() < target_entropy:
        chosen = per_token_logps[rows, columns].topk(max(1, int(share * len(rows))), largest=False).indices
        coefficients[rows[chosen], columns[chosen]] = weight
    return coefficients
