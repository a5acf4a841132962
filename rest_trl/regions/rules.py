"""Rules, which give every token its coefficient: presets by name, or functions of a user's own."""

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import gather_object

from .coefficients import entropy_coefficients, released_coefficients, uniform_coefficients


@runtime_checkable
class CoefficientsFunc(Protocol):
    """
    A rule: a function that computes what the advantage of every token is multiplied by.

    A rule is called with keyword arguments only. It names those that it needs and takes the others with `**kwargs`,
    as TRL's reward functions do:

    - `mask` (`torch.Tensor` of shape `(B, T)`): non-zero at the policy's tokens.
    - `completion_ids` (`torch.Tensor` of shape `(B, T)`): sampled token ids.
    - `region_ids`, `part_ids` (`torch.Tensor` of shape `(B, T)`): [`Region`] and [`Part`] per token.
    - `advantages` (`torch.Tensor` of shape `(B,)` or `(B, T)`): those that the coefficients will multiply.
    - `region_entropies` (`torch.Tensor` of shape `(R,)`): running mean entropy of every region in nats, as the last
      optimiser step left it; NaN where none was observed yet.
    - `region_shares` (`torch.Tensor` of shape `(R,)`): running share of the policy's tokens.
    - `progress` (`float`): progress of the curriculum in [0, 1].
    - `step` (`int`): number of rollouts done.
    - `entropies`, `per_token_logps` (`torch.Tensor` of shape `(B, T)`): entropy at every token in nats, and
      log-probability of the token that was sampled, under the policy that the loss differentiates, without gradient. A
      rule that has a parameter of one of these names costs a forward pass of its own before the one of the loss; all
      others cost none.
    - `surrogate`, `minimum`, `maximum`, `format_slope`, `parameters_slope`, `reasoning_slope`, `parameter_name_scale`,
      `scope`: settings of the config, see [`entropy_coefficients`], for a rule that has parameters of these names.

    It returns finite, non-negative coefficients of shape `(B, T)`.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor: ...


PRESETS: dict[str, CoefficientsFunc] = {
    "entropy": entropy_coefficients,
    "released": released_coefficients,
    "uniform": uniform_coefficients,
}


def get_coefficients_func(coefficients: str | CoefficientsFunc) -> CoefficientsFunc:
    """
    The rule that a config names.

    Args:
        coefficients (`str` or [`CoefficientsFunc`]):
            A preset (`"entropy"`, `"released"`, `"uniform"`), the dotted path of a rule, or a rule.

    Returns:
        [`CoefficientsFunc`]

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
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"coefficients={coefficients!r} cannot be imported ({error}): give one of {', '.join(PRESETS)} or "
            "the dotted path of a function, e.g. my_package.my_module.my_coefficients"
        ) from error
    if not callable(function):
        raise ValueError(f"coefficients={coefficients!r} is a {type(function).__name__}, not a function")
    return function


def bind_rule(coefficients: str | CoefficientsFunc, args: Any) -> CoefficientsFunc:
    """
    The rule that a config names, bound to those settings of the config that the rule has parameters for.

    Args:
        coefficients (`str` or [`CoefficientsFunc`]):
            See [`get_coefficients_func`].
        args ([`~rest_trl.ResTGRPOConfig`]):
            The settings.

    Returns:
        [`CoefficientsFunc`]

    Raises:
        ValueError: if nothing of that name can be imported, or the scope has no effect on the rule.
    """
    coefficients_func = get_coefficients_func(coefficients)
    settings = {
        "surrogate": args.entropy_surrogate,
        "minimum": args.coefficient_min,
        "maximum": args.coefficient_max,
        "format_slope": args.format_slope if args.curriculum else 0.0,
        "parameters_slope": args.parameters_slope if args.curriculum else 0.0,
        "reasoning_slope": args.reasoning_slope if args.curriculum else 0.0,
        "parameter_name_scale": args.parameter_name_scale,
        "scope": args.coefficients_scope,
    }
    named = inspect.signature(coefficients_func).parameters
    # The uniform rule needs no scope: ones have a mean of 1 over any tokens.
    if args.coefficients_scope != "completion" and "scope" not in named and coefficients_func != uniform_coefficients:
        raise ValueError(
            f"coefficients_scope={args.coefficients_scope!r} has no effect on the rule {coefficients!r:.200}, which "
            "has no parameter `scope`: give it one, see rest_trl.regions.normalize_turns, or set "
            "coefficients_scope='completion'"
        )
    bound = {name: value for name, value in settings.items() if name in named}
    return partial(coefficients_func, **bound) if bound else coefficients_func


def needs_forward_pass(coefficients_func: CoefficientsFunc) -> bool:
    """Whether a rule has a parameter `entropies` or `per_token_logps`, which take a forward pass."""
    return not {"entropies", "per_token_logps"}.isdisjoint(inspect.signature(coefficients_func).parameters)


def checked_coefficients(
    coefficients_func: CoefficientsFunc, mask: torch.Tensor, arguments: Mapping[str, Any]
) -> torch.Tensor:
    """
    Call a rule, and refuse coefficients that would break the loss: a negative one, for example, flips the sign of
    the advantage, on which VESPO and off-policy masking branch.

    All ranks learn of a failure on any of them, so that none waits forever for a rank that has stopped.

    Args:
        coefficients_func ([`CoefficientsFunc`]):
            The rule.
        mask (`torch.Tensor` of shape `(B, T)`):
            Non-zero at the policy's tokens.
        arguments (`Mapping[str, Any]`):
            The rule's other arguments.

    Returns:
        `torch.Tensor` of shape `(B, T)`

    Raises:
        ValueError: if the coefficients have another shape, or a negative, infinite or NaN value at a policy token.
        RuntimeError: if the rule failed on another rank.
        Exception: whatever the rule itself raises.
    """
    failure: Exception | None = None
    coefficients = mask
    try:
        coefficients = coefficients_func(mask=mask, **arguments)
        _check(coefficients, mask)
    except Exception as error:  # of any kind: it is raised again once the other ranks know
        failure = error
    failures = gather_object([None if failure is None else f"{type(failure).__name__}: {failure}"])
    if failure is not None:
        raise failure
    for rank, message in enumerate(failures):
        if message is not None:
            raise RuntimeError(f"the rule of the coefficients failed on rank {rank} ({message}); see the log there")
    return coefficients


def _check(coefficients: Any, mask: torch.Tensor) -> None:
    if not isinstance(coefficients, torch.Tensor) or coefficients.shape != mask.shape:
        found = tuple(coefficients.shape) if isinstance(coefficients, torch.Tensor) else type(coefficients).__name__
        raise ValueError(f"coefficients must be a tensor of shape (B, T) = {tuple(mask.shape)}, got {found}")
    policy = coefficients[mask.bool()]
    if not bool((policy.isfinite() & (policy >= 0)).all()):
        raise ValueError("coefficients must be finite and non-negative: found a negative, infinite or NaN value")
