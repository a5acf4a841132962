"""Golds turn by turn: a solution that is a list, with one gold completion for every assistant turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ..tool_calls import ParsedCompletion
from .reading import merge_calls
from .scoring import call_score, follows_layout, is_exact


@dataclass
class TurnGolds(ParsedCompletion):
    """
    The golds of a dialogue. Used as one gold completion, this has the calls and errors of all turns.

    Args:
        turns (`list[ParsedCompletion]`):
            The gold of every assistant turn.
    """

    turns: list[ParsedCompletion] = field(default_factory=list)

    @classmethod
    def of(cls, turns: Sequence[ParsedCompletion]) -> "TurnGolds":
        """Build it from the gold of every turn."""
        merged = merge_calls(turns)
        blocks = [block for turn in turns for block in turn.blocks]
        return cls(merged.calls, merged.errors, blocks=blocks, turns=list(turns))


def turn_score(
    turns: Sequence[ParsedCompletion], golds: TurnGolds, equal: Callable[[Any, Any], bool]
) -> tuple[float, bool]:
    """
    How near the calls of a dialogue come to those of its golds, turn by turn.

    Each turn is compared with the gold at its place. The mean [`call_score`] is taken over the turns in which a call
    was made or should have been; where only one of the two holds, the score is 0.

    Args:
        turns (`Sequence[ParsedCompletion]`):
            The assistant turns.
        golds ([`TurnGolds`]):
            Their golds, at least one of which has a call.
        equal (`Callable`):
            Compares the two values of a parameter.

    Returns:
        `tuple[float, bool]`: the score in [0, 1], and whether every turn makes exactly the calls of its gold.
    """
    pairs = list(zip_longest(turns, golds.turns, fillvalue=ParsedCompletion()))
    scores = [
        call_score(turn.calls, gold.calls, equal) if gold.calls else 0.0
        for turn, gold in pairs
        if turn.calls or turn.errors or gold.calls
    ]
    return sum(scores) / max(1, len(scores)), all(is_exact(turn, gold, equal) for turn, gold in pairs)


def turns_follow_layout(turns: Sequence[ParsedCompletion], golds: TurnGolds, tool_call_syntax: str) -> bool:
    """
    Whether a dialogue has as many turns as golds, and each the blocks of its gold, see [`follows_layout`].

    Args:
        turns (`Sequence[ParsedCompletion]`):
            The assistant turns.
        golds ([`TurnGolds`]):
            Their golds.
        tool_call_syntax (`str`):
            The syntax of both.

    Returns:
        `bool`
    """
    return len(turns) == len(golds.turns) and all(
        follows_layout(turn, gold, tool_call_syntax) for turn, gold in zip(turns, golds.turns, strict=True)
    )
