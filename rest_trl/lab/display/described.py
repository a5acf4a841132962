"""What terminal and page say of a completion: its regions, its turns, and what came from tools between them."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from ...tool_calls import Region
from .completion_files import Completion


class Inspected(NamedTuple):
    """
    A completion with the [`Region`] of each token, and the coefficient of each if it is known.

    Where the file has a gold completion: its tokens and their regions, whether it has calls, and whether the
    completion makes exactly these, or none.
    """

    completion: Completion
    region_ids: list[int]
    coefficients: list[float] | None
    gold_ids: list[int] | None = None
    gold_region_ids: list[int] | None = None
    has_gold_calls: bool | None = None
    exact: bool | None = None

    def advantages(self) -> list[float] | None:
        """Advantage of each token before the coefficients, 0 at what is not the policy's, if the file has it."""
        completion = self.completion
        if completion.advantages is not None:
            return completion.advantages
        shared = completion.scores.get("advantage")
        return None if shared is None else [shared * of_policy for of_policy in completion.policy]

    def verdict(self) -> str:
        """Whether the calls are right; empty where nobody knows."""
        if self.exact is None:
            return ""
        if self.has_gold_calls:
            verdict = "exact calls" if self.exact else "wrong calls"
        else:
            verdict = "rightly no call" if self.exact else "wrong: no call is gold"
        return f"{verdict}, cut off" if self.completion.truncated else verdict


def exact_counts(items: Sequence[Inspected]) -> str:
    """How many completions are right, apart for golds with and without calls; empty where nobody knows."""
    counts = []
    for has_calls, golds in ((True, "with calls"), (False, "without calls, as which any text without one is as good")):
        exact = [item.exact for item in items if item.exact is not None and item.has_gold_calls is has_calls]
        if exact:
            counts.append(f"{sum(exact)} of {len(exact)} golds {golds}")
    return f"Exact: {', '.join(counts)}." if counts else ""


class Piece(NamedTuple):
    """Tokens `start` to `stop` of a completion, all of one `turn` (from 0) or all not the policy's (`None`)."""

    start: int
    stop: int
    turn: int | None


def region_summary(item: Inspected) -> list[tuple[Region, str]]:
    """Describe each region that a completion has: number of tokens, and mean and range of their coefficients."""
    summary = []
    for region in Region:
        places = [place for place, region_id in enumerate(item.region_ids) if region_id == region]
        if not places:
            continue
        name = "not the policy's" if region is Region.NONE else region.name.lower()
        text = f"{name}: {_tokens(len(places))}"
        if item.coefficients is not None and region is not Region.NONE:
            text += f", coefficient {_mean([item.coefficients[place] for place in places])}"
        summary.append((region, text))
    return summary


def has_turns(completion: Completion) -> bool:
    """Whether a completion holds more than one turn of the policy."""
    return not all(completion.policy)


def pieces_of(completion: Completion) -> list[Piece]:
    """Split a completion into its turns and what lies between them."""
    pieces: list[Piece] = []
    start = turn = 0
    for of_policy, run in groupby(completion.policy):
        stop = start + len(list(run))
        pieces.append(Piece(start, stop, turn if of_policy else None))
        start, turn = stop, turn + of_policy
    return pieces


def described_piece(item: Inspected, piece: Piece) -> str:
    """Describe a piece in one line: number of tokens, and for a turn its rewards, advantage and mean coefficient."""
    tokens = _tokens(piece.stop - piece.start)
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


def _tokens(count: int) -> str:
    return f"{count} token{'s' if count > 1 else ''}"


def _mean(values: list[float]) -> str:
    mean = f"{sum(values) / len(values):.3f}"
    return mean if max(values) - min(values) < 0.0005 else f"{mean} ({min(values):.3f} to {max(values):.3f})"
