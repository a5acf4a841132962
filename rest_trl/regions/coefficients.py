r"""
Coefficients of the advantages, as pure functions of tensors.

Notation: `B` completions, `T` completion tokens, `R` regions, \(H_r\) the mean entropy of region \(r\) in nats,
\(n_r\) its share of the policy's tokens, \(\nu \in [0, 1]\) the training progress.

By Theorem 2 of the paper (arXiv 2509.21826), the variance bound of the policy gradient is least for weights
\(w_t \propto 1 / \beta_t\), \(\beta_t\) being the token's factor in the bound. Per region they are estimated by
\(w_r \propto 1 / (1 - e^{-H_r})\) or \(w_r \propto 1 / H_r\).
"""

import math

import torch

from ..tool_calls import Part, Region
from .normalization import DELTA, normalize_within


_SMALLEST_ENTROPY = 1e-6  # nats: a region that the policy has made deterministic must not get an infinite weight


def region_weights(
    region_entropies: torch.Tensor, region_shares: torch.Tensor, surrogate: str = "one_minus_exp"
) -> torch.Tensor:
    """
    Entropy-aware weight of every region (paper, Theorem 2 with the surrogates of its practical form).

    The weights are normalised to a mean of 1 over the policy's tokens *before* any bound is applied:
    `1 / (1 - exp(-H))` is never below 1, so bounds around 1 on the raw value would flatten it.

    Args:
        region_entropies (`torch.Tensor` of shape `(R,)`):
            Mean entropy of each region in nats; NaN where none was observed yet.
        region_shares (`torch.Tensor` of shape `(R,)`):
            Share of the policy's tokens in each region.
        surrogate (`str`, *optional*, defaults to `"one_minus_exp"`):
            `"one_minus_exp"` for `1 / (1 - exp(-H))` or `"reciprocal"` for `1 / H`.

    Returns:
        `torch.Tensor` of shape `(R,)`: weights, 1 for regions that were not observed.

    Raises:
        ValueError: if the surrogate is unknown.

    Example:

    ```python
    >>> region_weights(torch.tensor([1.0, 0.25]), torch.tensor([0.5, 0.5]), "reciprocal")
    tensor([0.4000, 1.6000])

    ```
    """
    entropies = region_entropies.clamp(min=_SMALLEST_ENTROPY)
    if surrogate == "one_minus_exp":
        weights = 1 / -torch.expm1(-entropies)
    elif surrogate == "reciprocal":
        weights = 1 / entropies
    else:
        raise ValueError(f"unknown surrogate {surrogate!r}: choose 'one_minus_exp' or 'reciprocal'")
    observed = ~weights.isnan() & (region_shares > 0)
    shares = region_shares * observed
    mean = (weights.nan_to_num() * shares).sum() / shares.sum().clamp(min=DELTA)
    return torch.where(observed, weights / mean.clamp(min=DELTA), 1.0)


def curriculum_weights(
    weights: torch.Tensor,
    progress: float,
    minimum: float,
    maximum: float,
    format_slope: float,
    parameters_slope: float,
    reasoning_slope: float,
) -> torch.Tensor:
    """
    Bounds and curriculum over training progress (paper, algorithm, "curriculum"): from structure to reasoning.

    Format `max(w_min, w - format_slope * progress)`, parameters `min(w_max, w + parameters_slope * progress)`,
    reasoning `min(w_max, w + reasoning_slope * progress)`; tool names and the final response stay.

    Args:
        weights (`torch.Tensor` of shape `(R,)`):
            Weight of each region, indexed by [`Region`].
        progress (`float`):
            Training progress in [0, 1].
        minimum, maximum (`float`):
            Bounds of every weight, before and after the curriculum.
        format_slope, parameters_slope, reasoning_slope (`float`):
            Change of the weight from progress 0 to 1; zero switches the curriculum off.

    Returns:
        `torch.Tensor` of shape `(R,)`

    Example:

    ```python
    >>> curriculum_weights(torch.ones(6), 1.0, 0.5, 1.5, 0.75, 0.25, 0.25)
    tensor([1.0000, 0.5000, 1.0000, 1.2500, 1.2500, 1.0000])

    ```
    """
    change = torch.zeros_like(weights)
    change[Region.FORMAT] = -format_slope
    change[Region.PARAMETERS] = parameters_slope
    change[Region.REASONING] = reasoning_slope
    return (weights.clamp(minimum, maximum) + progress * change).clamp(minimum, maximum)


def uniform_coefficients(mask: torch.Tensor, **kwargs: object) -> torch.Tensor:
    """
    Ones everywhere, which is plain GRPO.

    Args:
        mask (`torch.Tensor` of shape `(B, T)`):
            Only its shape is used.
        kwargs:
            What other coefficient functions need.

    Returns:
        `torch.Tensor` of shape `(B, T)`
    """
    return torch.ones_like(mask, dtype=torch.float32)


def entropy_coefficients(
    *,
    mask: torch.Tensor,
    region_ids: torch.Tensor,
    part_ids: torch.Tensor,
    region_entropies: torch.Tensor,
    region_shares: torch.Tensor,
    progress: float,
    global_step: int = 0,
    surrogate: str = "one_minus_exp",
    minimum: float = 0.5,
    maximum: float = 1.5,
    format_slope: float = 0.5,
    parameters_slope: float = 0.6,
    reasoning_slope: float = 0.4,
    horizon: int | None = None,
    parameter_name_scale: float = 1.0,
    scope: str = "completion",
    **kwargs: object,
) -> torch.Tensor:
    """
    The paper's coefficients: region weights, bounds, curriculum, mean 1 over each completion, or each of its turns.

    Before any entropy was observed all weights are 1 and only the curriculum acts, which has no effect at progress 0.

    Args:
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens.
        region_ids (`torch.Tensor` of shape `(B, T)`):
            [`Region`] per token.
        region_entropies, region_shares:
            See [`region_weights`].
        progress (`float`):
            Training progress in [0, 1].
        global_step (`int`, *optional*, defaults to `0`):
            Optimiser steps done; only read with a `horizon`.
        surrogate (`str`, *optional*, defaults to `"one_minus_exp"`):
            Region weight from its mean entropy `H` in nats: `"one_minus_exp"` for `1 / (1 - exp(-H))`, `"reciprocal"`
            for `1 / H`.
        minimum, maximum (`float`, *optional*, default to `0.5` and `1.5`):
            Bounds `w_min` and `w_max` of a region's weight.
        format_slope (`float`, *optional*, defaults to `0.5`):
            By how much the format's weight falls over the curriculum.
        parameters_slope (`float`, *optional*, defaults to `0.6`):
            By how much the parameters' weight rises over the curriculum (the released code: 0.6 to 1.2).
        reasoning_slope (`float`, *optional*, defaults to `0.4`):
            By how much the reasoning's weight rises over the curriculum (the released code: 0.6 to 1.0).
        horizon (`int`, *optional*):
            Optimiser steps after which the curriculum is complete. By default the whole run.
        parameter_name_scale (`float`, *optional*, defaults to `1.0`):
            Factor on the weight of parameter names, told apart by `part_ids` of shape `(B, T)`.
        scope (`str`, *optional*, defaults to `"completion"`):
            What the mean of 1 is taken over, see [`normalize_within`].
        kwargs:
            What other coefficient functions need.

    Returns:
        `torch.Tensor` of shape `(B, T)`

    Raises:
        ValueError: if an argument is out of its bounds or has no effect.
    """
    slopes = {"format_slope": format_slope, "parameters_slope": parameters_slope, "reasoning_slope": reasoning_slope}
    # Comparisons are written so that NaN fails them.
    for name, value in {**slopes, "minimum": minimum, "parameter_name_scale": parameter_name_scale}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number from 0 on, got {value}")
    if not (0 < maximum < math.inf and minimum <= maximum):
        raise ValueError(
            f"maximum must be positive and at least minimum, got minimum={minimum}, maximum={maximum}: swap or widen "
            "them"
        )
    if horizon is not None and not horizon > 0:
        raise ValueError(f"horizon must be positive, got {horizon}: set the slopes to 0 for no curriculum")
    if horizon is not None and not any(slopes.values()):
        raise ValueError(f"horizon={horizon} has no effect, because all slopes are 0: leave it out")
    weights = curriculum_weights(
        region_weights(region_entropies, region_shares, surrogate),
        progress if horizon is None else min(1.0, global_step / horizon),
        minimum,
        maximum,
        **slopes,
    )
    coefficients = weights.to(region_ids.device)[region_ids.long()]
    if parameter_name_scale != 1.0:
        coefficients = torch.where(part_ids == Part.PARAMETER_NAME, parameter_name_scale * coefficients, coefficients)
    return normalize_within(scope, coefficients, mask, mask)


def released_coefficients(
    *, mask: torch.Tensor, part_ids: torch.Tensor, step: int, scope: str = "completion", **kwargs: object
) -> torch.Tensor:
    """
    The coefficients of the authors' released code, on an exact partition of all calls.

    Tags 1.0; tool name 1.2; parameters `0.6 + 0.002 * step`, at most 1.2; reasoning `0.6 + 0.002 * step`, at most
    1.0; all else 0. They are divided by the mean of the completion's non-zero coefficients. The released code's clip
    to [0.001, 8], which never binds, is left out.

    Args:
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens.
        part_ids (`torch.Tensor` of shape `(B, T)`):
            [`Part`](rest_trl.tool_calls.Part) per token.
        step (`int`):
            Number of rollouts done, which is the released code's training step.
        scope (`str`, *optional*, defaults to `"completion"`):
            What the mean of the non-zero coefficients is taken over, see [`normalize_within`].
        kwargs:
            What other coefficient functions need.

    Returns:
        `torch.Tensor` of shape `(B, T)`

    Example:

    ```python
    >>> released_coefficients(
    ...     mask=torch.ones(1, 3), part_ids=torch.tensor([[Part.TAG, Part.REASONING, Part.STRUCTURE]]), step=0
    ... )
    tensor([[1.2500, 0.7500, 0.0000]])

    ```
    """
    weights = torch.zeros(len(Part))
    weights[Part.TAG] = 1.0
    weights[Part.TOOL_NAME] = 1.2
    weights[Part.PARAMETER_NAME] = weights[Part.PARAMETER_VALUE] = min(1.2, 0.6 + 0.002 * step)
    weights[Part.REASONING] = min(1.0, 0.6 + 0.002 * step)
    coefficients = weights.to(part_ids.device)[part_ids.long()]
    return normalize_within(scope, coefficients, mask * (coefficients > 0), mask)
