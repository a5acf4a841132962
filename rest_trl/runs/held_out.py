"""Completions of held-out prompts, and how many of them are right."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..regions.token_bytes import TokenBytes
from ..rewards import is_exact
from ..tool_calls import get_syntax


@torch.no_grad()
def sample(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int, seed: int
) -> torch.Tensor:
    """
    One sampled completion per prompt, at temperature 1.

    Args:
        model:
            A causal language model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, padding on the left.
        prompts (`Sequence[str]` of length `B`):
            Rendered prompts.
        max_new_tokens (`int`):
            Tokens per completion at most.
        seed (`int`):
            Seed of the sampling; the caller's random state is left alone.

    Returns:
        `torch.Tensor` of shape `(B, T)`: completion ids, padded on the right.
    """
    inputs = tokenizer(list(prompts), padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    was_training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(
            **inputs.to(model.device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    model.train(was_training)
    return output[:, inputs["input_ids"].size(1) :]


def count_exact(
    completion_ids: torch.Tensor, solutions: Sequence[str], tokenizer: PreTrainedTokenizerBase, tool_call_syntax: str
) -> int:
    """
    Number of completions that make exactly the gold calls.

    Args:
        completion_ids (`torch.Tensor` of shape `(B, T)`):
            Completion ids.
        solutions (`Sequence[str]` of length `B`):
            Gold completions.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        tool_call_syntax (`str`):
            Name of the wire syntax.

    Returns:
        `int`
    """
    syntax = get_syntax(tool_call_syntax)
    token_bytes = TokenBytes(tokenizer, syntax.markers)  # decoding would drop markers that are special tokens
    texts = [token_bytes.text(ids) for ids in completion_ids.tolist()]
    return sum(is_exact(syntax.parse(text), syntax.parse(gold)) for text, gold in zip(texts, solutions, strict=True))
