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
    Exchanges the states of segments at random within each group, so that tokens are compared with tokens that decide
    something else. The parts of the reward stay where they are decided. The group has the same states as before, and
    each occurs at most once in a completion.
    """

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[Any],
        trainer_state: "TrainerState | None" = None,
        **kwargs: Any,
    ) -> list[list[Segment]]:
        segments = super().segments(completion_ids, solution, trainer_state, **kwargs)
        random = _random(trainer_state)
        for _, rows in groupby(range(len(segments)), key=lambda row: kwargs["prompt"][row]):
            _exchange_states([segments[row] for row in rows], random)
        return segments


def _exchange_states(group: list[list[Segment]], random: Random) -> None:
    """Let random pairs of a group's segments exchange their states, unless one would occur twice in a completion."""
    places = [(row, column) for row, of_completion in enumerate(group) for column in range(len(of_completion))]
    states = [{segment.state for segment in of_completion} for of_completion in group]
    for _ in range(_EXCHANGES * len(places)):
        (row, column), (other_row, other_column) = random.choice(places), random.choice(places)
        state, other = group[row][column].state, group[other_row][other_column].state
        if row != other_row:
            if other in states[row] or state in states[other_row]:
                continue
            states[row] = states[row] - {state} | {other}
            states[other_row] = states[other_row] - {other} | {state}
        group[row][column] = group[row][column]._replace(state=other)
        group[other_row][other_column] = group[other_row][other_column]._replace(state=state)


class ShuffledPartsReward(ToolCallReward):
    """
    Shuffles the parts of a completion's reward among its segments, so that most seem to be decided where they are not.
    Their sum stays right, and so do the states.
    """

    def segments(
        self,
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[Any],
        trainer_state: "TrainerState | None" = None,
        **kwargs: Any,
    ) -> list[list[Segment]]:
        random, shuffled = _random(trainer_state), []
        for of_completion in super().segments(completion_ids, solution, trainer_state, **kwargs):
            parts = [segment.part for segment in of_completion]
            random.shuffle(parts)
            decided, moved = 0.0, []
            for segment, part in zip(of_completion, parts, strict=True):
                moved.append(segment._replace(decided=decided, part=part))
                decided += part
            shuffled.append(moved)
        return shuffled
