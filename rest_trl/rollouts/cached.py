"""Branched completions of a model of transformers, whose prompts and reasonings are computed once."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.logging import get_logger
from transformers import Cache, DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from .reasoning import EndOfReasoning, ReasoningEnd


logger = get_logger(__name__)


class _LengthPerRow(StoppingCriteria):
    def __init__(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
        return input_ids.size(1) >= self.lengths


def branch_cache(cache: Cache, columns: torch.Tensor, branch_size: int) -> bool:
    """
    Give every branch of a batch its own copy of the keys and values, in place.

    Keys hold their positions, so they may be moved to other columns. Those of each row end up side by side at the
    right, as if prompt and reasoning had been one prompt. `columns`, of shape `(N, C)`, has the old column of each new
    one. Only layers that keep all keys and values can be copied, not those of sliding windows, linear attention or of
    a fixed size. A cache with any of these is left as it was, and the result is `False`.
    """
    layers = [layer for layer in cache.layers if type(layer) is DynamicLayer]
    if type(cache) is not DynamicCache or len(layers) < len(cache.layers):
        return False
    rows = torch.arange(len(columns), device=columns.device).repeat_interleave(branch_size)
    columns = columns.repeat_interleave(branch_size, 0)
    for layer in layers:
        keys, values = layer.keys, layer.values  # (N, heads, T, size)
        layer.keys = keys.transpose(1, 2)[rows[:, None], columns].transpose(1, 2)  # type: ignore[union-attr]
        layer.values = values.transpose(1, 2)[rows[:, None], columns].transpose(1, 2)  # type: ignore[union-attr]
    return True


def branched_generate(
    generate: Callable[..., Any],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    generation_config: Any,
    reasoning_end: ReasoningEnd,
    branch_size: int,
    eos_token_ids: Sequence[int],
) -> tuple[list[list[int]], list[int]]:
    """
    Completions with branches, by the `generate` of a [`~transformers.PreTrainedModel`].

    Of every `branch_size` equal prompts, one is continued up to the end of its reasoning; then each gets a
    continuation of its own. The second part starts from the keys and values of the first, and computes only the last
    token of the reasoning again. Where the cache cannot be copied ([`branch_cache`]), it computes prompt and reasoning
    again: the completions have the same distribution, at the cost of that pass.

    A completion that ends in its reasoning, or without closing it, is whole: it gets no continuations, and its rows
    are equal. All ranks make the same two calls, as sharded models need.

    Args:
        generate (`Callable`):
            Samples completions.
        input_ids, attention_mask (`torch.Tensor` of shape `(B, P)`):
            Prompts, padded on the left, each `branch_size` times in a row.
        generation_config ([`~transformers.GenerationConfig`]):
            How to sample. `max_new_tokens` is the limit of a whole completion.
        reasoning_end ([`ReasoningEnd`]):
            Finds the end of the reasoning.
        branch_size (`int`):
            Continuations per reasoning.
        eos_token_ids (`Sequence[int]`):
            Tokens that end a completion.

    Returns:
        `tuple[list[list[int]], list[int]]`, each of length `B`: the completions, and how many tokens each shares with
        those of its branch.
    """
    size, limit, width = branch_size, generation_config.max_new_tokens, input_ids.size(1)
    prompts, mask = input_ids[::size], attention_mask[::size]
    config = copy.deepcopy(generation_config)
    config.return_dict_in_generate = True
    first = generate(
        input_ids=prompts,
        attention_mask=mask,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([EndOfReasoning(reasoning_end, prompts)]),
    )
    sampled = first.sequences[:, width:].tolist()
    stops, rooms = [], []
    for prompt_ids, completion_ids in zip(prompts.tolist(), sampled, strict=True):
        stop = next((i for i, token in enumerate(completion_ids, 1) if token in eos_token_ids), limit + 1)
        end = reasoning_end.find(prompt_ids, completion_ids)
        is_open = end is not None and end < stop
        stops.append(end if end is not None and is_open else min(stop, limit))
        rooms.append(limit - stops[-1] if is_open else 0)
    # As if prompt and reasoning had been one prompt, padded on the left.
    prompt_lengths = mask.sum(1, keepdim=True)
    ends = width + torch.tensor(stops, device=mask.device).unsqueeze(1)
    longest = int((prompt_lengths + ends).max()) - width
    columns = ends - longest + torch.arange(longest, device=mask.device)
    context_mask = (columns >= width - prompt_lengths).to(mask.dtype).repeat_interleave(size, 0)
    columns = columns.clamp(min=0)
    contexts = first.sequences.gather(1, columns).repeat_interleave(size, 0)
    cache, reused = first.past_key_values, {}
    is_whole = cache is not None and cache.get_seq_length() == first.sequences.size(1) - 1
    if is_whole and branch_cache(cache, columns[:, :-1], size):
        config.cache_implementation = None  # no new cache: `past_key_values` is given
        reused = {"past_key_values": cache}
    if not reused:
        logger.warning_once(
            f"branch_size={size}: the cache of this model ({type(cache).__name__}) cannot be copied to branches, so "
            "prompts and reasonings are computed twice"
        )
    config.return_dict_in_generate = False
    config.max_new_tokens = max(1, *rooms)
    lengths = longest + torch.tensor(rooms, device=mask.device).repeat_interleave(size)
    tails = generate(
        input_ids=contexts,
        attention_mask=context_mask,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([_LengthPerRow(lengths)]),
        **reused,
    )[:, longest:].tolist()
    completions = []
    for row, tail in enumerate(tails):
        tail = tail[: rooms[row // size]]
        stop = next((i for i, token in enumerate(tail, 1) if token in eos_token_ids), len(tail))
        completions.append(sampled[row // size][: stops[row // size]] + tail[:stop])
    return completions, [stop for stop in stops for _ in range(size)]
