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
            The undecided parts of the rewards, NaN where a reward is left out.
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
    own = int(leave_one_out)
    sums, counts = (
        _of_status(values, indices, len(numbers)) - own * values
        for values in (np.nan_to_num(members.undecided), 1.0 - np.isnan(members.undecided))
    )
    num_others = (~np.isnan(totals)).sum(0) - own * ~np.isnan(members.total)
    priors = members.prior[:, None] * (num_others > 0)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where there is no other member
        guesses = (np.nansum(totals, 0) - own * np.nan_to_num(members.total)) / num_others - members.decided
        return (sums + np.where(priors > 0, priors * guesses, 0.0)) / (counts + priors)


def _of_status(values: np.ndarray, indices: np.ndarray, num_statuses: int) -> np.ndarray:
    """For each run, the sum of the values over all runs of its status: of shape `(M, K)`."""
    sums = np.zeros((num_statuses, values.shape[1]))
    np.add.at(sums, indices, values)
    return sums[indices]
