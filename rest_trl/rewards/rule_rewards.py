"""The rule rewards as TRL calls them (ToolRL, arXiv 2504.13958)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..credit import Segment
from .base import LogMetric, Pair, RuleReward, log_means
from .reading import AlternativeGold, Gold, TurnGolds, judged_turns, merge_calls
from .schedules import RewardBounds
from .scoring import (
    call_score,
    follows_layout,
    gold_calls,
    is_exact,
    json_equal,
    num_points,
    python_equal,
    turn_score,
    turns_follow_layout,
)
from .segments import call_segments


if TYPE_CHECKING:
    from transformers import TrainerState


class LayoutReward(RuleReward):
    """
    Reward for the blocks of a completion, the paper's format reward: the schedule's maximum for a completion that has
    the gold's blocks ([`follows_layout`]), else the minimum.

    Logs `rest/reward/layout`, the share of completions with the maximum.

    Example:

    ```python
    >>> gold = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    >>> LayoutReward("hermes")(completions=[gold, "I cannot."], solution=[gold, gold])
    [1.0, 0.0]

    ```
    """

    __name__ = "layout_reward"

    def _score(self, pairs: Sequence[Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        syntax = self.known_syntax().name
        scores = [
            turns_follow_layout(turns, gold, syntax)
            if isinstance(gold, TurnGolds)
            else all(follows_layout(turn, gold, syntax) for turn in judged_turns(turns))
            for turns, gold in pairs
        ]
        log_means(log_metric, {"rest/reward/layout": scores})
        return [bounds.layout_max if score else bounds.layout_min for score in scores]


class ToolCallReward(RuleReward):
    """
    Reward for the calls of a completion: [`call_score`] scaled to the schedule's bounds.

    Calls that cannot be read, or none where the gold has some, get the minimum. Where the gold has no call, the reward
    is 0 for every completion, one with calls included: as in the released code, only the layout is then rewarded. A
    solution whose calls cannot be read is bad data: its completions get `None`, which TRL leaves out, and a warning
    names it once. Golds turn by turn are scored by [`~rest_trl.rewards.scoring.turn_score`]. `"released"` compares
    argument values by Python's `==`, the other schedules by [`json_equal`].

    Logs `rest/reward/correctness`, the mean [`call_score`] where the gold has calls; `rest/reward/exact`, the share of
    completions with the gold's calls and no others, neither unreadable nor cut off, and the same apart for golds with
    calls (`rest/reward/exact_with_calls`, the one to watch) and without (`rest/reward/exact_without_calls`: any text
    without a call is as good as the gold); `rest/reward/unparseable`, the share of completions with something that
    looks like a call and is none; `rest/reward/unreadable_solution`.

    Example:

    ```python
    >>> gold = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    >>> ToolCallReward("hermes")(completions=[gold, gold.replace("1", "2"), ""], solution=[gold] * 3)
    [3.0, 1.0, -3.0]

    ```
    """

    __name__ = "tool_call_reward"

    def _score(self, pairs: Sequence[Pair], bounds: RewardBounds, log_metric: LogMetric) -> list[float | None]:
        equal = self._equal
        rewards: list[float | None] = []
        scores: list[float] = []
        exact: dict[bool, list[bool]] = {True: [], False: []}  # by whether the gold has calls
        completions = [(turns, merge_calls(turns), gold) for turns, gold in pairs]
        for turns, parsed, gold in completions:
            if gold.errors:
                rewards.append(None)
                continue
            if isinstance(gold, TurnGolds):
                score, is_same = turn_score(turns, gold, equal)
            else:
                wanted = gold_calls(gold, parsed.calls, equal)
                score = call_score(parsed.calls, wanted, equal) if wanted else 0.0
                is_same = is_exact(parsed, gold, equal)
            exact[bool(gold.calls)].append(is_same)
            if not gold.calls:
                rewards.append(0.0)
            else:
                scores.append(score)
                rewards.append(bounds.correctness_min + (bounds.correctness_max - bounds.correctness_min) * score)
        log_means(
            log_metric,
            {
                "rest/reward/correctness": scores,
                "rest/reward/exact": exact[True] + exact[False],
                "rest/reward/exact_with_calls": exact[True],
                "rest/reward/exact_without_calls": exact[False],
                "rest/reward/unparseable": [bool(parsed.errors) for _, parsed, _ in completions],
                "rest/reward/unreadable_solution": [bool(gold.errors) for *_, gold in completions],
            },
        )
        return rewards

    @property
    def _equal(self) -> Callable[[Any, Any], bool]:
        return python_equal if self.schedule == "released" else json_equal

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[Gold],
        trainer_state: "TrainerState | None" = None,
        **kwargs: Any,
    ) -> list[list[Segment]]:
        """
        Where the right values are decided, see [`~rest_trl.rewards.segments.call_segments`]. The rest of the reward is
        undecided to the end. The arguments are those of the call.

        Returns:
            `list[list[Segment]]` of length `B`: none where the gold has no readable call, or is a list of texts.

        Raises:
            ValueError: if the reward is bound to no trainer.
        """
        all_turns = self.turns(completion_ids)
        syntax, bounds, segments = self.known_syntax(), self.bounds(trainer_state), []
        schemas = self._typing_tools(len(solution), kwargs.get("tools"), kwargs.get("environment"))
        for turns, text, of_row in zip(all_turns, solution, schemas, strict=True):
            gold = self._gold(text, of_row)
            calls = [] if gold.errors or isinstance(gold, TurnGolds) else gold.calls
            alternatives = gold.alternatives if isinstance(gold, AlternativeGold) else ()
            value = (bounds.correctness_max - bounds.correctness_min) / num_points(calls)
            segments.append(
                call_segments(turns, calls, syntax, value, self._equal, of_row, alternatives) if calls else []
            )
        return segments
