"""Which samples of BFCL are not independent of each other."""

import json
from collections.abc import Mapping, Sequence

from .samples import Case


def clusters(cases: Mapping[str, Sequence[Case]]) -> dict[str, str]:
    """
    Find the cluster of each sample.

    The four multi-turn categories are variants of the same 200 dialogues, so `multi_turn_base_17` and
    `multi_turn_miss_func_17` are in one cluster. In the ids of the live categories, such as `live_simple_10-5-0`, the
    middle number stands for the set of functions that a user uploaded. Live questions about the same functions are in
    one cluster, also across categories. Every other sample is a cluster of its own.

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
    """
    Join samples that have one of their two keys in common, directly or through further samples (union-find).

    Returns the name of the cluster by sample.
    """
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
