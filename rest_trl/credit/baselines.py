"""Means over the completions of a group that share a status."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Members(NamedTuple):
    """
    All runs of tokens of a group, each run of one status and one completion: `M` runs, `K` rewards.

    Args:
        status (`Sequence[Hashable]` of length `M`):
            What the prefix tells, see [`~rest_trl.credit.Segment`].
        undecided (`numpy.ndarray` of shape `(M, K)`):
            The undecided parts of the rewards.
        decided (`numpy.ndarray` of shape `(M, K)`):
            The parts of the rewards that the prefix has decided.
        total (`numpy.ndarray` of shape `(M, K)`):
            The rewards of the completion.
        prior (`numpy.ndarray` of shape `(M,)`):
            How many members the guess from whole completions counts as.
    """

    status: Sequence[Hashable]
    undecided: np.ndarray
    decided: np.ndarray
    total: np.ndarray
    prior: np.ndarray


def baselines(members: Members, totals: np.ndarray, leave_one_out: bool) -> np.ndarray:
    """
    Baselines of the members of a group, see the head of [`~rest_trl.credit.advantages`].

    Args:
        members ([`Members`]):
            All runs of the group.
        totals (`numpy.ndarray` of shape `(G, K)`):
            Rewards of all completions of the group, those without any status included.
        leave_one_out (`bool`):
            Whether a completion is left out of its own baseline.

    Returns:
        `numpy.ndarray` of shape `(M, K)`: NaN where there is nothing to compare with.
    """
    numbers: dict[Hashable, int] = {}
    indices = np.array([numbers.setdefault(status, len(numbers)) for status in members.status])
    of_status = np.zeros((len(numbers), totals.shape[1]))
    np.add.at(of_status, indices, members.undecided)
    own = int(leave_one_out)
    sums = of_status[indices] - own * members.undecided
    counts = np.bincount(indices)[indices] - float(own)
    num_others = len(totals) - own
    if num_others:
        guesses = (totals.sum(0) - own * members.total) / num_others - members.decided
        sums += members.prior[:, None] * guesses
        counts += members.prior
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is no other member
        return sums / counts[:, None]
