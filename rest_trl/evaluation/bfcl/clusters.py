"""Which samples of BFCL are not independent of each other."""

import json
from collections.abc import Mapping, Sequence

from .samples import Case


def clusters(cases: Mapping[str, Sequence[Case]]) -> dict[str, str]:
    """
    What each sample shares with others.

    The four multi-turn categories are variants of the same 200 dialogues: `multi_turn_base_17` and
    `multi_turn_miss_func_17` share a cluster. In the ids of the live categories, as in `live_simple_10-5-0`, the
    middle number is that of a user's functions, which several questions are asked of; the categories share such
    functions as well. All other samples stand alone.

    Args:
        cases (`Mapping[str, Sequence[Case]]`):
            The questions by category.

    Returns:
        `dict[str, str]`: the cluster by sample id.
    """
    found: dict[str, str] = {}
    live: dict[str, tuple[str, str]] = {}
    for category, questions in cases.items():
        for case in questions:
            if category.startswith("multi_turn"):
                found[case.id] = f"multi_turn/{case.id.rpartition('_')[2]}"
            elif category.startswith("live"):
                functions = json.dumps(sorted(json.dumps(function, sort_keys=True) for function in case.functions))
                live[case.id] = (f"{category}/{case.id.split('-')[-2]}", functions)
            else:
                found[case.id] = case.id
    return found | _connected(live)


def _connected(shared: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Clusters of samples that share one of the two with each other, directly or through further samples."""
    root: dict[str, str] = {}

    def find(node: str) -> str:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for first, second in shared.values():
        root[find(first)] = find(second)
    names: dict[str, str] = {}
    for sample, (first, _) in shared.items():
        names.setdefault(find(first), f"live/{sample}")
    return {sample: names[find(first)] for sample, (first, _) in shared.items()}
