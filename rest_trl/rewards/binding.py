"""What a trainer passes to the rewards of this package, and what is refused before training starts."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch

from .base import RuleReward
from .call_reward import Reader, logger
from .checks import LOOKED_AT, check_signature, check_solutions
from .schema_reward import ToolSchemaReward, no_tools
from .tool_schemas import ToolSchemas, read_tools


class Binding(NamedTuple):
    """
    What a trainer passes to the rewards of this package.

    Args:
        tool_call_syntax (`str`):
            The policy's syntax.
        reader (`Callable`):
            Gives the parsed turns of completions from their `completion_ids`.
        schedule (`str`):
            Schedule of the rewards that have none of their own.
        steps_per_rollout (`int`):
            Optimiser steps per rollout.
        tools (`Mapping[str | None, Sequence[Callable]]`):
            Tools by the name of their environment; `None` where rows name none.
        has_rollout_func (`bool`, *optional*, defaults to `False`):
            Whether a `rollout_func` may give reward functions more arguments than the data set does.
    """

    tool_call_syntax: str
    reader: Reader
    schedule: str
    steps_per_rollout: int
    tools: Mapping[Any, Sequence[Callable[..., Any]]]
    has_rollout_func: bool = False


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
    if any(isinstance(reward, ToolSchemaReward) for reward in reward_funcs) and any(binding.tools.values()):
        schemas = {name: ToolSchemas(tools) for name, tools in binding.tools.items()}

    def bound(reward: Any) -> Any:
        if isinstance(reward, RuleReward):
            return reward.bind(*binding[:4])
        if isinstance(reward, ToolSchemaReward):
            if not (schemas or reward.has_tools):
                for dataset in datasets:
                    check_tools(dataset, reward.__name__)
            return reward.bind(*binding[:2], schemas)
        if datasets and not isinstance(reward, torch.nn.Module):
            columns = None if binding.has_rollout_func else datasets[0].column_names
            check_signature(reward, None if columns is None else set(columns) - {"prompt", "completion"})
        return reward

    return [bound(reward) for reward in reward_funcs]


def check_tools(dataset: Any, name: str) -> None:
    """
    Refuse a data set whose rows have no tools, and warn of tools that cannot be judged.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The data set. The first 1,000 rows of a `Dataset` are looked at; of an `IterableDataset`, which may be slow
            to start, only the columns.
        name (`str`):
            Name of the reward that needs them.

    Raises:
        ValueError: if there is no column `tools`, no row has any, or a row's are no JSON schemas.
    """
    columns = dataset.column_names
    if columns is not None and "tools" not in columns:
        raise ValueError(no_tools(name))
    if not hasattr(dataset, "__len__"):
        return
    found: list[ToolSchemas] = []
    for index, row in enumerate(islice(dataset.select_columns("tools"), LOOKED_AT)):
        try:
            found.append(read_tools(row["tools"]))
        except ValueError as error:
            raise ValueError(f"row {index} of the data set: {error}: `tools` is a list of JSON schemas") from error
    if not any(map(len, found)):
        raise ValueError(no_tools(name))
    unclear = [tool for schemas in found for tool in schemas.unclear]
    if unclear:
        logger.warning(
            "%d of %d tools declare parameters in words that are none of JSON Schema's, the first is %r: %s does not "
            "judge these values. Give them JSON schemas",
            len(unclear),
            sum(map(len, found)),
            unclear[0],
            name,
        )
