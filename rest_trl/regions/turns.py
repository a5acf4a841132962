"""Assistant turns of sampled completions: where they lie in a batch, and what is read in each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..tool_calls import ParsedCompletion
from .token_bytes import byte_offsets


class Turn(NamedTuple):
    """
    An assistant turn and where its tokens lie.

    Args:
        parsed ([`~rest_trl.tool_calls.ParsedCompletion`]):
            The parsed turn.
        text (`str`):
            Its text; each byte of a character that was cut off is a lone surrogate.
        column (`int`):
            Column of its first token.
        token_starts (`np.ndarray` of shape `(N,)`):
            Where each of its tokens starts, in bytes of the text.
    """

    parsed: ParsedCompletion
    text: str
    column: int
    token_starts: np.ndarray

    def columns(self, positions: Sequence[int]) -> list[int]:
        """
        The column of the first token that starts at or after each position.

        Args:
            positions (`Sequence[int]`):
                Places in the text, in characters.

        Returns:
            `list[int]`
        """
        places = np.array(positions, np.int64)
        if not self.text.isascii():
            inside = np.minimum(places, len(self.text))
            places = byte_offsets(self.text)[inside] + places - inside
        return (self.column + np.searchsorted(self.token_starts, places)).tolist()


def find_turns(policy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The turns of a batch: every contiguous run of a mask is one.

    Args:
        policy (`np.ndarray` of shape `(B, T)`):
            True at the policy's tokens.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`, each of shape `(N,)`: the row of every turn, the column of its
        first token and the column after its last one, row by row.

    Example:

    ```python
    >>> [found.tolist() for found in find_turns(np.array([[True, True, False, True], [False, True, True, False]]))]
    [[0, 0, 1], [0, 3, 1], [2, 4, 3]]

    ```
    """
    count, length = policy.shape
    framed = np.zeros((count, length + 2), dtype=bool)
    framed[:, 1:-1] = policy
    rows, columns = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), length + 1)
    return rows[::2], columns[::2], columns[1::2]
