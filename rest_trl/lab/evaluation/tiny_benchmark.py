"""The held-out parts of the embedded tool world and of its tasks as benchmarks."""

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from ...tool_calls import get_syntax
from ..tiny import TINY, generate_steps
from .benchmark import Sample, Score, SingleTurnBenchmark
from .generation import Completion


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_samples(
    tokenizer: "PreTrainedTokenizerBase", size: int = 512, seed: int = 0, name: str = TINY
) -> list[Sample]:
    """Draw the first held-out steps of one of the embedded data sets. The steps of one dialogue form a cluster."""
    from ..tiny.tokenization import render_prompt

    samples, dialogue, request = [], -1, None
    for index, step in enumerate(islice(generate_steps(name, "test", seed), size)):
        # Steps of a dialogue follow each other and begin with the same request.
        if step.messages[0] != request:
            dialogue, request = dialogue + 1, step.messages[0]
        samples.append(
            Sample(f"tiny_{index}", step.kind, f"dialogue_{dialogue}", render_prompt(step, tokenizer), step.solution)
        )
    return samples


class TinyWorld(SingleTurnBenchmark):
    """Held-out steps of the embedded tool world, see [`load_samples`]."""

    name = TINY
    metrics = ("exact",)

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", resources: ExitStack
    ) -> Self:
        """See [`~rest_trl.lab.evaluation.benchmark.Benchmark.from_options`]."""
        limit = options["limit"]
        limited = [f"only the first {limit} samples"] if limit is not None else []
        notes = [*limited, "synthetic: says nothing about real tools"]
        return cls(load_samples(tokenizer, name=cls.name)[:limit], {"limit": limit}, notes)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """Score one sample by `exact`: its calls are exactly the gold calls, in any order."""
        from ...rewards.scoring import is_exact

        parse = get_syntax("hermes").parse
        parsed, gold = parse(completion.text), parse(sample.gold)
        right = is_exact(parsed, gold)
        why = None
        if not right:
            names, gold_names = ([call.name for call in calls] for calls in (parsed.calls, gold.calls))
            why = f"unreadable: {parsed.errors[0]}" if parsed.errors else f"calls {names}, gold {gold_names}"
            why = f"truncated; {why}" if completion.truncated else why
        return Score(
            sample.id,
            sample.subset,
            sample.cluster,
            {"exact": float(right)},
            why,
            [{"name": call.name, "arguments": call.arguments} for call in parsed.calls],
            completion.completion_ids,
            completion.text,
        )


class TinyDecides(TinyWorld):
    """Held-out requests for a call whose values must be worked out in the reasoning."""

    name = f"{TINY}/decides"


class TinyCalls(TinyWorld):
    """Held-out requests for two to four calls."""

    name = f"{TINY}/calls"


class TinyArguments(TinyWorld):
    """Held-out requests for one call with eight arguments."""

    name = f"{TINY}/arguments"
