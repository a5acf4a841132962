"""Scores of a completion against its gold completion, before any scaling: pure functions of parsed completions."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ..tool_calls import ParsedCompletion, ToolCall
from .reading import AlternativeGold, TurnGolds


def json_equal(left: Any, right: Any) -> bool:
    """Whether two decoded JSON values are the same value: `1` is `1.0` but not `true`, and keys have no order."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_equal, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def python_equal(left: Any, right: Any) -> bool:
    """Python's `==`, by which the released code compares values: there, `true` is `1`."""
    return bool(left == right)


def allowed_values(gold_call: ToolCall, alternatives: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The values that each parameter of a gold call may have, the call's first."""
    names = gold_call.arguments.keys() | alternatives.keys()
    stated = {name: [value] for name, value in gold_call.arguments.items()}
    allowed = {name: [*stated.get(name, ()), *alternatives.get(name, ())] for name in names}
    return {name: values for name, values in allowed.items() if values}


def gold_calls(gold: ParsedCompletion, calls: Sequence[ToolCall], equal: Callable[[Any, Any], bool]) -> list[ToolCall]:
    """The calls of a gold; where it has alternatives, in the form that is nearest to the calls of the completion."""
    if not isinstance(gold, AlternativeGold):
        return gold.calls
    unused, nearest = list(calls), []
    for gold_call, alternatives in zip(gold.calls, gold.alternatives, strict=True):
        allowed = allowed_values(gold_call, alternatives)
        forms = [
            (_form(gold_call.name, allowed, call.arguments, equal), index)
            for index, call in enumerate(unused)
            if call.name == gold_call.name
        ]
        if not forms:
            nearest.append(gold_call)
            continue
        # Forms differ in their number of parameters, so what counts is the share of the points.
        shares = [
            _arguments_score(unused[index].arguments, form.arguments, equal) / (1 + len(form.arguments))
            for form, index in forms
        ]
        form, index = forms[max(range(len(forms)), key=shares.__getitem__)]
        nearest.append(form)
        del unused[index]
    return nearest


def _form(
    name: str, allowed: Mapping[str, Sequence[Any]], arguments: Mapping[str, Any], equal: Callable[[Any, Any], bool]
) -> ToolCall:
    form = {}
    for parameter, values in allowed.items():
        given = parameter in arguments
        if given and any(equal(arguments[parameter], value) for value in values):
            form[parameter] = arguments[parameter]
        elif given or "" not in values:
            form[parameter] = values[0]
    return ToolCall(name, form)


def follows_layout(parsed: ParsedCompletion, gold: ParsedCompletion, tool_call_syntax: str) -> bool:
    """
    Whether a completion has the blocks that its gold completion asks for, in order and closed.

    - `rlla` (the released check): reasoning, then exactly one call block and exactly one response, each where the gold
      has one. The content of calls is left to the correctness. Where the gold has no call, blocks of kinds that it
      lacks are not punished.
    - Any other syntax: the gold's kinds in the gold's order, successive calls counting as one, and all calls readable.
      Reasoning is required where the gold has it, and not punished where the gold lacks it.

    """
    if not all(block.closed for block in parsed.blocks):
        return False
    kinds = [block.kind for block in parsed.blocks]
    gold_kinds = [block.kind for block in gold.blocks]
    if tool_call_syntax == "rlla":
        wanted = ["reasoning", *(kind for kind in ("tool_call", "response") if kind in gold_kinds)]
        return [kind for kind in kinds if kind in wanted or "tool_call" in wanted] == wanted
    if "reasoning" not in gold_kinds:
        kinds = [kind for kind in kinds if kind != "reasoning"]
    return not parsed.errors and _merge_calls(kinds) == _merge_calls(gold_kinds)


def call_score(
    calls: Sequence[ToolCall], gold_calls: Sequence[ToolCall], equal: Callable[[Any, Any], bool] = json_equal
) -> float:
    r"""
    How near the calls come to the gold ones, in [0, 1]; the same calls in any order score 1 (ToolRL, section 3).

    $$
    \frac{r_{name} + \sum_{g} (r_{param} + r_{value})}{1 + \sum_{g} (1 + \#parameters(g))}
    $$

    The sums run over the gold calls g. `r_name` is the Jaccard index of the multisets of tool names, `r_param` that of
    the parameter names of g and its match, `r_value` the number of parameters of g to which the match gives an equal
    value. In the gold's order, each gold call takes the best unused call of the same name; without one it adds 0.

    Args:
        calls (`Sequence[ToolCall]`):
            The completion's calls.
        gold_calls (`Sequence[ToolCall]`):
            The gold calls, at least one.
        equal (`Callable`, *optional*, defaults to [`json_equal`]):
            Compares the two values of a parameter.

    Returns:
        `float`
    """
    names = Counter(call.name for call in calls)
    gold_names = Counter(call.name for call in gold_calls)
    score = (names & gold_names).total() / (names | gold_names).total()
    unused: dict[str, list[ToolCall]] = defaultdict(list)
    for call in calls:
        unused[call.name].append(call)
    for gold_call in gold_calls:
        candidates = unused[gold_call.name]
        if candidates:
            scores = [_arguments_score(call.arguments, gold_call.arguments, equal) for call in candidates]
            best = max(range(len(scores)), key=scores.__getitem__)
            score += scores[best]
            del candidates[best]
    return score / num_points(gold_calls)


def num_points(gold_calls: Sequence[ToolCall]) -> int:
    """The divisor of [`call_score`]: one point for the names, and for each gold call one and one per parameter."""
    return 1 + sum(1 + len(gold_call.arguments) for gold_call in gold_calls)


def is_exact(parsed: ParsedCompletion, gold: ParsedCompletion, equal: Callable[[Any, Any], bool] = json_equal) -> bool:
    """
    Whether a completion makes exactly the gold's calls, in any order; where the gold has none, whether it makes none.

    One that is unreadable or was cut off is never exact. Any text without a call is as good as a gold without one, so
    report golds with and without calls apart.
    """
    if parsed.is_cut:
        return False
    if parsed.errors or not gold.calls:
        return not parsed.errors and not parsed.calls
    return call_score(parsed.calls, gold_calls(gold, parsed.calls, equal), equal) == 1


def _arguments_score(arguments: dict[str, Any], gold: dict[str, Any], equal: Callable[[Any, Any], bool]) -> float:
    shared = arguments.keys() & gold.keys()
    either = arguments.keys() | gold.keys()
    # Two calls without parameters agree about them.
    names_score = len(shared) / len(either) if either else 1.0
    return names_score + sum(equal(arguments[key], gold[key]) for key in shared)


def _merge_calls(kinds: list[str]) -> list[str]:
    merged: list[str] = []
    for kind in kinds:
        if kind != "tool_call" or merged[-1:] != ["tool_call"]:
            merged.append(kind)
    return merged


def turn_score(
    turns: Sequence[ParsedCompletion], golds: TurnGolds, equal: Callable[[Any, Any], bool]
) -> tuple[float, bool]:
    """
    How near the calls of a dialogue come to those of its golds, and whether every turn makes exactly its gold's.

    Each turn is compared with the gold at its place. The mean [`call_score`] is taken over the turns in which a call
    was made or should have been; where only one of the two holds, the score is 0.
    """
    pairs = list(zip_longest(turns, golds.turns, fillvalue=ParsedCompletion()))
    scores = [
        call_score(turn.calls, gold_calls(gold, turn.calls, equal), equal) if gold.calls else 0.0
        for turn, gold in pairs
        if turn.calls or turn.errors or gold.calls
    ]
    return sum(scores) / max(1, len(scores)), all(is_exact(turn, gold, equal) for turn, gold in pairs)


def turns_follow_layout(turns: Sequence[ParsedCompletion], golds: TurnGolds, tool_call_syntax: str) -> bool:
    """Whether a dialogue has as many turns as golds, and each the blocks of its gold, see [`follows_layout`]."""
    return len(turns) == len(golds.turns) and all(
        follows_layout(turn, gold, tool_call_syntax) for turn, gold in zip(turns, golds.turns, strict=True)
    )
