"""Coefficient functions by name, and what a user's own must return."""

import importlib
from collections.abc import Callable

import torch

from .coefficients import entropy_coefficients, released_coefficients, uniform_coefficients


# A coefficient function takes keyword arguments and returns non-negative coefficients of shape (B, T), see `resolve`.
CoefficientsFunc = Callable[..., torch.Tensor]

PRESETS: dict[str, CoefficientsFunc] = {
    "entropy": entropy_coefficients,
    "released": released_coefficients,
    "uniform": uniform_coefficients,
}


def resolve(coefficients: str | CoefficientsFunc) -> CoefficientsFunc:
    """
    The coefficient function that a config names.

    A coefficient function gets keyword arguments `completion_ids`, `mask`, `region_ids`, `part_ids`, `entropies`
    (nats, of the current policy, no gradient), all of shape `(B, T)`; `advantages` of shape `(B,)`;
    `region_entropies` (running mean, nats) and `region_shares` of shape `(R,)`; `progress` in [0, 1] and `step`, the
    rollouts done. It names those it needs and takes the others with `**kwargs`, as TRL's reward functions do, and
    returns finite, non-negative coefficients of shape `(B, T)`.

    Args:
        coefficients (`str` or `Callable`):
            A preset (`"entropy"`, `"released"`, `"uniform"`), the dotted path of a function, or a function.

    Returns:
        `Callable`

    Raises:
        ValueError: if nothing of that name can be imported.
    """
    if not isinstance(coefficients, str):
        return coefficients
    if coefficients in PRESETS:
        return PRESETS[coefficients]
    module, _, name = coefficients.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"coefficients={coefficients!r} cannot be imported ({error}): give one of {', '.join(PRESETS)} or "
            "the dotted path of a function, e.g. my_package.my_module.my_coefficients"
        ) from error
    if not callable(function):
        raise ValueError(f"coefficients={coefficients!r} is a {type(function).__name__}, not a function")
    return function


def check(coefficients: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Refuse coefficients that would break the loss: VESPO and off-policy masking branch on the sign of the advantage.

    Args:
        coefficients (`torch.Tensor` of shape `(B, T)`):
            What a user's coefficient function returned.
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens.

    Returns:
        `torch.Tensor` of shape `(B, T)`: the coefficients.

    Raises:
        ValueError: if they have another shape, or a negative, infinite or NaN value at a policy token.
    """
    if not isinstance(coefficients, torch.Tensor) or coefficients.shape != mask.shape:
        found = tuple(coefficients.shape) if isinstance(coefficients, torch.Tensor) else type(coefficients).__name__
        raise ValueError(f"coefficients must be a tensor of shape (B, T) = {tuple(mask.shape)}, got {found}")
    policy = coefficients[mask.bool()]
    if not bool((policy.isfinite() & (policy >= 0)).all()):
        raise ValueError("coefficients must be finite and non-negative: found a negative, infinite or NaN value")
    return coefficients
