"""
The synthetic tool world: dialogues drawn from a seed, decomposed into single assistant steps.

This module needs the standard library only. A checksum of the user's request decides which split a dialogue belongs
to, so the splits are disjoint whatever the seeds.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, TypeVar

from .language import (
    CITIES,
    CLOSINGS,
    DISHES,
    DONE_ANSWERS,
    JOINTS,
    NO_TOOL_ANSWERS,
    NOISE,
    OPENINGS,
    PEOPLE,
    SMALL_TALK,
    TOPICS,
)
from .tools import CHAINS, TOOLS


Item = TypeVar("Item")
Split = Literal["train", "test"]
Arguments = dict[str, Any]
Call = dict[str, Any]  # {"name": str, "arguments": Arguments}

# Shares of the dialogues. A multi-step dialogue gives three steps, so about a quarter of all steps are of this kind.
DIALOGUE_SHARES = {"single": 0.60, "parallel": 0.14, "no_tool": 0.16, "multi_step": 0.10}
TEST_SHARE = 5  # one request out of this many is held out
INFORMATIVE_SHARE = 0.5


@dataclass(frozen=True)
class Step:
    """One assistant step: what the model sees and what it should do."""

    kind: str  # "single", "parallel", "no_tool" or "multi_step"; steps of other worlds bear the world's name
    tools: list[dict[str, Any]]  # on offer, as OpenAI function definitions
    messages: list[dict[str, Any]]  # history: the user's request, earlier calls and their results
    reasoning: str  # in this world half of the time what to call, else mere noise
    calls: list[Call]  # empty when no tool fits or the task is finished
    answer: str  # empty when there are calls

    @property
    def solution(self) -> str:
        """The gold completion in the hermes wire syntax."""
        blocks = [f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in self.calls]
        return "\n".join([f"<think>\n{self.reasoning}\n</think>", *blocks, *([self.answer] if self.answer else [])])


def function_definition(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """The OpenAI definition of a function whose parameters, given by their JSON schemas, are all required."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def tool_definition(name: str) -> dict[str, Any]:
    """The definition of a tool of the world."""
    properties = {parameter: kind.schema for parameter, kind in TOOLS[name].parameters.items()}
    return function_definition(name, TOOLS[name].description, properties)


def sample_arguments(name: str, rng: Random) -> tuple[dict[str, str], Arguments]:
    """Arguments of a tool, all of them different: the words of a request and the JSON values, by parameter."""
    spoken: dict[str, str] = {}
    arguments: Arguments = {}
    for parameter, kind in TOOLS[name].parameters.items():
        words, value = kind.sample(rng)
        while value in arguments.values():
            words, value = kind.sample(rng)
        spoken[parameter], arguments[parameter] = words, value
    return spoken, arguments


def _request(phrases: list[str], rng: Random) -> str:
    return rng.choice(OPENINGS) + rng.choice(JOINTS).join(phrases) + rng.choice(CLOSINGS)


def _offer(names: list[str], rng: Random, total: int = 2) -> list[dict[str, Any]]:
    """Definitions of the given tools in random order, with other tools up to `total` of them."""
    names = list(dict.fromkeys(names))
    names += rng.sample([name for name in TOOLS if name not in names], max(0, total - len(names)))
    rng.shuffle(names)
    return [tool_definition(name) for name in names]


def _reasoning(calls: list[Call], rng: Random) -> str:
    sentences = rng.sample(NOISE, rng.choice((1, 2)))
    if rng.random() < INFORMATIVE_SHARE:
        plans = []
        for call in calls:
            values = ", ".join(f"{name} {json.dumps(value)}" for name, value in call["arguments"].items())
            plans.append(f"{call['name']} with {values}")
        sentences.append(f"I need {' and '.join(plans) or 'no tool'}.")
    return " ".join(sentences)


def _calls_dialogue(kind: str, num_calls: int, rng: Random) -> list[Step]:
    phrases: list[str] = []
    calls: list[Call] = []
    for _ in range(num_calls):
        # Two orders of food would not fit a short completion.
        name = rng.choice([name for name in TOOLS if num_calls == 1 or name != "order_food"])
        spoken, arguments = sample_arguments(name, rng)
        phrases.append(rng.choice(TOOLS[name].requests).format(**spoken))
        calls.append({"name": name, "arguments": arguments})
    messages = [{"role": "user", "content": _request(phrases, rng)}]
    tools = _offer([call["name"] for call in calls], rng)
    return [Step(kind, tools, messages, _reasoning(calls, rng), calls, "")]


def _no_tool_dialogue(rng: Random) -> list[Step]:
    if rng.random() < 0.5:
        template, answer = rng.choice(SMALL_TALK)
        city, city2 = rng.sample(CITIES, 2)
        words = {"topic": rng.choice(TOPICS), "dish": rng.choice(DISHES), "person": rng.choice(PEOPLE)}
        phrase, tools = template.format(city=city, city2=city2, **words), _offer([], rng)
    else:
        name = rng.choice(list(TOOLS))
        phrase = rng.choice(TOOLS[name].requests).format(**sample_arguments(name, rng)[0])
        tools = [tool_definition(other) for other in rng.sample([other for other in TOOLS if other != name], 2)]
        answer = rng.choice(NO_TOOL_ANSWERS)
    messages = [{"role": "user", "content": _request([phrase], rng)}]
    return [Step("no_tool", tools, messages, _reasoning([], rng), [], answer)]


def _multi_step_dialogue(rng: Random) -> list[Step]:
    first, second, link, follow_ups = rng.choice(CHAINS)
    spoken, arguments = sample_arguments(first, rng)
    next_spoken, next_arguments = sample_arguments(second, rng)
    result = TOOLS[first].result(rng)
    next_arguments[link] = result[link]
    phrases = [rng.choice(TOOLS[first].requests).format(**spoken), rng.choice(follow_ups).format(**next_spoken)]
    tools = _offer([first, second], rng)
    messages: list[dict[str, Any]] = [{"role": "user", "content": _request(phrases, rng)}]
    steps = []
    calls: list[tuple[Call, dict[str, Any]]] = [
        ({"name": first, "arguments": arguments}, result),
        ({"name": second, "arguments": next_arguments}, TOOLS[second].result(rng)),
    ]
    for call, output in calls:
        steps.append(Step("multi_step", tools, messages, _reasoning([call], rng), [call], ""))
        messages = [
            *messages,
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": json.dumps(output)},
        ]
    answer = rng.choice(DONE_ANSWERS)
    return [*steps, Step("multi_step", tools, messages, _reasoning([], rng), [], answer)]


def sample_dialogue(rng: Random) -> list[Step]:
    """A dialogue, decomposed into its assistant steps."""
    (kind,) = rng.choices(list(DIALOGUE_SHARES), weights=list(DIALOGUE_SHARES.values()))
    if kind == "no_tool":
        return _no_tool_dialogue(rng)
    if kind == "multi_step":
        return _multi_step_dialogue(rng)
    return _calls_dialogue(kind, 2 if kind == "parallel" else 1, rng)


def split_of(step: Step) -> Split:
    """The split that a step's dialogue belongs to, which depends on the user's request alone."""
    return split_of_request(step.messages[0]["content"])


def split_of_request(request: str) -> Split:
    """The split that a user's request belongs to, with its whole dialogue."""
    return "test" if zlib.crc32(request.encode()) % TEST_SHARE == 0 else "train"


def distinct(
    split: Split,
    seed: int,
    sample: Callable[[Random], list[Item]],
    request: Callable[[Item], str],
    key: Callable[[Item], str],
) -> Iterator[Item]:
    """Items of a split without end, no two of which have the same key."""
    if split not in ("train", "test"):
        raise ValueError(f"Unknown split {split!r} of the tiny world: use 'train' or 'test'.")
    rng = Random(f"{split}-{seed}")
    seen: set[str] = set()
    while True:
        for item in sample(rng):
            name = key(item)
            if split_of_request(request(item)) == split and name not in seen:
                seen.add(name)
                yield item


def generate(split: Split, seed: int = 0, sample: Callable[[Random], list[Step]] = sample_dialogue) -> Iterator[Step]:
    """
    Distinct steps of a split without end: no two have the same tools and messages.

    Args:
        split (`str`):
            `"train"` or `"test"`. No request of one split occurs in the other, whatever the seeds.
        seed (`int`, *optional*, defaults to `0`):
            The same seed gives the same stream.
        sample (`Callable`, *optional*, defaults to [`sample_dialogue`]):
            Draws the steps of one dialogue.

    Raises:
        ValueError: if there is no such split.
    """
    return distinct(
        split,
        seed,
        sample,
        lambda step: step.messages[0]["content"],
        lambda step: json.dumps([step.tools, step.messages]),
    )
