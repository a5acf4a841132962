"""Branched completions of vLLM, which keeps prompts and reasonings in its prefix cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from accelerate.utils import gather_object

from .reasoning import ReasoningEnd


class Sampled(NamedTuple):
    """
    Branched completions: ids, log-probabilities when they were sampled, the number of tokens that each shares with the
    others of its branch, and the number of tokens that were sampled and are in no completion.
    """

    completion_ids: list[list[int]]
    logprobs: list[list[float | None]]
    prefix_lengths: list[int]
    num_discarded: int


@contextmanager
def _sampling(generation: Any, **options: Any) -> Iterator[None]:
    before = generation.generation_kwargs
    generation.generation_kwargs = {**before, **options}
    try:
        yield
    finally:
        generation.generation_kwargs = before


def sample_branches(
    sample: Callable[[list[list[int]], int], tuple[list[list[int]], list[list[float | None]]]],
    generation: Any,
    prompt_ids: list[list[int]],
    num_generations: int,
    reasoning_end: ReasoningEnd,
    branch_size: int,
    eos_token_ids: list[int],
) -> Sampled:
    """
    Sample one reasoning for every branch, then its continuations, whose prompts are the prompt and the reasoning.

    vLLM stops after the closing tag. Tokens beyond the place of [`ReasoningEnd`], where a completion has no reasoning,
    are discarded. So are those beyond the limit of a completion, because a request has one limit for all its prompts.
    A prompt, the longest reasoning and that limit must fit into the server's `--max-model-len`.

    Args:
        sample (`Callable`):
            Takes the prompts of this process, and how many of them in a row are equal. Returns the ids and
            log-probabilities of one completion for each. All processes call it together.
        generation ([`~trl.generation.vllm_generation.VLLMGeneration`]):
            The generation of TRL that `sample` uses.
        prompt_ids (`list[list[int]]` of length `B`):
            Prompts of this process.
        num_generations (`int`):
            Completions per prompt.
        reasoning_end ([`ReasoningEnd`]):
            Finds the end of the reasoning.
        branch_size (`int`):
            Completions per reasoning.
        eos_token_ids (`list[int]`):
            Tokens that end a completion.

    Returns:
        [`Sampled`]
    """
    limit, prompts = generation.max_completion_length, prompt_ids[::branch_size]
    # The text keeps special tokens, because the closing tag may be one.
    stop = {"stop": [reasoning_end.closing_tag], "include_stop_str_in_output": True, "skip_special_tokens": False}
    with _sampling(generation, **stop):
        first_ids, first_logprobs = sample(prompts, num_generations // branch_size)
    ends = [reasoning_end.find(*row) for row in zip(prompts, first_ids, strict=True)]
    prefixes = [ids if end is None else ids[:end] for ids, end in zip(first_ids, ends, strict=True)]
    discarded = sum(map(len, first_ids)) - sum(map(len, prefixes))
    is_open = [
        end is not None and len(prefix) < limit and prefix[-1] not in eos_token_ids
        for end, prefix in zip(ends, prefixes, strict=True)
    ]
    contexts = [prompt + prefix for prompt, prefix, go_on in zip(prompts, prefixes, is_open, strict=True) if go_on]
    room = limit - min((len(prefix) for prefix, go_on in zip(prefixes, is_open, strict=True) if go_on), default=limit)
    # All processes ask for the same number of completions with the same limit, and drop those that they do not need.
    counts, rooms = zip(*gather_object([(len(contexts), room)]), strict=True)
    asked = contexts + [prompts[0] + prefixes[0][:1]] * (max(counts) - len(contexts))
    tail_ids: list[list[int]] = []
    tail_logprobs: list[list[float | None]] = []
    if asked:
        with _sampling(generation, max_tokens=max(rooms)):
            tail_ids, tail_logprobs = sample([ids for ids in asked for _ in range(branch_size)], branch_size)
    discarded += sum(map(len, tail_ids))
    tails = iter(zip(tail_ids, tail_logprobs, strict=True))
    completion_ids, logprobs = [], []
    for prefix, prefix_logprobs, go_on in zip(prefixes, first_logprobs, is_open, strict=True):
        for _ in range(branch_size):
            ids, values = next(tails) if go_on else ([], [])
            completion_ids.append((prefix + ids)[:limit])
            logprobs.append((prefix_logprobs[: len(prefix)] + values)[:limit])
            discarded -= len(completion_ids[-1]) - len(prefix)
    return Sampled(completion_ids, logprobs, [len(ids) for ids in prefixes for _ in range(branch_size)], discarded)
