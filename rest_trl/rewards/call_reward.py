"""What all rewards for calls share: how they read completions by hand, and through a trainer."""

import copy
import logging
from abc import ABC
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

from ..regions import Turn
from ..tool_calls import ParsedCompletion, ToolCallSyntax, get_syntax
from .reading import Completion, read_turns


# Not accelerate's logger, which demands a started accelerator: rewards are also called by hand.
logger = logging.getLogger(__name__)

LogMetric = Callable[[str, float], None]
# Gives the turns of completions, as the trainer has parsed them, from their ids.
Reader = Callable[[Sequence[Sequence[int]]], list[list[Turn]]]


class CallReward(ABC):
    """
    A reward that reads the calls of completions, turn by turn.

    [`ResTGRPOTrainer`] binds its rewards to its syntax and its parse of the policy's own tokens. A reward that is
    called by hand reads text or messages in the syntax that it was given.

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
        self._reader: Reader | None = None

    def _bound(self, tool_call_syntax: str, reader: Reader) -> Self:
        """A copy that reads in this syntax, and reads `completion_ids` with this reader."""
        bound = copy.copy(self)
        bound.tool_call_syntax, bound._syntax, bound._reader = tool_call_syntax, get_syntax(tool_call_syntax), reader
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

    def _turns(
        self,
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None,
        syntax: ToolCallSyntax,
    ) -> list[list[ParsedCompletion]]:
        if self._reader is not None and completion_ids is not None:
            return [[turn.parsed for turn in turns] for turns in self._reader(completion_ids)]
        if completion_ids is not None:
            # A trainer drops special tokens when it decodes, and the markers of many syntaxes are special tokens.
            raise ValueError(
                f"{self.__name__} is called by a trainer that has not bound it, and would miss markers that are "
                "special tokens: use ResTGRPOTrainer, or call the reward's `bind`"
            )
        return [read_turns(completion, syntax) for completion in completions]


def log_nothing(name: str, value: float) -> None:
    """Stands for `log_metric` where nobody logs."""


def log_means(log_metric: LogMetric, values: dict[str, Sequence[float]]) -> None:
    """Log the mean of each list that is not empty."""
    for name, of_completions in values.items():
        if of_completions:
            log_metric(name, sum(of_completions) / len(of_completions))
