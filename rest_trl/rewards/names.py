"""Reward functions by name, as recipes choose them."""

import importlib
from collections.abc import Callable
from typing import Any

from .base import RuleReward
from .rule_rewards import LayoutReward, ToolCallReward
from .schema_reward import ToolSchemaReward


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
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"reward_funcs: {name!r} cannot be imported ({error}): give {', '.join(NAMES)}, or the dotted path of a "
            "function, e.g. my_package.my_module.my_reward"
        ) from error
    reward_func = _made(found, name) if isinstance(found, type) else found
    if not callable(reward_func):
        raise ValueError(f"reward_funcs: {name!r} is a {type(reward_func).__name__}, not a function")
    return reward_func


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
