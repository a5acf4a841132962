"""Branched completions of a model of transformers, whose prompts and reasonings are computed once."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.logging import get_logger
from torch.nn.utils.rnn import pad_sequence
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
    right, as if prompt and reasoning had been one prompt.

    Args:
        cache ([`~transformers.Cache`]):
            Keys and values of `N` rows and `T` columns.
        columns (`torch.Tensor` of shape `(N, C)`):
            The old column of each new one.
        branch_size (`int`):
            Copies of each row.

    Returns:
        `bool`: whether the cache was copied. Only layers that keep all keys and values can be, not those of sliding
        windows, linear attention or of a fixed size. A cache with any of these is left as it was.
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


class BranchedGenerate:
    """
    Takes the place of a model's `generate` for a rollout with branches.

    Of every `branch_size` equal prompts, one is continued up to the end of its reasoning; then each gets a
    continuation of its own. The second part starts from the keys and values of the first, and computes only the last
    token of the reasoning again. Where the cache cannot be copied ([`branch_cache`]), it computes prompt and reasoning
    again: the completions have the same distribution, at the cost of that pass.

    A completion that ends in its reasoning, or without closing it, is whole: it gets no continuations, and its rows
    are equal. All ranks make the same two calls, as sharded models need.

    Args:
        generate (`Callable`):
            The `generate` of a [`~transformers.PreTrainedModel`].
        reasoning_end ([`ReasoningEnd`]):
            Finds the end of the reasoning.
        branch_size (`int`):
            Continuations per reasoning.
        eos_token_ids (`Sequence[int]`):
            Tokens that end a completion.

    Attributes:
        prefix_lengths (`list[int]` of length `B`):
            After a call, how many tokens each completion shares with those of its branch.
    """

    def __init__(
        self,
        generate: Callable[..., Any],
        reasoning_end: ReasoningEnd,
        branch_size: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self._generate, self._reasoning_end, self._branch_size = generate, reasoning_end, branch_size
        self._eos_token_ids = set(eos_token_ids)
        self.prefix_lengths: list[int] = []

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any, **kwargs: Any
    ) -> torch.Tensor:
        """
        Sample completions.

        Args:
            input_ids (`torch.Tensor` of shape `(B, P)`):
                Prompts, padded on the left, each `branch_size` times in a row.
            attention_mask (`torch.Tensor` of shape `(B, P)`):
                Zero at the padding.
            generation_config ([`~transformers.GenerationConfig`]):
                How to sample. `max_new_tokens` is the limit of a whole completion.
            kwargs:
                For `generate`.

        Returns:
            `torch.Tensor` of shape `(B, P + T)`: prompts and completions, padded on the right.
        """
        size, limit, width = self._branch_size, generation_config.max_new_tokens, input_ids.size(1)
        prompts, mask = input_ids[::size], attention_mask[::size]
        config = copy.deepcopy(generation_config)
        config.return_dict_in_generate = True
        first = self._generate(
            input_ids=prompts,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([EndOfReasoning(self._reasoning_end, prompts)]),
            **kwargs,
        )
        sampled = first.sequences[:, width:].tolist()
        stops, rooms = zip(*map(self._end, prompts.tolist(), sampled, [limit] * len(sampled)), strict=True)
        # As if prompt and reasoning had been one prompt, padded on the left.
        prompt_lengths = mask.sum(1, keepdim=True)
        ends = width + torch.tensor(stops, device=mask.device).unsqueeze(1)
        longest = int((prompt_lengths + ends).max()) - width
        columns = ends - longest + torch.arange(longest, device=mask.device)
        context_mask = (columns >= width - prompt_lengths).to(mask.dtype).repeat_interleave(size, 0)
        columns = columns.clamp(min=0)
        contexts = first.sequences.gather(1, columns).repeat_interleave(size, 0)
        cache = first.past_key_values
        reused = cache is not None and cache.get_seq_length() == first.sequences.size(1) - 1
        reused = reused and branch_cache(cache, columns[:, :-1], size)
        if reused:
            config.cache_implementation = None  # no new cache: `past_key_values` is given
            kwargs = {**kwargs, "past_key_values": cache}
        else:
            logger.warning_once(
                f"branch='reasoning': the cache of this model ({type(cache).__name__}) cannot be copied to branches, "
                "so prompts and reasonings are computed twice"
            )
        config.return_dict_in_generate = False
        config.max_new_tokens = max(1, *rooms)
        lengths = longest + torch.tensor(rooms, device=mask.device).repeat_interleave(size)
        tails = self._generate(
            input_ids=contexts,
            attention_mask=context_mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([_LengthPerRow(lengths)]),
            **kwargs,
        )[:, longest:]
        self.prefix_lengths = [stop for stop in stops for _ in range(size)]
        completions = [
            torch.cat([first.sequences[row // size, width : width + stops[row // size]], tail[: rooms[row // size]]])
            for row, tail in enumerate(tails)
        ]
        padded = pad_sequence(completions, batch_first=True, padding_value=config.pad_token_id)
        return torch.cat([input_ids, padded], 1)

    def _end(self, prompt_ids: Sequence[int], completion_ids: Sequence[int], limit: int) -> tuple[int, int]:
        """Where the first part of a completion ends, and how many tokens may follow: none if it is whole."""
        stop = next((i for i, token in enumerate(completion_ids, 1) if token in self._eos_token_ids), limit + 1)
        end = self._reasoning_end.find(prompt_ids, completion_ids)
        if end is not None and end < stop:
            return end, limit - end
        return min(stop, limit), 0
