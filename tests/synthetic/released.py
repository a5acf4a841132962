"""
What the authors' released code does, stated again from the facts known of it, with its faults.

Rewards read the raw text, as that code does, and share nothing with `rest_trl.rewards`. Coefficients are per token of
the text tokenised again. Both are held against the released figures where these are at hand.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from typing import Any

import torch


KINDS = ("think", "tool_call", "response")


class ReleasedCodeRaises(Exception):
    """The released code raises on this gold completion."""


def _calls(text: str) -> list[dict[str, Any]]:
    """The JSON lines of the first call block, up to the next closing tag; raises where they are none."""
    lines = text.split("<tool_call>")[1].split("</tool_call>")[0].strip().split("\n")
    calls = [json.loads(line) for line in lines]
    for call in calls:
        if not isinstance(call, dict) or "name" not in call:
            raise ValueError(f"{call} is no call")
    return calls


def layout_is_right(completion: str, gold: str) -> bool:
    """Whether the tags are there once each, and in order, as far as the gold completion has them."""
    needed = ["think", *(kind for kind in KINDS[1:] if f"<{kind}>" in gold)]
    # Beside a gold call nothing else is allowed; without one, only the tags that are needed are looked at.
    looked_at = KINDS if "tool_call" in needed else needed
    tags = [tag for kind in looked_at for tag in (f"<{kind}>", f"</{kind}>")]
    if any(completion.count(tag) != (tag.strip("</>") in needed) for tag in tags):
        return False
    positions = [completion.index(tag) for tag in tags if tag in completion]
    return positions == sorted(positions)


def call_share(calls: list[dict[str, Any]], gold_calls: list[dict[str, Any]]) -> float:
    """The share in [0, 1] of what the gold calls ask for that the calls have."""
    if calls == gold_calls:
        return 1.0
    names, gold_names = Counter(call["name"] for call in calls), Counter(call["name"] for call in gold_calls)
    points = sum((names & gold_names).values()) / sum((names | gold_names).values())
    possible, free = 1, list(range(len(calls)))
    for gold_call in gold_calls:
        wanted = gold_call["parameters"]
        possible += 1 + len(wanted)
        best, best_index = 0.0, None
        for index in free:
            if calls[index]["name"] == gold_call["name"]:
                given = calls[index]["parameters"]
                either = given.keys() | wanted.keys()
                shared = given.keys() & wanted.keys()
                found = (len(shared) / len(either) if either else 1.0) + sum(given[k] == wanted[k] for k in shared)
                if found > best:
                    best, best_index = found, index
        if best_index is not None:
            free.remove(best_index)
            points += best
    return points / possible


def released_reward(completion: str, gold: str, step: int | None) -> dict[str, float]:
    """
    Reward of a completion at a training step, `None` for the static bounds.

    Raises:
        ReleasedCodeRaises: if the gold's calls cannot be read, as where its reasoning quotes the tags.
    """
    low, high, worst, best = 0.0, 1.0, -3.0, 3.0
    if step is not None:
        low, high = min(-1, -2 + 2 * step / 150), max(1, 2 - step / 150)
        worst, best = max(-3, -2 - step / 150), min(3, 2 + step / 150)
    layout = high if layout_is_right(completion, gold) else low
    correctness = 0.0
    if "<tool_call>" in gold:
        try:
            gold_calls = _calls(gold)
        except (ValueError, IndexError) as error:
            raise ReleasedCodeRaises(str(error)) from error
        try:
            correctness = worst + (best - worst) * call_share(_calls(completion), gold_calls)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError):
            correctness = worst
    return {"total": layout + correctness, "format": layout, "correctness": correctness}


def weight(kind: str, step: int) -> float:
    """The released coefficient of a kind of span at a training step, before it is normalised."""
    growing = 0.6 + 0.002 * step
    return {"tag": 1.0, "name": 1.2, "parameters": min(1.2, growing), "reasoning": min(1.0, growing)}[kind]


def released_spans(text: str) -> set[tuple[int, int, str]]:
    """`{(start, end, kind)}` in characters that the released code means to mark."""
    spans = set()
    for tag in KINDS:
        for block in re.finditer(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL):
            (start, end), content = block.span(1), block.group(1)
            spans |= {(block.start(), start, "tag"), (end, block.end(), "tag")}
            if tag == "think":
                spans.add((start, end, "reasoning"))
            name = re.search(r'"name"\s*:\s*"([^"]+)"', content) if tag == "tool_call" else None
            if name:
                spans.add((start + name.start(1), start + name.end(1), "name"))
            arguments = re.search(r'"(?:parameters|arguments)"\s*:\s*(\{)', content) if tag == "tool_call" else None
            if arguments:
                first = start + arguments.start(1)
                depth, last = 0, None
                for position in range(first, len(text)):
                    depth += {"{": 1, "}": -1}.get(text[position], 0)
                    if depth == 0:
                        last = position + 1
                        break
                spans.add((first, last or text.index("}", first) + 1, "parameters"))
    return {span for span in spans if span[0] < span[1]}


def released_tokens(spans: set[tuple[int, int, str]], offsets: list[tuple[int, int]], step: int) -> torch.Tensor:
    """Coefficients that the released code gives to the tokens of those spans, shape `(len(offsets),)`."""
    starts = [start for start, _ in offsets]
    coefficients = torch.zeros(len(offsets))
    for start, end, kind in spans:
        first = bisect_left(starts, start)
        last = max(first + 1, bisect_right(starts, end - 1) - 1)
        coefficients[first:last] = coefficients[first:last].clamp(min=weight(kind, step))
    positive = coefficients[coefficients > 0]
    return coefficients / positive.mean() if len(positive) else coefficients
