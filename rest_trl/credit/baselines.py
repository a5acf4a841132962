"""Means over the completions of a group that share a status."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Member(NamedTuple):
    """
    A completion at the tokens of a status; each list has K values, one per reward.

    Args:
        status (`Hashable`):
            What the prefix tells.
        undecided (`list[float]`):
            What is undecided of the rewards.
        total (`Sequence[float]`):
            The rewards of the completion.
        decided (`Sequence[float]`):
            What the prefix has decided of them.
        prior (`float`):
            For how many members the guess from the whole completions counts.
    """

    status: Hashable
    undecided: list[float]
    total: Sequence[float]
    decided: Sequence[float]
    prior: float


class Baselines:
    """
    Baselines of the members of a group, see the head of [`~rest_trl.credit.advantages`].

    Args:
        members (`Sequence[Member]`):
            All members of a group.
        totals (`Sequence[Sequence[float]]`):
            Rewards of all completions of the group, those without any status included.
        leave_one_out (`bool`):
            Whether a completion is left out of its own baseline.
    """

    def __init__(self, members: Sequence[Member], totals: Sequence[Sequence[float]], leave_one_out: bool) -> None:
        self._leave_one_out = leave_one_out
        values: dict[Hashable, list[Sequence[float]]] = defaultdict(list)
        for member in members:
            values[member.status].append(member.undecided)
        self._of_status = {status: _summed(found) for status, found in values.items()}
        self._of_group = _summed(totals) if totals else (0, [])

    def __call__(self, member: Member) -> list[float] | None:
        """
        The baseline of a member.

        Args:
            member ([`Member`]):
                One of the group.

        Returns:
            `list[float] | None` of length `K`: none where there is nothing to compare with.
        """
        count, sums = self._others(self._of_status[member.status], member.undecided)
        weight: float = count
        if member.prior:
            num_wholes, wholes = self._others(self._of_group, member.total)
            if num_wholes:
                guesses = [whole / num_wholes - part for whole, part in zip(wholes, member.decided, strict=True)]
                sums = [value + member.prior * guess for value, guess in zip(sums, guesses, strict=True)]
                weight += member.prior
        return [value / weight for value in sums] if weight else None

    def _others(self, found: tuple[int, list[float]], own: Sequence[float]) -> tuple[int, list[float]]:
        count, sums = found
        if not self._leave_one_out:
            return count, sums
        return count - 1, [total - value for total, value in zip(sums, own, strict=True)]


def _summed(values: Sequence[Sequence[float]]) -> tuple[int, list[float]]:
    return len(values), [sum(column) for column in zip(*values, strict=True)]
