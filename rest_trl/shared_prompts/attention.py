"""
Attention over a packed tree: every segment sees its ancestors and, causally, itself.

The PyPI package `prefix-grouper` is not used: it has one level (no reasonings that branches share, no system prompt
that all prompts share), pads prompts and completions, and has no window.
"""

import sys
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from .tree import Family, PromptTree


def _visible(tree: PromptTree, number: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Mask of shape `(L, context + L)`; `None` if it is the causal one of a root."""
    family = tree.families[number]
    length, before = family.index.size(1), family.context_length
    window = None if window is None or window >= before + length else window
    if not before and window is None:
        return None
    key = number, window
    if key not in tree.masks:
        mask = torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)
        tree.masks[key] = mask if window is None else mask.triu(before - window + 1)
    return tree.masks[key]


def _queries(states: torch.Tensor, family: Family) -> torch.Tensor:
    """The tokens of a family, of shape `(n, heads, L, size)`, from `(1, heads, N, size)`."""
    return states.index_select(2, family.index.flatten()).unflatten(2, family.index.shape)[0].transpose(0, 1)


def _keys(states: torch.Tensor, family: Family) -> torch.Tensor:
    own = _queries(states, family)
    return torch.cat(
        [*(states[:, :, start:end].expand(len(own), -1, -1, -1) for start, end in family.context), own], 2
    )


def _sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    # Fused kernels of GPUs take no mask where keys have fewer heads.
    has_groups = key.size(1) != query.size(1)
    if has_groups and query.device.type != "cpu":
        key, value = (repeat_kv(states, query.size(1) // key.size(1)) for states in (key, value))
        has_groups = False
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=has_groups
    )
    return output.transpose(1, 2)


def _eager(module: torch.nn.Module, *states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    query, key, value, mask = states
    if mask is None:
        mask = torch.ones(query.size(2), key.size(2), dtype=torch.bool, device=query.device).tril()
    mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    return _eager_of(module)(module, query, key, value, mask[None, None], **kwargs)[0]


def _eager_of(module: torch.nn.Module) -> Any:
    # Every model of transformers has an eager attention of its own, with its sinks or caps, that no interface lists.
    return vars(sys.modules[type(module).__module__])["eager_attention_forward"]


def _over_tree(
    attention: Any, module: torch.nn.Module, states: tuple[torch.Tensor, ...], tree: PromptTree, **kwargs: Any
) -> torch.Tensor:
    """Output of shape `(1, N, heads, size)`."""
    query, key, value = states
    outputs = []
    for number, family in enumerate(tree.families):
        mask = _visible(tree, number, kwargs.get("sliding_window"), query.device)
        output = attention(module, _queries(query, family), _keys(key, family), _keys(value, family), mask, **kwargs)
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs).index_select(0, tree.back).unsqueeze(0)


def tree_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prompt_tree: PromptTree | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if prompt_tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return _over_tree(_sdpa, module, (query, key, value), prompt_tree, **kwargs), None


def tree_eager(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prompt_tree: PromptTree | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if prompt_tree is None:
        return _eager_of(module)(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    return _over_tree(_eager, module, (query, key, value), prompt_tree, **kwargs), None


# By the implementation whose ordinary calls they make as it does.
IMPLEMENTATIONS = {"sdpa": "tree_sdpa", "eager": "tree_eager"}
for _name, _attention, _mask in (("tree_sdpa", tree_sdpa, sdpa_mask), ("tree_eager", tree_eager, eager_mask)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _mask)
