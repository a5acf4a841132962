"""Samples completions of held-out prompts, and counts those that are right."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from ..regions.token_bytes import TokenBytes
from ..rewards import is_exact
from ..tool_calls import get_syntax


class _Progress(StoppingCriteria):
    """Stops nothing, and moves a bar on by one with every token."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self._bar.update()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    seed: int,
    bar: str | None = None,
    add_special_tokens: bool = False,
) -> torch.Tensor:
    """
    One sampled completion per prompt, from the policy's own distribution: at temperature 1, and without the other
    settings that a checkpoint may prefer for its generation.

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
        bar (`str`, *optional*):
            Name of a progress bar over the tokens, which is shown in a terminal and removed at the end.
        add_special_tokens (`bool`, *optional*, defaults to `False`):
            Whether the tokenizer puts its special tokens, such as one for the beginning, around every prompt. TRL does
            so with prompts that are text, which therefore do not hold these tokens, and does not with messages, where
            the chat template has written them.

    Returns:
        `torch.Tensor` of shape `(B, T)`: completion ids, padded on the right.
    """
    inputs = tokenizer(
        list(prompts),
        padding=True,
        padding_side="left",
        add_special_tokens=add_special_tokens,
        return_tensors="pt",
    )
    was_training = model.training
    model.eval()
    hidden = True if bar is None else None  # None hides the bar only where there is no terminal
    with (
        torch.random.fork_rng(),
        tqdm(total=max_new_tokens, desc=bar, unit="token", leave=False, disable=hidden) as shown,
    ):
        torch.manual_seed(seed)
        try:
            output = model.generate(
                **inputs.to(model.device),
                do_sample=True,
                # All that TRL sets for its rollouts, as the checkpoint's own values would apply to what is left out.
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_p=None,
                repetition_penalty=1.0,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                stopping_criteria=None if bar is None else StoppingCriteriaList([_Progress(shown)]),
            )
        finally:
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
