"""Samples completions of held-out prompts, and counts those that are right."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from ..regions.token_bytes import TokenBytes
from ..rewards import is_exact
from ..tool_calls import get_syntax, was_cut
from .evaluation.gold_calls_benchmark import kind_of_gold


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
                eos_token_id=sorted(end_ids(model, tokenizer)),
                stopping_criteria=None if bar is None else StoppingCriteriaList([_Progress(shown)]),
            )
        finally:
            model.train(was_training)
    return output[:, inputs["input_ids"].size(1) :]


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens at which a model stops to generate, as TRL has them: its own, and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    return {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}


def until_end(completion_ids: Sequence[int], end_ids: Collection[int]) -> list[int]:
    """
    A completion without its padding, up to the token that ends it, if it was not cut off.

    ```python
    >>> until_end([5, 6, 2, 0, 0], end_ids=[2])
    [5, 6, 2]

    ```
    """
    ends = (place + 1 for place, token in enumerate(completion_ids) if token in end_ids)
    return list(completion_ids[: next(ends, len(completion_ids))])


class Exact(NamedTuple):
    """How many completions make exactly the gold calls, and how many there are."""

    right: int
    total: int


def count_exact(
    completion_ids: torch.Tensor,
    solutions: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    tool_call_syntax: str,
    end_ids: Collection[int],
) -> dict[str, Exact]:
    """
    Count the completions that make exactly the gold calls, neither unreadable nor cut off.

    Any text without a call is as good as a gold without one, so golds with and without calls are counted apart.

    Args:
        completion_ids (`torch.Tensor` of shape `(B, T)`):
            Completion ids.
        solutions (`Sequence[str]` of length `B`):
            Gold completions.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        tool_call_syntax (`str`):
            Name of the wire syntax.
        end_ids (`Collection[int]`):
            Tokens that end a completion, see [`end_ids`]; one that ends otherwise was cut off.

    Returns:
        `dict[str, Exact]`: by the kind of gold, `"golds with calls"` and `"golds without"`, where there are any.
    """
    syntax = get_syntax(tool_call_syntax)
    token_bytes = TokenBytes(tokenizer, syntax.markers)  # decoding would drop markers that are special tokens
    right: dict[str, list[bool]] = {}
    for row, solution in zip(completion_ids.tolist(), solutions, strict=True):
        ids = until_end(row, end_ids)
        gold, parsed = syntax.parse(solution), syntax.parse(token_bytes.text(ids))
        is_right = is_exact(replace(parsed, is_cut=was_cut(ids, end_ids)), gold)
        right.setdefault(kind_of_gold(gold), []).append(is_right)
    return {kind: Exact(sum(right[kind]), len(right[kind])) for kind in sorted(right)}
