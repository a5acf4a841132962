"""
Rewards whose credit is wrong on purpose. If region credit gains because it says what is undecided where, these must
lose the gain; name them in `reward_funcs` by their dotted path.

The rewards themselves are those of [`~rest_trl.rewards.ToolCallReward`]: only their segments differ.
"""

from collections.abc import Sequence
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING, Any

from ..credit import Segment
from ..rewards import ToolCallReward


if TYPE_CHECKING:
    from transformers import TrainerState


def _random(trainer_state: "TrainerState | None") -> Random:
    """Numbers that depend on the step alone, and are none of those that the training samples with."""
    return Random(0 if trainer_state is None else trainer_state.global_step)


class ShuffledStatusReward(ToolCallReward):
    """
    Segments get statuses of other segments of their group, so that tokens are compared with tokens that decide
    something else. What is decided stays right. A status still occurs at most once in a completion.
    """

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[str],
        trainer_state: "TrainerState | None" = None,
        **kwargs: Any,
    ) -> list[list[Segment]]:
        segments = super().segments(completion_ids, solution, trainer_state, **kwargs)
        random, shuffled = _random(trainer_state), []
        for _, rows in groupby(range(len(segments)), key=lambda row: kwargs["prompt"][row]):
            group = [segments[row] for row in rows]
            statuses = list(dict.fromkeys(segment.status for of_completion in group for segment in of_completion))
            for of_completion in group:
                drawn = random.sample(statuses, len(of_completion))
                shuffled.append(
                    [segment._replace(status=status) for segment, status in zip(of_completion, drawn, strict=True)]
                )
        return shuffled


class ShuffledPartsReward(ToolCallReward):
    """
    The parts of a completion's reward are decided in other segments than those that decide them. Their sum stays
    right, and so do the statuses.
    """

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[str],
        trainer_state: "TrainerState | None" = None,
        **kwargs: Any,
    ) -> list[list[Segment]]:
        random, shuffled = _random(trainer_state), []
        for of_completion in super().segments(completion_ids, solution, trainer_state, **kwargs):
            parts = [segment.own for segment in of_completion]
            random.shuffle(parts)
            decided, moved = 0.0, []
            for segment, own in zip(of_completion, parts, strict=True):
                moved.append(segment._replace(decided=decided, own=own))
                decided += own
            shuffled.append(moved)
        return shuffled
