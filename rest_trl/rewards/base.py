"""What rewards for calls share: completions and their golds, read by hand or through a trainer, and a schedule."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..regions import Turn
from ..tool_calls import ParsedCompletion, ToolCallSyntax, get_syntax, was_cut
from .reading import Completion, Gold, parse_gold, read_turns
from .schedules import RewardBounds, check_schedule, reward_bounds
from .tool_schemas import ToolSchemas, read_tools


if TYPE_CHECKING:
    from transformers import TrainerState

LogMetric = Callable[[str, float], None]
# Gives the turns of completions, as the trainer has parsed them, from their ids.
TurnReader = Callable[[Sequence[Sequence[int]]], list[list[Turn]]]
Pair = tuple[list[ParsedCompletion], ParsedCompletion]


class CallReward(ABC):
    """
    A reward that reads the calls of completions, turn by turn.

    [`ResTGRPOTrainer`] binds its rewards to its syntax and its parse of the policy's tokens. A reward that is called
    by hand reads text or messages in the syntax that it was given.

    Args:
        tool_call_syntax (`str`, *optional*):
            Syntax of the calls, see [`~rest_trl.tool_calls.get_syntax`]. Only needed to call by hand.

    Raises:
        ValueError: if there is no such syntax.
    """

    __name__: ClassVar[str]

    def __init__(self, tool_call_syntax: str | None = None) -> None:
        self.tool_call_syntax = tool_call_syntax
        self._syntax: ToolCallSyntax | None = None if tool_call_syntax is None else get_syntax(tool_call_syntax)
        self._reader: TurnReader | None = None
        self._tools: Mapping[str | None, ToolSchemas] = {}
        self._end_ids: Collection[int] = ()

    def _bound(self, tool_call_syntax: str, reader: TurnReader, end_ids: Collection[int] = ()) -> Self:
        """A copy that reads in this syntax, and reads `completion_ids` with this reader."""
        bound = copy.copy(self)
        bound.tool_call_syntax, bound._syntax, bound._reader = tool_call_syntax, get_syntax(tool_call_syntax), reader
        bound._end_ids = end_ids
        return bound

    def known_syntax(self) -> ToolCallSyntax:
        """
        The syntax of the calls.

        Raises:
            ValueError: if neither a trainer nor the user gave one.
        """
        if self._syntax is None:
            raise ValueError(
                f"{self.__name__} does not know the syntax of the calls: leave it to ResTGRPOTrainer, or by hand give "
                f'it one, e.g. {type(self).__name__}("hermes")'
            )
        return self._syntax

    def turns(self, completion_ids: Sequence[Sequence[int]]) -> list[list[Turn]]:
        """
        The assistant turns of completions: text, calls, and the columns of the tokens at places of the text.

        Raises:
            ValueError: if the reward is bound to no trainer.
        """
        if self._reader is None:
            raise ValueError(f"{self.__name__} is bound to no trainer, so it has no tokens to give credit to")
        return self._reader(completion_ids)

    def _schemas(
        self, count: int, tools: Sequence[Any] | None, environment: Sequence[str] | None
    ) -> Sequence[ToolSchemas | None]:
        """The tools of each of `count` completions: those of the reward or the trainer, else those of the row."""
        if None in self._tools:
            return [self._tools[None]] * count
        if self._tools and environment is not None:
            return [self._tools[name] for name in environment]
        return [None] * count if tools is None else [read_tools(of_row) for of_row in tools]

    def _turns(
        self, completions: Sequence[Completion], completion_ids: Sequence[Sequence[int]] | None
    ) -> list[list[ParsedCompletion]]:
        syntax = self.known_syntax()
        if completion_ids is None:
            return [read_turns(completion, syntax) for completion in completions]
        if self._reader is None:
            # A trainer drops special tokens when it decodes, and the markers of many syntaxes are special tokens.
            raise ValueError(
                f"{self.__name__} is called by a trainer that has not bound it, and would miss markers that are "
                "special tokens: use ResTGRPOTrainer, or call the reward's `bind`"
            )
        read = [[turn.parsed for turn in turns] for turns in self._reader(completion_ids)]
        for turns, ids in zip(read, completion_ids, strict=True):
            if turns and was_cut(ids, self._end_ids):
                turns[-1] = replace(turns[-1], is_cut=True)
        return read


def log_nothing(name: str, value: float) -> None:
    """Stands for `log_metric` where nobody logs."""


def log_means(log_metric: LogMetric, values: dict[str, Sequence[float]]) -> None:
    """Log the mean of each list that is not empty."""
    for name, of_completions in values.items():
        if of_completions:
            log_metric(name, sum(of_completions) / len(of_completions))


class RuleReward(CallReward):
    """
    A reward that compares the calls of a completion with those of a gold one, in the column `solution`.

    A solution that is one text is compared with the calls of all turns together. A solution that is a list of texts
    is compared turn by turn, see [`~rest_trl.rewards.reading.TurnGolds`]. Where the syntax does not tell numbers from
    strings, the tools of the trainer, or those of the row in a column `tools`, do.

    Args:
        tool_call_syntax (`str`, *optional*):
            Syntax of completions and solutions, see [`~rest_trl.tool_calls.get_syntax`]. Only needed to call by hand.
        schedule (`str`, *optional*):
            Bounds of the reward over the training, see [`reward_bounds`]. By default the trainer's `reward_schedule`,
            and `"static"` without a trainer.

    Raises:
        ValueError: if there is no such syntax or schedule.
    """

    def __init__(self, tool_call_syntax: str | None = None, schedule: str | None = None) -> None:
        super().__init__(tool_call_syntax)
        if schedule is not None:
            check_schedule(schedule)
        self.schedule = schedule
        self._steps_per_rollout: Fraction | int = 1

    def bind(
        self,
        tool_call_syntax: str,
        reader: TurnReader,
        schedule: str,
        steps_per_rollout: Fraction | int,
        tools: Mapping[str | None, ToolSchemas] | None = None,
        end_ids: Collection[int] = (),
    ) -> "RuleReward":
        """
        A copy that belongs to a trainer. [`ResTGRPOTrainer`] calls this; other trainers can.

        Args:
            tool_call_syntax (`str`):
                The policy's syntax.
            reader (`Callable`):
                Gives the parsed turns of completions from their `completion_ids`, a list of lists.
            schedule (`str`):
                Schedule of a reward that was given none.
            steps_per_rollout (`Fraction` or `int`):
                Optimiser steps per rollout, less than 1 where a step has several: the schedules count rollouts.
            tools (`Mapping[str | None, ToolSchemas]`, *optional*):
                Tools of every environment by its name in the column `environment`, or by `None` if there are not
                several. None where rows have tools.
            end_ids (`Collection[int]`, *optional*, defaults to `()`):
                Tokens that end a completion: one that ends otherwise was cut off and is never exact. By default it is
                not known which were.

        Returns:
            [`RuleReward`]
        """
        bound = self._bound(tool_call_syntax, reader, end_ids)
        bound.schedule, bound._steps_per_rollout = self.schedule or schedule, steps_per_rollout
        bound._tools = tools or {}
        return bound

    def __call__(
        self,
        completions: Sequence[Completion],
        solution: Sequence[Gold] | None = None,
        trainer_state: "TrainerState | None" = None,
        log_metric: LogMetric | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        tools: Sequence[Any] | None = None,
        environment: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        """
        The rewards, as TRL asks for them.

        Args:
            completions (`Sequence[str | list[dict]]` of length `B`):
                Texts or messages; a bound reward reads `completion_ids` instead.
            solution (`Sequence[Gold]` of length `B`):
                Gold completions; for each a list with the gold of every turn, or a mapping with the gold `text` and
                its `alternatives`, see [`~rest_trl.rewards.reading.parse_gold`].
            trainer_state ([`~transformers.TrainerState`], *optional*):
                State of the training, which all schedules but `"static"` need.
            log_metric (`Callable`, *optional*):
                Takes the metrics.
            completion_ids (`Sequence[Sequence[int]]` of length `B`, *optional*):
                Sampled token ids.
            tools (`Sequence` of length `B`, *optional*):
                Column with the JSON schemas of each row's tools.
            environment (`Sequence[str]` of length `B`, *optional*):
                Column with the name of each row's environment.
            kwargs:
                Other columns and what else TRL gives to reward functions.

        Returns:
            `list[float | None]` of length `B`: [`ToolCallReward`] gives `None` where a solution cannot be read.

        Raises:
            ValueError: if there are no solutions, the syntax is not known, a schedule needs `trainer_state`, or a
                trainer calls a reward that nobody has bound to it; never because of what the policy wrote.
        """
        if solution is None:
            raise ValueError(
                f"{self.__name__} compares with the gold completions of a column `solution`, and there is none: add "
                "the column, for example with rest_trl.data.load_rest_dataset, or use another reward"
            )
        turns = self._turns(completions, completion_ids)
        schemas = self._typing_tools(len(turns), tools, environment)
        pairs = [
            (turns if of_row is None else list(map(of_row.typed, turns)), self._gold(gold, of_row))
            for turns, gold, of_row in zip(turns, solution, schemas, strict=True)
        ]
        return self._score(pairs, self.bounds(trainer_state), log_metric or log_nothing)

    def _typing_tools(
        self, count: int, tools: Sequence[Any] | None, environment: Sequence[str] | None
    ) -> Sequence[ToolSchemas | None]:
        """The tools of each completion where they are needed to tell strings from numbers."""
        return self._schemas(count, tools, environment) if self.known_syntax().untyped else [None] * count

    def _gold(self, solution: Gold, tools: ToolSchemas | None) -> ParsedCompletion:
        return parse_gold(self.known_syntax().name, solution, tools)

    @abstractmethod
    def _score(self, pairs: Sequence[Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        """Rewards of the turns of completions, each beside its gold completion."""

    def bounds(self, trainer_state: "TrainerState | None") -> RewardBounds:
        """
        Bounds of both rewards at this point of the training.

        Raises:
            ValueError: if the schedule depends on the state of the training and it is `None`.
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
