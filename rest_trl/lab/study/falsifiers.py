"""
Rewards whose credit is wrong on purpose. If region credit gains because it knows what of the reward is undecided at
each token, the gain must be lost with these. Name them in `reward_funcs` by their dotted path.

The rewards themselves are those of [`~rest_trl.rewards.ToolCallReward`]: only their segments differ.
"""

from collections.abc import Sequence
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING, Any

from ...credit import Segment
from ...rewards import ToolCallReward


if TYPE_CHECKING:
    from transformers import TrainerState


_EXCHANGES = 10  # tried per segment, so many that nothing of the original order is left


def _random(trainer_state: "TrainerState | None") -> Random:
    """A generator that depends on the step alone, and leaves the random state of the training untouched."""
    return Random(0 if trainer_state is None else trainer_state.global_step)


class ShuffledStatusReward(ToolCallReward):
    """
    Exchanges the statuses of segments at random within each group, so that tokens are compared with tokens that decide
    something else. The parts of the reward stay where they are decided. The group has the same statuses as before, and
    each occurs at most once in a completion.
    """

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[str | Sequence[str]],
        trainer_state: "TrainerState | None" = None,
        **kwargs: Any,
    ) -> list[list[Segment]]:
        segments = super().segments(completion_ids, solution, trainer_state, **kwargs)
        random = _random(trainer_state)
        for _, rows in groupby(range(len(segments)), key=lambda row: kwargs["prompt"][row]):
            _exchange_statuses([segments[row] for row in rows], random)
        return segments


def _exchange_statuses(group: list[list[Segment]], random: Random) -> None:
    """Let random pairs of a group's segments exchange their statuses, unless one would occur twice in a completion."""
    places = [(row, column) for row, of_completion in enumerate(group) for column in range(len(of_completion))]
    statuses = [{segment.status for segment in of_completion} for of_completion in group]
    for _ in range(_EXCHANGES * len(places)):
        (row, column), (other_row, other_column) = random.choice(places), random.choice(places)
        status, other = group[row][column].status, group[other_row][other_column].status
        if row != other_row:
            if other in statuses[row] or status in statuses[other_row]:
                continue
            statuses[row] = statuses[row] - {status} | {other}
            statuses[other_row] = statuses[other_row] - {other} | {status}
        group[row][column] = group[row][column]._replace(status=other)
        group[other_row][other_column] = group[other_row][other_column]._replace(status=status)


class ShuffledPartsReward(ToolCallReward):
    """
    Shuffles the parts of a completion's reward among its segments, so that most seem to be decided where they are not.
    Their sum stays right, and so do the statuses.
    """

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[str | Sequence[str]],
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
