"""Turn rewards of environments, read between the turns of TRL's loop of tool calls."""

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .turn_rewards import SpansOf, plain_reward


METHOD = "turn_rewards"


class EnvironmentTurns:
    """
    Reward function of the environments that have a method `turn_rewards`.

    The method returns the rewards that the environment has given so far, as a list of numbers of any length. It is
    called before the first turn and after the tool calls of every turn, and a turn earns what it adds to the sum,
    whether it makes several calls, or calls that never reach the environment. What a turn has earned is known before
    the next one starts, whatever the environment does later, so credit for it is unbiased by construction.

    `spans_of` gives the columns of the assistant turns of completions from their `completion_ids`.
    """

    __name__ = METHOD  # TRL logs a reward function under its name

    def __init__(self, spans_of: SpansOf) -> None:
        self._spans_of = spans_of
        self._sums: list[list[float]] = []

    def start(self) -> None:
        """Forget the last rollout; it is called before every rollout."""
        self._sums = []

    def end_turn(self, environments: Sequence[Any]) -> None:
        """Read the rewards that the environments have given; it is called before every turn is sampled."""
        self._sums.append([_total(environment) for environment in environments])

    def __call__(
        self, environments: Sequence[Any], completion_ids: Sequence[Sequence[int]], **kwargs: Any
    ) -> list[list[float] | None]:
        """Rewards of every turn, as TRL asks for them; `None` for environments without the method."""
        rewards: list[list[float] | None] = []
        for row, (environment, turns) in enumerate(zip(environments, self._spans_of(completion_ids), strict=True)):
            if not has_turn_rewards(type(environment)):
                rewards.append(None)
                continue
            # The last turn also earns what came after it, as its calls may have run without room for another turn.
            sums = [of_turn[row] for of_turn in self._sums[: len(turns)]] + [_total(environment)]
            rewards.append([after - before for before, after in pairwise(sums)])
        return rewards


def has_turn_rewards(environment: type) -> bool:
    """Whether the environments of a class have the method `turn_rewards`; an asynchronous one is refused."""
    method = inspect.getattr_static(environment, METHOD, None)
    if inspect.iscoroutinefunction(method):
        raise ValueError(
            f"{environment.__name__}.{METHOD} is asynchronous, but is asked between two turns: make it a plain method "
            "that returns what the environment has counted"
        )
    return method is not None


def _total(environment: Any) -> float:
    if not has_turn_rewards(type(environment)):
        return 0.0
    rewards = plain_reward(environment.turn_rewards())
    if not isinstance(rewards, list) or not all(isinstance(x, int | float) and math.isfinite(x) for x in rewards):
        raise ValueError(
            f"{type(environment).__name__}.{METHOD} gave {rewards!r:.200}: it must return a list of finite numbers, "
            "the rewards given so far"
        )
    return math.fsum(rewards)


def take_turn_rewards(arguments: dict[str, Any], spans_of: SpansOf) -> EnvironmentTurns | None:
    """
    The turn rewards of the environments of a trainer, if any has them.

    In the `arguments` of [`~trl.GRPOTrainer`], the reward is added where TRL demands one, and the factory changed so
    that the environments that were made here are the first ones of the training.
    """
    factory = arguments.get("environment_factory")
    if factory is None:
        return None
    arguments["environment_factory"], types = _probed(factory)
    if not any([*map(has_turn_rewards, types)]):  # all are looked at, because one may have to be refused
        return None
    if arguments.get("rollout_func") is not None:
        raise ValueError(
            f"{METHOD} of an environment is asked between the turns of TRL's loop, and rollout_func is a loop of its "
            "own: let it return the turn rewards, and pass them on in a reward function"
        )
    turns = EnvironmentTurns(spans_of)
    if not arguments["reward_funcs"] and not any(hasattr(environment, "get_reward") for environment in types):
        arguments["reward_funcs"] = [turns]
    return turns


def _probed(factory: Any) -> tuple[Any, list[type]]:
    """A factory, or a mapping of them, whose first calls return environments that are made here; and their classes."""
    if isinstance(factory, dict):
        found = {name: _probed(make) for name, make in factory.items()}
        return {name: make for name, (make, _) in found.items()}, [cls for _, types in found.values() for cls in types]
    unused = [factory()]
    return lambda: unused.pop() if unused else factory(), [type(unused[0])]
