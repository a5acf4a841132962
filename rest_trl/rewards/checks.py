"""Checks, before training starts, that a data set and reward functions go together."""

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from ..credit import DecomposedReward
from ..tool_calls import SYNTAXES, ToolCallSyntax, get_syntax
from .reading import read_alternatives
from .tool_schemas import ToolSchemas, no_tools, read_tools


logger = logging.getLogger(__name__)

LOOKED_AT = 1000  # rows: enough to know the syntax of a data set, and parsed in well under a second


class SolutionCounts(NamedTuple):
    """How many of `total` gold completions hold a call that a syntax reads, and how many one that it cannot read."""

    total: int
    with_calls: int
    unreadable: int


def count_solutions(solutions: Iterable[str], tool_call_syntax: str) -> SolutionCounts:
    """
    Count the gold completions that the syntax reads.

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

    The first 1,000 gold completions of a `Dataset` are looked at; of an `IterableDataset`, which may be slow to start,
    only the columns. `given_syntaxes` are those that the rewards were given.
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
    for index, solution in enumerate(solutions):
        try:
            _check_gold(solution, get_syntax(tool_call_syntax))
        except ValueError as error:
            raise ValueError(
                f"row {index} of the data set has a {type(solution).__name__} as `solution` ({error}): a gold "
                "completion is the text that the policy should write, a mapping with this `text` and its "
                "`alternatives`, or a list, one for every assistant turn"
            ) from error
    solutions = list(_texts(solutions))
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
            f"In {best} {most} do: set tool_call_syntax if the policy writes it, else write the golds in the policy's"
            if most
            else "Without calls only the layout is rewarded"
        )
        logger.warning("%s, so the correctness of calls gives no gradient. %s", found, cure)
        return
    if counts.unreadable:
        logger.warning(
            "%s; %d hold something else where a call should be and give no reward", found, counts.unreadable
        )
    if most:
        logger.warning(
            "%s, and %d of the others one in the syntax %s, which is read as an answer without calls: write these "
            "golds in the policy's syntax",
            found,
            most,
            best,
        )


def _most_readable(solutions: Sequence[str]) -> tuple[int, str]:
    """The number of texts in which the best syntax finds calls, and the name of that syntax."""
    readable = {name: count_solutions(solutions, name).with_calls for name in SYNTAXES}
    most = max(readable.values())
    return most, " or ".join(repr(name) for name, with_calls in readable.items() if with_calls == most)


def _check_gold(solution: Any, syntax: ToolCallSyntax) -> None:
    if isinstance(solution, list):
        for of_turn in solution:
            _check_gold(of_turn if not isinstance(of_turn, list) else None, syntax)
    elif isinstance(solution, Mapping) and isinstance(solution.get("text"), str):
        read_alternatives(solution.get("alternatives"), syntax.parse(solution["text"]))
    elif not isinstance(solution, str):
        raise ValueError(f"{solution!r:.80} is not text")


def _texts(solutions: Iterable[Any]) -> Iterator[str]:
    for solution in solutions:
        if isinstance(solution, str):
            yield solution
        else:
            yield from _texts([solution["text"]] if isinstance(solution, Mapping) else solution)


# What TRL gives to reward functions beside the columns of the data set.
_GIVEN = ("prompts", "completions", "completion_ids", "trainer_state")
_LOGS = ("log_extra", "log_metric")


def check_signatures(reward_func: Any, columns: Collection[str] | None) -> None:
    """
    Refuse a reward function that TRL, or its `segments` that credit could not call.

    `columns` are those that reward functions get from the data set; they are not known for some streamed ones.
    """
    name = reward_func.__name__ if hasattr(reward_func, "__name__") else type(reward_func).__name__
    _check_signature(reward_func, f"the reward function {name!r}", columns, _LOGS)
    if isinstance(reward_func, DecomposedReward):
        _check_signature(reward_func.segments, f"`segments` of the reward function {name!r}", columns, ())


def _check_signature(
    function: Callable[..., Any], label: str, columns: Collection[str] | None, logs: Sequence[str]
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # Python knows no signature of some functions, such as those written in C
        return
    of_environments = {"environments"} & signature.parameters.keys()  # given where there are any
    given = dict.fromkeys([*_GIVEN, *logs, *of_environments, *(columns or ())])
    try:
        (signature.bind if columns is not None else signature.bind_partial)(**given)
    except TypeError as error:
        known = "" if columns is None else f", of the columns {', '.join(map(repr, sorted(columns)))}"
        raise ValueError(
            f"{label} cannot be called as TRL does ({error}): let it take `completions`{known} those that it needs, "
            "and all others by **kwargs"
        ) from error


def read_row_tools(dataset: Any) -> list[ToolSchemas]:
    """The tools of the first 1,000 rows of a `Dataset`; refuses those that are not JSON schemas."""
    found: list[ToolSchemas] = []
    for index, row in enumerate(islice(dataset.select_columns("tools"), LOOKED_AT)):
        try:
            found.append(read_tools(row["tools"]))
        except ValueError as error:
            raise ValueError(f"row {index} of the data set: {error}: `tools` is a list of JSON schemas") from error
    return found


def check_tools(dataset: Any, name: str) -> None:
    """
    Refuse a data set whose rows have no tools, and warn of tools that the reward of that name cannot judge.

    As much is looked at as by [`check_solutions`].
    """
    columns = dataset.column_names
    if columns is not None and "tools" not in columns:
        raise ValueError(no_tools(name))
    if not hasattr(dataset, "__len__"):
        return
    found = read_row_tools(dataset)
    if not any(map(len, found)):
        raise ValueError(no_tools(name))
    unclear = [tool for schemas in found for tool in schemas.unclear]
    if unclear:
        logger.warning(
            "%d of %d tools declare parameters in words that JSON Schema does not have, the first is %r: %s does not "
            "judge these values. Give them JSON schemas",
            len(unclear),
            sum(map(len, found)),
            unclear[0],
            name,
        )
