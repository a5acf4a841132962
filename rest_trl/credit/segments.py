"""Segments: where the parts of a reward are decided, and what several rewards make of them together."""

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple


class Segment(NamedTuple):
    """
    Tokens of a completion that share a status.

    Args:
        start (`int`):
            Column of its first token.
        stop (`int`):
            Column after its last token.
        status (`Hashable`):
            What the prefix tells beside `decided`. Completions of a group are compared where they have the same
            status. If a completion has it several times, its n-th time is compared with the n-th of the others.
        decided (`float`):
            Sum of the reward's parts that the prefix before the segment has decided.
        own (`float`):
            The part that is decided within the segment; only `local` credit reads it.
        lost (`float`, *optional*, defaults to `0.0`):
            By how much a discount lowers the undecided parts.
        prior (`float`, *optional*, defaults to `0.0`):
            How many members of the baseline the guess from whole completions counts as.
    """

    start: int
    stop: int
    status: Hashable
    decided: float
    own: float = 0.0
    lost: float = 0.0
    prior: float = 0.0


_NOTHING = Segment(0, 0, None, 0.0)  # stands for the segment of a reward where it has none


class Run(NamedTuple):
    """
    Tokens of a completion that share a joint status under all rewards.

    Args:
        start, stop (`int`):
            Column of its first token, and the column after its last.
        status (`Hashable`):
            The statuses of its segments, and how often the completion has had them before.
        segments (`Sequence[Segment]` of length `K`):
            The segment of each reward that its tokens lie in.
    """

    start: int
    stop: int
    status: Hashable
    segments: Sequence[Segment]


def joint_runs(segments: Sequence[Sequence[Segment]], decomposed: Sequence[int]) -> Iterator[Run]:
    """
    Runs of tokens of a completion that share a joint status.

    Args:
        segments (`Sequence[Sequence[Segment]]` of length `K`):
            The segments of the completion under each reward.
        decomposed (`Sequence[int]`):
            The rewards that have segments in any completion that is compared with this one. Whether this one will have
            them is not known to its prefix, so it must not enter the status.

    Returns:
        `Iterator[Run]`: in the order of the tokens.
    """
    occurrences: Counter[Hashable] = Counter()
    for start, stop, status, inside in _joined(segments, decomposed):
        # Between the segments of one reward the joint status is the same again. As the prefix tells how often it has
        # occurred, the occurrences are statuses of their own, and none enters the baseline of another.
        yield Run(start, stop, (status, occurrences[status]), inside)
        occurrences[status] += 1


def _joined(
    segments: Sequence[Sequence[Segment]], decomposed: Sequence[int]
) -> Iterator[tuple[int, int, Hashable, Sequence[Segment]]]:
    """Start, stop, status and segments of the runs, before repeated statuses are told apart."""
    present = [[segment for segment in of_reward if segment.start < segment.stop] for of_reward in segments]
    ahead = [deque(sorted(of_reward, key=attrgetter("start"))) for of_reward in present]
    if len(decomposed) == 1:  # the usual case, in which the statuses need no joining
        before, after = [_NOTHING] * decomposed[0], [_NOTHING] * (len(segments) - 1 - decomposed[0])
        for segment in ahead[decomposed[0]]:
            yield segment.start, segment.stop, segment.status, [*before, segment, *after]
        return
    bounds = sorted({bound for of_reward in present for segment in of_reward for bound in segment[:2]})
    for start, stop in pairwise(bounds):
        inside = [_at(start, of_reward) for of_reward in ahead]
        if any(segment is not _NOTHING for segment in inside):
            yield start, stop, tuple(segment.status for segment in inside), inside


def _at(column: int, ahead: deque[Segment]) -> Segment:
    """The segment at a column; those that end before it are dropped, as no later column asks for them."""
    while ahead and ahead[0].stop <= column:
        ahead.popleft()
    return ahead[0] if ahead and ahead[0].start <= column else _NOTHING
