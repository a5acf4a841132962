"""Prompts over a limit, which are taken out of a data set."""

from transformers import PreTrainedTokenizerBase

from .examples import Example


# [ours] The limit of a prompt if the user gives none and the tokenizer's is higher or missing: far above the 2,048
# tokens of the paper, and low enough that one prompt does not take all memory of a GPU.
DEFAULT_MAX_PROMPT_LENGTH = 32_768


def split_by_length(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, limit: int, exact: bool
) -> tuple[list[Example], list[Example]]:
    """
    Take out the examples whose prompt is over a limit, because `GRPOTrainer` itself accepts prompts of any length.

    Args:
        examples (`list[Example]`):
            The examples.
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer of the model.
        limit (`int`):
            Tokens of the longest prompt that is kept.
        exact (`bool`):
            Whether every prompt is tokenized. Otherwise those that do not exceed the limit in bytes are not.

    Returns:
        `tuple[list[Example], list[Example]]`: The examples that are kept, and the others.

    Raises:
        `ValueError`: If all prompts are over the limit.
    """
    kept: list[Example] = []
    too_long: list[Example] = []
    shortest = None
    for example in examples:
        # A prompt hardly ever has more tokens than bytes, and the default limit need not be exact, so prompts that do
        # not exceed it in bytes are not tokenized.
        if not exact and len(example.prompt.encode()) <= limit:
            kept.append(example)
            continue
        length = len(tokenizer(example.prompt)["input_ids"])
        shortest = length if shortest is None else min(shortest, length)
        (kept if length <= limit else too_long).append(example)
    if not kept:
        raise ValueError(
            f"All {len(examples)} prompts are longer than max_prompt_length={limit}: the shortest has "
            f"{shortest} tokens. Raise the limit."
        )
    return kept, too_long
