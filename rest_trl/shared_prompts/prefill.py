"""Sampling with transformers from prompts that are computed once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache, DynamicCache


def prefilled(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Cache:
    """
    Keys and values of prompts but for their last token, computed once for prompts that are equal.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The policy, as its `generate` is called.
        input_ids, attention_mask (`torch.Tensor` of shape `(B, P)`):
            Prompts, padded on the left, and zero at the padding.
    """
    columns = torch.stack([input_ids * attention_mask, attention_mask], 2).flatten(1)
    _, rows = columns.unique(dim=0, return_inverse=True)
    first = torch.full((int(rows.max()) + 1,), len(rows), device=rows.device)
    first.scatter_reduce_(0, rows, torch.arange(len(rows), device=rows.device), "amin")
    cache = DynamicCache(config=model.config)
    mask = attention_mask[first, :-1]
    model(
        input_ids=input_ids[first, :-1],
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.batch_select_indices(rows)
    return cache


@contextmanager
def prefilled_generation(model: Any) -> Iterator[None]:
    """Within the context, `model.generate` starts from [`prefilled`] prompts where its cache may grow."""
    generate = model.generate

    def from_prefilled(input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config") or model.generation_config
        is_grown = config.cache_implementation is None and config.use_cache is not False  # None stands for True
        if is_grown and "past_key_values" not in kwargs and input_ids.size(1) > 1:
            kwargs["past_key_values"] = prefilled(model, input_ids, attention_mask)
        return generate(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    model.generate = from_prefilled
    try:
        yield
    finally:
        del model.generate  # restores the method of its class
