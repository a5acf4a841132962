"""Checks, before training starts, that a data set and reward functions go together."""

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from ..tool_calls import SYNTAXES, get_syntax


logger = logging.getLogger(__name__)

LOOKED_AT = 1000  # rows: enough to know the syntax of a data set, and parsed in well under a second


class SolutionCounts(NamedTuple):
    """How many of `total` gold completions hold a call that a syntax reads, and how many one that it cannot read."""

    total: int
    with_calls: int
    unreadable: int


def count_solutions(solutions: Iterable[str], tool_call_syntax: str) -> SolutionCounts:
    """
    Count the gold completions that a syntax reads.

    Args:
        solutions (`Iterable[str]`):
            Gold completions.
        tool_call_syntax (`str`):
            Name of the syntax.

    Returns:
        [`SolutionCounts`]

    Example:

    ```python
    >>> count_solutions(['<tool_call>{"name": "f", "arguments": {}}</tool_call>', "No tool fits."], "hermes")
    SolutionCounts(total=2, with_calls=1, unreadable=0)

    ```
    """
    parse = get_syntax(tool_call_syntax).parse
    parsed = [parse(solution) for solution in solutions]
    return SolutionCounts(len(parsed), sum(bool(p.calls) for p in parsed), sum(bool(p.errors) for p in parsed))


def check_solutions(dataset: Any, tool_call_syntax: str, given_syntaxes: Iterable[str]) -> None:
    """
    Refuse a data set that rule rewards cannot score, and warn of one whose gold completions are of another syntax.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The data set. The first 1,000 gold completions of a `Dataset` are looked at; of an `IterableDataset`, which
            may be slow to start, only the columns.
        tool_call_syntax (`str`):
            The policy's syntax, in which the rewards read golds and completions.
        given_syntaxes (`Iterable[str]`):
            Syntaxes that the rewards were given.

    Raises:
        ValueError: if there is no column `solution`, or a gold completion is no text.
    """
    columns = dataset.column_names
    if columns is not None and "solution" not in columns:
        raise ValueError(
            f"the rewards compare with gold completions in a column `solution`, and the data set has {sorted(columns)}"
            ": add the column, for example with rest_trl.data.load_rest_dataset, or give other `reward_funcs`"
        )
    if not hasattr(dataset, "__len__"):
        return
    solutions = [row["solution"] for row in islice(dataset.select_columns("solution"), LOOKED_AT)]
    wrong = next((index for index, solution in enumerate(solutions) if not _is_gold(solution)), None)
    if wrong is not None:
        raise ValueError(
            f"row {wrong} of the data set has a {type(solutions[wrong]).__name__} as `solution`: a gold completion is "
            "the text that the policy should write, or a list of texts, one for every assistant turn"
        )
    solutions = [text for gold in solutions for text in ([gold] if isinstance(gold, str) else gold)]
    counts = count_solutions(solutions, tool_call_syntax)
    found = f"{counts.with_calls} of {counts.total} gold completions hold a call in the syntax {tool_call_syntax!r}"
    others = sorted({*given_syntaxes} - {tool_call_syntax})
    if others:
        logger.warning(
            "The rewards were given the syntax %s, but the policy writes %r, in which they are read: %s. If the "
            "policy writes the other one, set tool_call_syntax in ResTGRPOConfig",
            " and ".join(map(repr, others)),
            tool_call_syntax,
            found,
        )
    parse = get_syntax(tool_call_syntax).parse
    most, best = _most_readable([solution for solution in solutions if not parse(solution).calls])
    if counts.with_calls == 0:
        cure = (
            f"In {best} {most} do: set tool_call_syntax if the policy writes it, else write the golds anew"
            if most
            else "Without calls only the layout is rewarded"
        )
        logger.warning("%s, so the correctness of calls gives no gradient. %s", found, cure)
        return
    if counts.unreadable:
        logger.warning("%s; %d hold something else in the place of one and give no reward", found, counts.unreadable)
    if most:
        logger.warning(
            "%s, and %d of the others one in the syntax %s, which is read as an answer without calls: write these "
            "golds anew",
            found,
            most,
            best,
        )


def _most_readable(solutions: Sequence[str]) -> tuple[int, str]:
    """The number of texts in which the best syntax finds calls, and the name of that syntax."""
    readable = {name: count_solutions(solutions, name).with_calls for name in SYNTAXES}
    most = max(readable.values())
    return most, " or ".join(repr(name) for name, with_calls in readable.items() if with_calls == most)


def _is_gold(solution: Any) -> bool:
    return isinstance(solution, str) or (isinstance(solution, list) and all(isinstance(x, str) for x in solution))


# What TRL gives to reward functions beside the columns of the data set.
_GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def check_signature(reward_func: Callable[..., Any], columns: Collection[str] | None) -> None:
    """
    Refuse a reward function that TRL could not call.

    Args:
        reward_func (`Callable`):
            Reward function; one that Python knows no signature of, such as one written in C, is not checked.
        columns (`Collection[str]`, *optional*):
            Columns that reward functions get from the data set; not known for some streamed ones.

    Raises:
        ValueError: if it lacks a parameter, or has one that is not given.
    """
    try:
        signature = inspect.signature(reward_func)
    except ValueError:
        return
    of_environments = {"environments"} & signature.parameters.keys()  # given where there are any
    given = dict.fromkeys([*_GIVEN, *of_environments, *(columns or ())])
    try:
        if columns is None:
            signature.bind_partial(**given)
        else:
            signature.bind(**given)
    except TypeError as error:
        name = reward_func.__name__ if hasattr(reward_func, "__name__") else type(reward_func).__name__
        known = "" if columns is None else f", of the columns {', '.join(map(repr, sorted(columns)))}"
        raise ValueError(
            f"the reward function {name!r} cannot be called as TRL does ({error}): let it take `completions`{known} "
            "those that it needs, and all others by **kwargs"
        ) from error
