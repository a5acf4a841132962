"""What the trainer adds to TRL's loop of tool calls for rewards of turns."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from trl import GRPOTrainer

from ..credit.environments import METHOD, EnvironmentTurns, has_turn_rewards, probe
from ..credit.turn_rewards import with_turns
from ..regions.rollout import RolloutReader
from ..rewards import RuleReward


class TurnRewards(GRPOTrainer):
    """
    GRPO with rewards that may be lists of one number per assistant turn, from reward functions and environments.

    It differs from [`~trl.GRPOTrainer`] in two things. A reward function may return a list in the place of a number,
    see [`~rest_trl.credit.turn_rewards.TurnReward`]; and an environment's method `turn_rewards` is no tool, but a
    reward of weight 1, see [`~rest_trl.credit.environments.EnvironmentTurns`].
    """

    args: Any
    environments: Any
    reward_funcs: list[Any]
    reward_processing_classes: list[Any]
    _rollout: RolloutReader
    _environment_turns: EnvironmentTurns | None = None

    def __init__(self, model: Any, reward_funcs: Any = None, **kwargs: Any) -> None:
        factory = kwargs.get("environment_factory")
        if factory is not None:
            named = factory if isinstance(factory, dict) else {None: factory}
            probed = {name: probe(make) for name, make in named.items()}
            made = {name: make for name, (make, _) in probed.items()}
            kwargs["environment_factory"] = made if isinstance(factory, dict) else made[None]
            types = [type(instance) for _, instance in probed.values()]
            if any([*map(has_turn_rewards, types)]):  # all are looked at, because one may have to be refused
                self._environment_turns = EnvironmentTurns(lambda completion_ids: self._rollout.spans(completion_ids))
                if kwargs.get("rollout_func") is not None:
                    raise ValueError(
                        f"{METHOD} of an environment is asked between the turns of TRL's loop, and rollout_func is "
                        "a loop of its own: let it return the turn rewards, and give them on in a reward function"
                    )
                if not reward_funcs and not any(hasattr(environment, "get_reward") for environment in types):
                    reward_funcs = [self._environment_turns]  # TRL demands one reward at least
        super().__init__(model, reward_funcs, **kwargs)
        if self._environment_turns is not None:
            self._take_from_tools()

    def _take_from_tools(self) -> None:
        """Make the environments' method a reward instead of a tool, as TRL does with `get_reward`."""
        assert self._environment_turns is not None
        if self._environment_turns not in self.reward_funcs:
            self.reward_funcs.append(self._environment_turns)
            self.reward_func_names.append(METHOD)
            self.reward_processing_classes.append(None)
            self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])
        self.tools = [tool for tool in self.tools if not _is_reward(tool)]
        for name, tools in self._env_tools.items():
            self._env_tools[name] = [tool for tool in tools if not _is_reward(tool)]

    def _read_turn_rewards(self) -> None:
        """Wrap the reward functions so that they may give lists."""
        named = zip(self.reward_funcs, self.reward_func_names, strict=True)
        arguments = self._rollout.spans, self.args.turn_discount
        self.reward_funcs = [
            reward_func if isinstance(reward_func, RuleReward) else with_turns(reward_func, name, *arguments)
            for reward_func, name in named
        ]

    def _generate(self, prompts: list) -> Any:
        if self._environment_turns is not None:
            self._environment_turns.start()
            for tools in self._sync_tool_dicts if self.tools else []:
                tools.pop(METHOD, None)
        return super()._generate(prompts)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        if self._environment_turns is not None:
            self._environment_turns.end_turn(self.environments)
        return super()._generate_single_turn(*args, **kwargs)


def _is_reward(tool: Callable[..., Any]) -> bool:
    return inspect.ismethod(tool) and tool.__name__ == METHOD
