"""Reward functions that may give a number per assistant turn, as TRL calls and credit reads them; their errors."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import CodeType
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from ..trl_seam import is_async_callable
from .segments import Segment
from .turns import turn_segments


# Gives the columns of the assistant turns of completions, each as start and end, from their ids.
SpansOf = Callable[[Sequence[Sequence[int]]], list[list[tuple[int, int]]]]
TurnValue = float | list[float] | None


class UserFunctionError(ValueError):
    """A function of the user's has raised an error, or has given no rewards. The message names it."""


class TurnReward:
    """
    A reward function whose lists, of one number per assistant turn, are credited turn by turn.

    TRL gets the sum of a list, which it logs as the reward of the function, and weighs and scales as any other. Where
    the function gives one number for a completion, that is an outcome: decided at the end of the last turn. `None`
    leaves the completion out, as in TRL. A reward of a turn has to be known when the next turn starts; one that
    depends on later turns would be taken as decided too early, and its credit would be biased.

    Args:
        reward_func (`Callable`):
            Reward function; it must not be asynchronous.
        name (`str`):
            The function's name in logs and errors.
        spans_of (`Callable`):
            Gives the columns of the assistant turns of completions, each as start and end, from their
            `completion_ids`.
        discount (`float`):
            Factor that a reward is multiplied by once for every turn that it lies ahead.
    """

    def __init__(self, reward_func: Callable[..., Any], name: str, spans_of: SpansOf, discount: float) -> None:
        self.reward_func = reward_func
        self.__name__ = name
        self._spans_of, self._discount = spans_of, discount
        self._values: list[TurnValue] = []
        self._completion_ids: Sequence[Sequence[int]] = []

    def __call__(self, **kwargs: Any) -> list[float | None]:
        """
        Sums over the turns of completions, as TRL asks for rewards.

        Raises:
            UserFunctionError: if what it gives is no rewards, or a list has not one finite number for every assistant
                turn of its completion.
        """
        return self._summed(self.reward_func(**kwargs), kwargs["completion_ids"])

    def _summed(self, values: Sequence[Any], completion_ids: Sequence[Sequence[int]]) -> list[float | None]:
        if not isinstance(values, Sequence | torch.Tensor | np.ndarray) or isinstance(values, str):
            raise UserFunctionError(
                f"the reward function {self.__name__!r} returned {values!r:.200}, not a list of rewards"
            )
        self._values, self._completion_ids = [plain_reward(value) for value in values], completion_ids
        strange = [value for value in self._values if not isinstance(value, int | float | list | None)]
        if strange:
            raise UserFunctionError(
                f"the reward function {self.__name__!r} gave the reward {strange[0]!r:.200}: each must be a number, "
                "None, or a list with a number for every assistant turn"
            )
        if any(isinstance(value, list) for value in self._values):
            for value, spans in zip(self._values, self._spans_of(completion_ids), strict=True):
                if isinstance(value, list):
                    self._check(value, len(spans))
        return [math.fsum(value) if isinstance(value, list) else value for value in self._values]

    def _check(self, value: list[Any], num_turns: int) -> None:
        if len(value) != num_turns:
            raise UserFunctionError(
                f"the reward function {self.__name__!r} gave {len(value)} turn rewards for a completion of "
                f"{num_turns} turns: give one number for each, the last one included, or one number for the completion"
            )
        if not all(isinstance(reward, int | float) and math.isfinite(reward) for reward in value):
            raise UserFunctionError(
                f"the reward function {self.__name__!r} gave the turn rewards {value!r:.200}: each must be a finite "
                "number, 0 where a turn earns nothing"
            )

    def turn_values(self, completion_ids: Sequence[Sequence[int]]) -> list[list[float] | None]:
        """
        The lists that the function gave in its last call; `None` where it gave none, and for completions of others.
        """
        if len(completion_ids) != len(self._completion_ids):
            return [None] * len(completion_ids)
        rows = zip(completion_ids, self._completion_ids, self._values, strict=True)
        return [value if isinstance(value, list) and ids == of_last else None for ids, of_last, value in rows]

    def segments(self, completion_ids: Sequence[Sequence[int]], **kwargs: Any) -> list[list[Segment]]:
        """
        The turns of the completions that the function was last called with, see [`~rest_trl.credit.turns`]: none at
        all where the function gave no list on any process, and none for a completion that it left out.

        Raises:
            ValueError: if the completions are not those of the last call, and the function gives lists.
        """
        # Decided over all processes: an outcome needs segments where others of its group have turn rewards.
        if not any(gather_object([any(isinstance(value, list) for value in self._values)])):
            return [[] for _ in completion_ids]
        if list(completion_ids) != list(self._completion_ids):
            raise ValueError(
                f"the turn rewards of {self.__name__!r} are those of other completions, because refill_groups puts "
                "groups of several calls together: set refill_groups=0, or return one number per completion"
            )
        return [
            [] if value is None else turn_segments(value, spans, self._discount)
            for value, spans in zip(self._values, self._spans_of(completion_ids), strict=True)
        ]


class AsyncTurnReward(TurnReward):
    """A [`TurnReward`] of an asynchronous function, which TRL runs concurrently with other asynchronous ones."""

    async def __call__(self, **kwargs: Any) -> list[float | None]:  # type: ignore[override]
        """See [`TurnReward`]."""
        return self._summed(await self.reward_func(**kwargs), kwargs["completion_ids"])


def plain_reward(value: Any) -> Any:
    """
    What a reward function gave for a completion, in Python's types: `None` also for NaN, which TRL reads as no reward.
    """
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return [item.tolist() if isinstance(item, torch.Tensor | np.ndarray | np.generic) else item for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def with_turns(reward_func: Any, name: str, spans_of: SpansOf, discount: float) -> Any:
    """
    Wrap a reward function so that it may give lists, see [`TurnReward`]. Reward models, and functions that have a
    method `segments` themselves, are returned as they are.
    """
    if isinstance(reward_func, torch.nn.Module) or hasattr(reward_func, "segments"):
        return reward_func
    return (AsyncTurnReward if is_async_callable(reward_func) else TurnReward)(reward_func, name, spans_of, discount)


def turn_values(reward_funcs: Sequence[Any], completion_ids: Sequence[Sequence[int]]) -> list[dict[str, list[float]]]:
    """The turn rewards of the completions of a rollout, by the names of the functions that gave a list."""
    found: list[dict[str, list[float]]] = [{} for _ in completion_ids]
    for reward_func in reward_funcs:
        if isinstance(reward_func, TurnReward):
            for of_completion, values in zip(found, reward_func.turn_values(completion_ids), strict=True):
                if values is not None:
                    of_completion[reward_func.__name__] = values
    return found


@contextmanager
def naming_function(kind: str, functions: Sequence[Any], names: Sequence[str]) -> Iterator[None]:
    """
    Turn an error that a function of the user's raises into a [`UserFunctionError`] that names it, file and line.

    Args:
        kind (`str`):
            What the functions are, such as `"reward function"`.
        functions, names (`Sequence`):
            The functions, also objects that are called and have a method `segments`, and their names. Those of this
            package are left out: their errors pass, as all others do.
    """
    try:
        yield
    except UserFunctionError:
        raise
    except Exception as error:
        codes = {code: name for func, name in zip(functions, names, strict=True) for code in _codes(func)}
        frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
        found = next((code for code, _ in frames if code in codes), None)
        if found is None:
            raise
        # The innermost line of the function's file: what lies deeper is of a library.
        line = [line for code, line in frames if code.co_filename == found.co_filename][-1]
        place = f"{Path(found.co_filename).name}, line {line}"
        raise UserFunctionError(
            f"the {kind} {codes[found]!r} raised {type(error).__name__}: {error} ({place})"
        ) from error


def naming_reward(trainer: Any) -> Any:
    """[`naming_function`] of the rewards of a trainer."""
    funcs = [func.reward_func if isinstance(func, TurnReward) else func for func in trainer.reward_funcs]
    return naming_function("reward function", funcs, trainer.reward_func_names)


def _codes(function: Any) -> list[CodeType]:
    """The code of a user's function, or of an object that is one; none of this package's."""
    while isinstance(function, functools.partial):
        function = function.func
    functions = [function]
    if not inspect.isroutine(function):
        functions = [vars(cls).get(name) for cls in type(function).__mro__ for name in ("__call__", "segments")]
    package = __name__.partition(".")[0]
    unwrapped = [inspect.unwrap(function) for function in functions if function is not None]
    return [
        function.__code__
        for function in unwrapped
        if (inspect.isfunction(function) or inspect.ismethod(function))
        and function.__module__.partition(".")[0] != package
    ]
