"""Segments: where the parts of a reward are decided, and what several rewards make of them together."""

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Segment(NamedTuple):
    """
    Tokens of a completion that share a state.

    Args:
        start (`int`):
            Column of its first token.
        stop (`int`):
            Column after its last token.
        state (`Hashable`):
            What the prefix tells beside `decided`. Completions of a group are compared where they have the same
            state. If a completion has it several times, its n-th time is compared with the n-th of the others.
        decided (`float`):
            Sum of the reward's parts that the prefix before the segment has decided.
        part (`float`, *optional*, defaults to `0.0`):
            The part that is decided within the segment; only `local` credit reads it.
        discounted (`float`, *optional*, defaults to `0.0`):
            By how much a discount lowers the return to go.
        shrinkage (`float`, *optional*, defaults to `0.0`):
            How many completions of the baseline the guess from whole completions counts as.
    """

    start: int
    stop: int
    state: Hashable
    decided: float
    part: float = 0.0
    discounted: float = 0.0
    shrinkage: float = 0.0


@runtime_checkable
class DecomposedReward(Protocol):
    """
    A reward function of TRL that also says where its parts are decided.

    A reward without this method counts as undecided to the end of the completion.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]: ...

    def segments(self, *args: Any, **kwargs: Any) -> Sequence[Sequence[Segment]]:
        """
        Segments of completions.

        Args:
            args, kwargs:
                What TRL calls the reward function with, all by name, except `log_extra` and `log_metric`: `prompts`,
                `completions`, `completion_ids`, `trainer_state`, the columns of the data set, and `environments`, if
                there are any.

        Returns:
            `Sequence[Sequence[Segment]]` of length `B`: for each completion, in the order of its tokens; columns are
            positions in `completion_ids`. `decided` and `part` are parts of the reward that the function returns.
        """


_NOTHING = Segment(0, 0, None, 0.0)  # stands for the segment of a reward where it has none


class Run(NamedTuple):
    """
    Tokens of a completion that share a joint state under all `K` rewards, with the segment of each that they lie in.

    `state` holds the states of these segments, and how often the completion has had them before.
    """

    start: int
    stop: int
    state: Hashable
    segments: Sequence[Segment]


def joint_runs(segments: Sequence[Sequence[Segment]], decomposed: Sequence[int]) -> Iterator[Run]:
    """
    Runs of tokens of a completion that share a joint state, in the order of the tokens.

    `segments` are those of the completion under each reward. `decomposed` are the rewards that have segments in any
    completion that is compared with this one: whether this one will have them is not known to its prefix, so it must
    not enter the state.
    """
    occurrences: Counter[Hashable] = Counter()
    for start, stop, state, inside in _joined(segments, decomposed):
        # Between the segments of one reward the joint state is the same again. As the prefix tells how often it has
        # occurred, the occurrences are states by themselves, and none enters the baseline of another.
        yield Run(start, stop, (state, occurrences[state]), inside)
        occurrences[state] += 1


def _joined(
    segments: Sequence[Sequence[Segment]], decomposed: Sequence[int]
) -> Iterator[tuple[int, int, Hashable, Sequence[Segment]]]:
    """Start, stop, state and segments of the runs, before repeated states are told apart."""
    present = [[segment for segment in of_reward if segment.start < segment.stop] for of_reward in segments]
    ahead = [deque(sorted(of_reward, key=attrgetter("start"))) for of_reward in present]
    if len(decomposed) == 1:  # the usual case, in which the states need no joining
        before, after = [_NOTHING] * decomposed[0], [_NOTHING] * (len(segments) - 1 - decomposed[0])
        for segment in ahead[decomposed[0]]:
            yield segment.start, segment.stop, segment.state, [*before, segment, *after]
        return
    bounds = sorted({bound for of_reward in present for segment in of_reward for bound in segment[:2]})
    for start, stop in pairwise(bounds):
        inside = [_at(start, of_reward) for of_reward in ahead]
        if any(segment is not _NOTHING for segment in inside):
            yield start, stop, tuple(segment.state for segment in inside), inside


def _at(column: int, ahead: deque[Segment]) -> Segment:
    """The segment at a column; those that end before it are dropped, as no later column asks for them."""
    while ahead and ahead[0].stop <= column:
        ahead.popleft()
    return ahead[0] if ahead and ahead[0].start <= column else _NOTHING
