"""Rules, which give every token its coefficient: presets by name, or functions of a user's own."""

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import gather_object

from ..spelling import did_you_mean
from .coefficients import entropy_coefficients, released_coefficients, uniform_coefficients


# What a trainer gives to every rule; a rule that names one of the last two needs the forward pass of the loss.
_OF_FORWARD_PASS = ("entropies", "per_token_logps")
_GIVEN = (
    "mask",
    "completion_ids",
    "region_ids",
    "part_ids",
    "advantages",
    "region_entropies",
    "region_shares",
    "progress",
    "step",
    "global_step",
    *_OF_FORWARD_PASS,
)


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
    - `progress` (`float`): progress of the training in [0, 1].
    - `step` (`int`): number of rollouts done.
    - `global_step` (`int`): number of optimiser steps done.
    - `entropies`, `per_token_logps` (`torch.Tensor` of shape `(B, T)`): entropy at every token in nats, and
      log-probability of the token that was sampled, under the policy that the loss differentiates, without gradient.

    All other parameters are its own arguments, which need a default, and which a recipe sets in a mapping:
    `coefficients: {rule: my_package.my_rule, scale: 2.0}`.

    It returns finite, non-negative coefficients of shape `(B, T)`.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor: ...


PRESETS: dict[str, CoefficientsFunc] = {
    "entropy": entropy_coefficients,
    "released": released_coefficients,
    "uniform": uniform_coefficients,
}


def rule_name(coefficients: Any) -> str:
    """The name of a rule as a recipe gives it, or that of a function."""
    if isinstance(coefficients, Mapping):
        return str(coefficients.get("rule", "entropy"))
    if isinstance(coefficients, str):
        return coefficients
    if isinstance(coefficients, partial):
        return rule_name(coefficients.func)
    return coefficients.__name__ if hasattr(coefficients, "__name__") else type(coefficients).__name__


def bind_rule(coefficients: Any) -> CoefficientsFunc:
    """
    The rule that a config names, bound to its arguments.

    Args:
        coefficients (`str`, `dict[str, Any]` or [`CoefficientsFunc`]):
            A preset (`"entropy"`, `"released"`, `"uniform"`), the dotted path of a rule, a mapping of `rule` (by
            default `"entropy"`) and its arguments, or a rule.

    Returns:
        [`CoefficientsFunc`]

    Raises:
        ValueError: if nothing of that name can be imported, or the rule has no such argument or refuses its value.
    """
    if isinstance(coefficients, Mapping):
        arguments = {name: value for name, value in coefficients.items() if name != "rule"}
        return _with_arguments(get_coefficients_func(rule_name(coefficients)), rule_name(coefficients), arguments)
    if isinstance(coefficients, str):
        return get_coefficients_func(coefficients)
    if not callable(coefficients):
        raise ValueError(
            f"coefficients={coefficients!r} is not a rule: give one of {', '.join(PRESETS)}, a dotted path, or a "
            "mapping such as {'rule': 'entropy', 'maximum': 1.5}"
        )
    return coefficients


def rule_arguments(coefficients: Any) -> dict[str, Any]:
    """The arguments of the rule `"entropy"`: its defaults, with those that a config gives it."""
    parameters = inspect.signature(entropy_coefficients).parameters.values()
    given = coefficients if isinstance(coefficients, Mapping) and rule_name(coefficients) == "entropy" else {}
    return {p.name: given.get(p.name, p.default) for p in parameters if p.default is not p.empty}


def get_coefficients_func(name: str) -> CoefficientsFunc:
    """
    The rule of a name.

    Args:
        name (`str`):
            A preset (`"entropy"`, `"released"`, `"uniform"`) or the dotted path of a rule.

    Returns:
        [`CoefficientsFunc`]

    Raises:
        ValueError: if nothing of that name can be imported.
    """
    if name in PRESETS:
        return PRESETS[name]
    module, _, attribute = name.rpartition(".")
    try:
        if not module:
            raise ImportError("there is no rule of this name")
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of any kind: the module is the user's
        raise ValueError(
            f"coefficients={name!r} cannot be imported ({error}): {did_you_mean(name, PRESETS)}give one of "
            f"{', '.join(PRESETS)} or the dotted path of a function, e.g. my_package.my_module.my_coefficients"
        ) from error
    if not callable(function):
        raise ValueError(f"coefficients={name!r} is a {type(function).__name__}, not a function")
    return function


def _with_arguments(function: CoefficientsFunc, name: str, arguments: dict[str, Any]) -> CoefficientsFunc:
    parameters = inspect.signature(function).parameters.values()
    own = [p.name for p in parameters if p.default is not p.empty and p.name not in _GIVEN]
    for argument in arguments:
        if argument not in own:
            hint = did_you_mean(argument, own).strip()
            known = f"its arguments are {', '.join(own)}" if own else "it has none"
            raise ValueError(
                f"the rule {name!r} of the coefficients has no argument {argument!r}"
                f"{f' ({hint})' if hint else ''}: {known}"
            )
    bound = partial(function, **arguments) if arguments else function
    if arguments and function.__module__.startswith(__name__.split(".")[0] + "."):
        _call_once(bound)
    return bound


def _call_once(function: CoefficientsFunc) -> None:
    """Let a rule of this package refuse its arguments before the training: it is called for one token."""
    one, regions = torch.ones(1, 1), torch.ones(6)
    per_token = {"advantages": one, "entropies": one, "per_token_logps": -one}
    ids = dict.fromkeys(("completion_ids", "region_ids", "part_ids"), one.to(torch.int8))
    of_regions = {"region_entropies": regions, "region_shares": regions / 6}
    try:
        function(mask=one, **ids, **per_token, **of_regions, progress=0.0, step=0, global_step=0)
    except TypeError as error:  # such as a text in the place of a number
        raise ValueError(f"coefficients: {error}") from error


def needs_forward_pass(coefficients_func: CoefficientsFunc) -> bool:
    """Whether a rule has a parameter that only the forward pass of the loss gives."""
    return not set(_OF_FORWARD_PASS).isdisjoint(inspect.signature(coefficients_func).parameters)


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
