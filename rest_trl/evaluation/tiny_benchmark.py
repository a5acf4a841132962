"""The held-out part of the embedded tool world as a benchmark."""

from itertools import islice

from transformers import PreTrainedTokenizerBase

from ..rewards.scoring import is_exact
from ..tiny.tokenization import render_prompt
from ..tiny.world import generate
from ..tool_calls import get_syntax
from .samples import Completion, Sample, Score, not_generated


METRICS = ("exact",)


def load_samples(tokenizer: PreTrainedTokenizerBase, size: int = 512, seed: int = 0) -> list[Sample]:
    """
    Steps of held-out dialogues; the steps of a dialogue are a cluster.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tiny model's tokenizer.
        size (`int`, *optional*, defaults to `512`):
            Number of samples.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the world.

    Returns:
        `list[Sample]`
    """
    samples, dialogue, request = [], -1, None
    for index, step in enumerate(islice(generate("test", seed), size)):
        # Steps of a dialogue follow each other and begin with the same request.
        if step.messages[0] != request:
            dialogue, request = dialogue + 1, step.messages[0]
        samples.append(
            Sample(f"tiny_{index}", step.kind, f"dialogue_{dialogue}", render_prompt(step, tokenizer), step.solution)
        )
    return samples


def score(sample: Sample, completion: Completion | None) -> Score:
    """
    Score one sample: right is exactly the gold calls, in any order.

    Args:
        sample ([`Sample`]):
            The sample.
        completion ([`Completion`] or `None`):
            Its completion; a missing one is wrong.

    Returns:
        [`Score`] with the metric `exact`.
    """
    if completion is None:
        return not_generated(sample, METRICS)
    parse = get_syntax("hermes").parse
    parsed, gold = parse(completion.text), parse(sample.gold)
    right = is_exact(parsed, gold)
    why = None
    if not right:
        unreadable = f"unreadable: {parsed.errors[0]}" if parsed.errors else None
        why = unreadable or f"calls {[call.name for call in parsed.calls]}, gold {[call.name for call in gold.calls]}"
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
