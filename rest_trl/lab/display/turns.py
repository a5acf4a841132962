"""A completion of several turns, piece by piece: what the policy wrote, and what came from tools and the template."""

from itertools import groupby
from typing import NamedTuple

from .completions import Completion, Inspected


class Piece(NamedTuple):
    """
    Consecutive tokens that all belong to one turn, or all to none.

    Args:
        start (`int`):
            Column of the first token.
        stop (`int`):
            Column behind the last one.
        turn (`int`, *optional*):
            Number of the turn, from 0; `None` for what came from tools or the template.
    """

    start: int
    stop: int
    turn: int | None


def pieces_of(completion: Completion) -> list[Piece]:
    """
    The pieces of a completion, in order.

    Args:
        completion ([`~rest_trl.lab.display.completions.Completion`]):
            The completion.

    Returns:
        `list[Piece]`
    """
    pieces: list[Piece] = []
    start = turn = 0
    for is_own, run in groupby(completion.policy):
        stop = start + len(list(run))
        pieces.append(Piece(start, stop, turn if is_own else None))
        start, turn = stop, turn + is_own
    return pieces


def has_turns(completion: Completion) -> bool:
    """Whether there is more to a completion than one turn of the policy."""
    return not all(completion.policy)


def described_piece(item: Inspected, piece: Piece) -> str:
    """
    What is known of a piece: its number of tokens, and for a turn its rewards, advantage and mean coefficient.

    Args:
        item ([`~rest_trl.lab.display.completions.Inspected`]):
            The completion.
        piece ([`Piece`]):
            One of its pieces.

    Returns:
        `str`: in one line.
    """
    count = piece.stop - piece.start
    tokens = f"{count} token{'s' if count > 1 else ''}"
    if piece.turn is None:
        return f"Not the policy's: {tokens}"
    completion, facts = item.completion, [tokens]
    for name, values in completion.turn_rewards.items():
        if piece.turn < len(values):
            facts.append(f"{name} {values[piece.turn]:.3f}")
    advantages = completion.advantages
    if advantages is not None:
        facts.append(f"advantage {_mean(advantages[piece.start : piece.stop])}")
    elif "advantage" in completion.scores:
        facts.append(f"advantage {completion.scores['advantage']:.3f}")
    if item.coefficients is not None:
        facts.append(f"coefficient {_mean(item.coefficients[piece.start : piece.stop])}")
    return f"Turn {piece.turn + 1}: {', '.join(facts)}"


def _mean(values: list[float]) -> str:
    mean = f"{sum(values) / len(values):.3f}"
    return mean if max(values) - min(values) < 0.0005 else f"{mean} ({min(values):.3f} to {max(values):.3f})"
