"""What the rule rewards share: how they read completions, and how a trainer binds them."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from ..regions import Turn
from ..tool_calls import ParsedCompletion, ToolCallSyntax, get_syntax
from .reading import Completion, read_turns
from .schedules import RewardBounds, check_schedule, reward_bounds


if TYPE_CHECKING:
    from transformers import TrainerState

LogMetric = Callable[[str, float], None]
# The turns of the completions of these ids, as the trainer has read them.
Reader = Callable[[Sequence[Sequence[int]]], list[list[Turn]]]
Pair = tuple[list[ParsedCompletion], ParsedCompletion]

# Not accelerate's logger, which demands a started accelerator: rewards are also called by hand.
logger = logging.getLogger(__name__)


@lru_cache(maxsize=4096)
def parse_solution(tool_call_syntax: str, solution: str) -> ParsedCompletion:
    """A gold completion, parsed; one whose calls cannot be read is named in a warning, once."""
    # Cached because a solution comes once per generation and reward function; so the warning comes once as well.
    gold = get_syntax(tool_call_syntax).parse(solution)
    if gold.errors:
        logger.warning(
            "A solution is not readable as %s (%s) and gives no correctness reward: %.300r",
            tool_call_syntax,
            gold.errors[0],
            solution,
        )
    return gold


class RuleReward(ABC):
    """
    A reward that compares the calls of a completion with those of a gold one, in the column `solution`.

    [`ResTGRPOTrainer`] binds its rewards: the syntax, the tokens that are the policy's own, the schedule and its
    horizon are the trainer's. Called by hand, a reward reads text or messages in the syntax that it was given.

    Args:
        tool_call_syntax (`str`, *optional*):
            Syntax of completions and solutions, see [`~rest_trl.tool_calls.get_syntax`]. Only needed by hand.
        schedule (`str`, *optional*):
            Bounds of the reward over the training, see [`reward_bounds`]. By default the trainer's `reward_schedule`,
            and `"static"` by hand.

    Raises:
        ValueError: if there is no such syntax or schedule.
    """

    __name__: ClassVar[str]

    def __init__(self, tool_call_syntax: str | None = None, schedule: str | None = None) -> None:
        if schedule is not None:
            check_schedule(schedule)
        self.tool_call_syntax = tool_call_syntax
        self.schedule = schedule
        self._syntax: ToolCallSyntax | None = None if tool_call_syntax is None else get_syntax(tool_call_syntax)
        self._reader: Reader | None = None
        self._steps_per_rollout = 1

    def bind(self, tool_call_syntax: str, reader: Reader, schedule: str, steps_per_rollout: int) -> "RuleReward":
        """
        A copy that belongs to a trainer. [`ResTGRPOTrainer`] calls this; other trainers can.

        Args:
            tool_call_syntax (`str`):
                The policy's syntax.
            reader (`Callable`):
                Gives the parsed turns of completions from their `completion_ids`, a list of lists.
            schedule (`str`):
                Bounds of the reward, if it was given none of its own.
            steps_per_rollout (`int`):
                Optimiser steps that share their rollouts: the schedules count rollouts.

        Returns:
            [`RuleReward`]
        """
        bound = copy.copy(self)
        bound.tool_call_syntax, bound._syntax = tool_call_syntax, get_syntax(tool_call_syntax)
        bound._reader, bound._steps_per_rollout = reader, steps_per_rollout
        bound.schedule = self.schedule or schedule
        return bound

    def __call__(
        self,
        completions: Sequence[Completion],
        solution: Sequence[str] | None = None,
        trainer_state: "TrainerState | None" = None,
        log_metric: LogMetric | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        """
        The rewards, as TRL asks for them.

        Args:
            completions (`Sequence[str | list[dict]]` of length `B`):
                Texts or messages; a bound reward reads `completion_ids` instead.
            solution (`Sequence[str]` of length `B`):
                Gold completions.
            trainer_state ([`~transformers.TrainerState`], *optional*):
                Tells a schedule that is not static where the training is.
            log_metric (`Callable`, *optional*):
                Takes the metrics.
            completion_ids (`Sequence[Sequence[int]]` of length `B`, *optional*):
                Sampled token ids.
            kwargs:
                Other columns and what else TRL gives to reward functions.

        Returns:
            `list[float | None]` of length `B`: `None` where a solution cannot be read.

        Raises:
            ValueError: if there are no solutions, the syntax is not known, a schedule needs `trainer_state`, or a
                trainer calls a reward that nobody has bound to it; never because of what the policy wrote.
        """
        if solution is None:
            raise ValueError(
                f"{self.__name__} compares with the gold completions of a column `solution`, and there is none: add "
                "the column, for example with rest_trl.data.load_rest_dataset, or use another reward"
            )
        syntax = self.known_syntax()
        pairs = [
            (turns, parse_solution(syntax.name, gold))
            for turns, gold in zip(self._turns(completions, completion_ids, syntax), solution, strict=True)
        ]
        return self._score(pairs, self.bounds(trainer_state), log_metric or _discard)

    @abstractmethod
    def _score(self, pairs: Sequence[Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        """Rewards of the turns of completions, each beside its gold completion."""

    def known_syntax(self) -> ToolCallSyntax:
        """
        The syntax of completions and solutions.

        Raises:
            ValueError: if neither a trainer nor the user gave one.
        """
        if self._syntax is None:
            raise ValueError(
                f"{self.__name__} does not know the syntax of the calls: leave it to ResTGRPOTrainer, or by hand give "
                f'it one, e.g. {type(self).__name__}("hermes")'
            )
        return self._syntax

    def _turns(
        self,
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None,
        syntax: ToolCallSyntax,
    ) -> list[list[ParsedCompletion]]:
        if self._reader is not None and completion_ids is not None:
            return [[turn.parsed for turn in turns] for turns in self._reader(completion_ids)]
        if completion_ids is not None:
            # A trainer decodes without special tokens, and with them go the markers of many syntaxes.
            raise ValueError(
                f"{self.__name__} is called by a trainer that has not bound it, and would miss markers that are "
                "special tokens: use ResTGRPOTrainer, or call the reward's `bind`"
            )
        return [read_turns(completion, syntax) for completion in completions]

    def bounds(self, trainer_state: "TrainerState | None") -> RewardBounds:
        """
        Bounds of both rewards at this point of the training.

        Args:
            trainer_state ([`~transformers.TrainerState`], *optional*):
                Where the training is.

        Raises:
            ValueError: if the schedule depends on it and it is not known.
        """
        schedule = self.schedule or "static"
        if trainer_state is not None:
            steps = trainer_state.global_step, trainer_state.max_steps
            return reward_bounds(schedule, *(step // self._steps_per_rollout for step in steps))
        if schedule != "static":
            raise ValueError(
                f"{self.__name__} with schedule={schedule!r} depends on the training step, but got no "
                '`trainer_state`: pass it, as TRL does, or use schedule="static"'
            )
        return reward_bounds(schedule, 0, 0)


def _discard(name: str, value: float) -> None:
    pass
