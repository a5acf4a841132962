"""Reward functions as recipes name them, and what a trainer passes to those of this package."""

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from ..spelling import did_you_mean
from ..tool_calls import get_syntax
from .base import CallReward, RuleReward, TurnReader
from .checks import check_signatures, check_solutions, check_tools, read_row_tools
from .rule_rewards import LayoutReward, ToolCallReward
from .schema_reward import ToolSchemaReward
from .tool_schemas import ToolSchemas


# The paper's rewards; in this order, they are the trainer's default.
REWARDS: dict[str, type[RuleReward]] = {"layout_reward": LayoutReward, "tool_call_reward": ToolCallReward}
NAMES: dict[str, Callable[[], Any]] = {**REWARDS, "tool_schema_reward": ToolSchemaReward}


def get_reward_func(name: str) -> Callable[..., Any]:
    """
    The reward function that a recipe names.

    Args:
        name (`str`):
            `"layout_reward"`, `"tool_call_reward"`, `"tool_schema_reward"`, or the dotted path of a reward function,
            such as `trl.rewards.think_format_reward`, or of a class, which is instantiated without arguments.

    Returns:
        `Callable`

    Raises:
        ValueError: if nothing of that name can be imported, or it cannot be called, or is a class that needs
            arguments.
    """
    if name in NAMES:
        return NAMES[name]()
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(_no_reward(name, "there is no reward of this name", NAMES))
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # of any kind: the module is the user's
        raise ValueError(_no_reward(name, f"{type(error).__name__}: {error}", NAMES)) from error
    try:
        found = getattr(imported, attribute)
    except AttributeError as error:
        raise ValueError(_no_reward(name, f"{module} has no {attribute}", dir(imported))) from error
    reward_func = _made(found, name) if isinstance(found, type) else found
    if not callable(reward_func):
        raise ValueError(f"reward_funcs: {name!r} is a {type(reward_func).__name__}, not a function")
    return reward_func


def _no_reward(name: str, cause: Any, known: Iterable[str]) -> str:
    return (
        f"reward_funcs: {name!r} cannot be imported ({cause}): {did_you_mean(name.rpartition('.')[2], known)}give "
        f"{', '.join(NAMES)}, or the dotted path of a function, e.g. my_package.my_module.my_reward"
    )


def _made(cls: type, name: str) -> Any:
    try:
        return cls()
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # of the class's own code, and not of the call
        raise ValueError(
            f"reward_funcs: {name!r} cannot be made without arguments ({error}): give all parameters of its __init__ "
            "a default, or the dotted path of a function"
        ) from error


class Binding(NamedTuple):
    """
    What a trainer passes to the rewards of this package.

    Args:
        tool_call_syntax (`str`):
            The policy's syntax.
        reader (`Callable`):
            Gives the parsed turns of completions from their `completion_ids`.
        schedule (`str`):
            Schedule of the rewards that were given none.
        steps_per_rollout (`Fraction` or `int`):
            Optimiser steps per rollout.
        tools (`Mapping[str | None, Sequence[Callable]]`):
            Tools by the name of their environment; `None` where rows name none.
        has_rollout_func (`bool`, *optional*, defaults to `False`):
            Whether a `rollout_func` may give reward functions more arguments than the data set does.
        end_ids (`Collection[int]`, *optional*, defaults to `()`):
            Tokens that end a completion; one that ends otherwise was cut off.
    """

    tool_call_syntax: str
    reader: TurnReader
    schedule: str
    steps_per_rollout: Fraction | int
    tools: Mapping[Any, Sequence[Callable[..., Any]]]
    has_rollout_func: bool = False
    end_ids: Collection[int] = ()


def bind_rewards(reward_funcs: Sequence[Any], datasets: Sequence[Any], binding: Binding) -> list[Any]:
    """
    Bind the rewards of this package to a trainer, and refuse data that they cannot score.

    Args:
        reward_funcs (`Sequence`):
            Reward functions; those that are not of this package are left as they are.
        datasets (`Sequence`):
            The data sets that the trainer reads, the training set first.
        binding ([`Binding`]):
            What the trainer passes to them.

    Returns:
        `list`: the reward functions.

    Raises:
        ValueError: if a reward lacks what it needs, or TRL could not call it.
    """
    rules = [reward for reward in reward_funcs if isinstance(reward, RuleReward)]
    if rules:
        given = [reward.tool_call_syntax for reward in rules if reward.tool_call_syntax is not None]
        for dataset in datasets:
            check_solutions(dataset, binding.tool_call_syntax, given)
    schemas: Mapping[str | None, ToolSchemas] = {}
    if any(isinstance(reward, CallReward) for reward in reward_funcs) and any(binding.tools.values()):
        schemas = {name: ToolSchemas(tools) for name, tools in binding.tools.items()}

    def bound(reward: Any) -> Any:
        if datasets and not isinstance(reward, torch.nn.Module):
            columns = None if binding.has_rollout_func else datasets[0].column_names
            check_signatures(reward, None if columns is None else set(columns) - {"prompt", "completion"})
        if isinstance(reward, RuleReward):
            if get_syntax(binding.tool_call_syntax).untyped and not schemas:
                for dataset in datasets:
                    if hasattr(dataset, "__len__") and "tools" in dataset.column_names:
                        read_row_tools(dataset)
            return reward.bind(*binding[:4], schemas, binding.end_ids)
        if isinstance(reward, ToolSchemaReward):
            if not (schemas or reward.has_tools):
                for dataset in datasets:
                    check_tools(dataset, reward.__name__)
            return reward.bind(*binding[:2], schemas)
        return reward

    return [bound(reward) for reward in reward_funcs]
