"""The rule rewards as TRL calls them (ToolRL, arXiv 2504.13958)."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from ..credit import Segment, call_segments
from ..regions import Turn
from ..tool_calls import ParsedCompletion, ToolCallSyntax, get_syntax
from .reading import Completion, judged_turns, merge_calls, read_turns
from .schedules import RewardBounds, check_schedule, reward_bounds
from .scoring import call_score, follows_layout, is_exact, json_equal, num_points, python_equal


if TYPE_CHECKING:
    from transformers import TrainerState

LogMetric = Callable[[str, float], None]
# The turns of the completions of these ids, as the trainer has read them.
Reader = Callable[[Sequence[Sequence[int]]], list[list[Turn]]]
_Pair = tuple[list[ParsedCompletion], ParsedCompletion]

# Not accelerate's logger, which demands a started accelerator: rewards are also called by hand.
logger = logging.getLogger(__name__)


@lru_cache(maxsize=4096)
def _parse_solution(tool_call_syntax: str, solution: str) -> ParsedCompletion:
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
        syntax = self._known_syntax()
        pairs = [
            (turns, _parse_solution(syntax.name, gold))
            for turns, gold in zip(self._turns(completions, completion_ids, syntax), solution, strict=True)
        ]
        return self._score(pairs, self._bounds(trainer_state), log_metric or _discard)

    @abstractmethod
    def _score(self, pairs: Sequence[_Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        """Rewards of the turns of completions, each beside its gold completion."""

    def _known_syntax(self) -> ToolCallSyntax:
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

    def _bounds(self, trainer_state: "TrainerState | None") -> RewardBounds:
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


class LayoutReward(RuleReward):
    """
    Reward for the blocks of a completion, the paper's format reward: the greatest one where [`follows_layout`], else
    the least.

    Logs `rest/reward/layout`, the share of completions that have it.

    Example:

    ```python
    >>> gold = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    >>> LayoutReward("hermes")(completions=[gold, "I cannot."], solution=[gold, gold])
    [1.0, 0.0]

    ```
    """

    __name__ = "layout_reward"

    def _score(self, pairs: Sequence[_Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        syntax = self._known_syntax().name
        scores = [all(follows_layout(turn, gold, syntax) for turn in judged_turns(turns)) for turns, gold in pairs]
        _log_means(log_metric, {"rest/reward/layout": scores})
        return [bounds.layout_max if score else bounds.layout_min for score in scores]


class ToolCallReward(RuleReward):
    """
    Reward for the calls of a completion: [`call_score`] scaled to the schedule's bounds.

    Calls that cannot be read, or none where the gold has some, get the minimum. Where the gold has no call, the reward
    is 0 for every completion, one with calls included: as in the released code, only the layout is then rewarded. A
    solution whose calls cannot be read is bad data: its completions get `None`, which TRL leaves out, and a warning
    names it once. `"released"` compares argument values by Python's `==`, the other schedules by [`json_equal`].

    Logs `rest/reward/correctness`, the mean [`call_score`] where the gold has calls; `rest/reward/exact`, the share of
    completions with the gold's calls and no others (none, where the gold has none); `rest/reward/unparseable`, the
    share of completions with something that looks like a call and is none; `rest/reward/unreadable_solution`.

    Example:

    ```python
    >>> gold = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    >>> ToolCallReward("hermes")(completions=[gold, gold.replace("1", "2"), ""], solution=[gold] * 3)
    [3.0, 1.0, -3.0]

    ```
    """

    __name__ = "tool_call_reward"

    def _score(self, pairs: Sequence[_Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        equal = self._equal
        rewards: list[float | None] = []
        scores: list[float] = []
        exact: list[bool] = []
        completions = [(merge_calls(turns), gold) for turns, gold in pairs]
        for parsed, gold in completions:
            if gold.errors:
                rewards.append(None)
                continue
            exact.append(is_exact(parsed, gold, equal))
            if not gold.calls:
                rewards.append(0.0)
            else:
                score = call_score(parsed.calls, gold.calls, equal)
                scores.append(score)
                rewards.append(bounds.correctness_min + (bounds.correctness_max - bounds.correctness_min) * score)
        _log_means(
            log_metric,
            {
                "rest/reward/correctness": scores,
                "rest/reward/exact": exact,
                "rest/reward/unparseable": [bool(parsed.errors) for parsed, _ in completions],
                "rest/reward/unreadable_solution": [bool(gold.errors) for _, gold in completions],
            },
        )
        return rewards

    @property
    def _equal(self) -> Callable[[Any, Any], bool]:
        return python_equal if self.schedule == "released" else json_equal

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[str],
        trainer_state: "TrainerState | None" = None,
        **kwargs: Any,
    ) -> list[list[Segment]]:
        """
        Where the right values are decided, see [`~rest_trl.credit.call_segments`]; names and the rest are undecided to
        the end.

        Args:
            completion_ids (`Sequence[Sequence[int]]` of length `B`):
                Sampled token ids.
            solution (`Sequence[str]` of length `B`):
                Gold completions.
            trainer_state ([`~transformers.TrainerState`], *optional*):
                As of the call.
            kwargs:
                Other columns and what else TRL gives to reward functions.

        Returns:
            `list[list[Segment]]` of length `B`: none where the gold has no readable call.

        Raises:
            ValueError: if the reward is bound to no trainer.
        """
        if self._reader is None:
            raise ValueError(f"{self.__name__} is bound to no trainer, so it has no tokens to give credit to")
        syntax, bounds, segments = self._known_syntax(), self._bounds(trainer_state), []
        for turns, text in zip(self._reader(completion_ids), solution, strict=True):
            gold = _parse_solution(syntax.name, text)
            calls = [] if gold.errors else gold.calls
            value = (bounds.correctness_max - bounds.correctness_min) / num_points(calls)
            segments.append(call_segments(turns, calls, syntax, value, self._equal) if calls else [])
        return segments


def _discard(name: str, value: float) -> None:
    pass


def _log_means(log_metric: LogMetric, values: dict[str, Sequence[float]]) -> None:
    for name, of_completions in values.items():
        if of_completions:
            log_metric(name, sum(of_completions) / len(of_completions))
