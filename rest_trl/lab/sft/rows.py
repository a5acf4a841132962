"""Rows of a data set as the token ids that supervised fine-tuning reads."""

from collections.abc import Sequence
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PreTrainedTokenizerBase


logger = get_logger(__name__)

IGNORED = -100  # label of a token without a loss


def tokenize_rows(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    max_length: int | None = None,
    num_proc: int | None = None,
    end_of_turn: Sequence[int] | None = None,
) -> Dataset:
    """
    Tokenize prompts and gold completions.

    Both are tokenized separately, because a policy samples its completion after the tokens of the prompt: tokenized
    together, they could share a token.

    Args:
        dataset ([`~datasets.Dataset`]):
            Columns `prompt` and `solution`, both text, as [`~rest_trl.data.load_rest_dataset`] returns them. A data
            set that has `input_ids` and `labels` is returned as it is.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        name (`str`):
            Name of the data set in messages.
        max_length (`int`, *optional*):
            Number of tokens that the trainer keeps of a row. Rows that lose tokens of their completion are counted in
            a warning.
        num_proc (`int`, *optional*):
            Number of processes that tokenize.
        end_of_turn (`Sequence[int]`, *optional*):
            Tokens that end the completion, see [`~rest_trl.lab.sft.turn_end.end_of_turn`]. By default the tokenizer's
            end-of-sequence token.

    Returns:
        [`~datasets.Dataset`] with columns `input_ids` and `labels`, which are -100 at the prompt.

    Raises:
        ValueError: if the data set has other columns or no text in them, or no row has room for a completion.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"the {name} data set is a {type(dataset).__name__}: give a datasets.Dataset")
    columns = dataset.column_names
    if "input_ids" in columns and "labels" in columns:
        return dataset
    if "prompt" not in columns or "solution" not in columns:
        raise ValueError(
            f"the {name} data set has the columns {', '.join(columns)}, but training needs prompt and solution: "
            "prepare it with rest_trl.data.prepare_dataset"
        )
    end = [tokenizer.eos_token_id] if end_of_turn is None else end_of_turn

    def tokenize(row: dict[str, Any]) -> dict[str, list[int]]:
        if not isinstance(row["prompt"], str) or not isinstance(row["solution"], str):
            raise ValueError(
                f"the {name} data set has a prompt or a solution that is no text: render it with "
                "rest_trl.data.prepare_dataset"
            )
        prompt_ids = tokenizer(row["prompt"])["input_ids"]
        completion_ids = [*tokenizer(row["solution"], add_special_tokens=False)["input_ids"], *end]
        return {
            "input_ids": prompt_ids + completion_ids,
            "labels": [IGNORED] * len(prompt_ids) + completion_ids,
        }

    tokenized = dataset.map(tokenize, remove_columns=columns, num_proc=num_proc, desc=f"Tokenizing {name} data set")
    if max_length is not None:
        _check_lengths(tokenized, name, max_length)
    return tokenized


def _check_lengths(dataset: Dataset, name: str, max_length: int) -> None:
    too_long = [labels for labels in dataset["labels"] if len(labels) > max_length]
    lost = sum(labels[max_length - 1] == IGNORED for labels in too_long)
    if lost == len(dataset):
        raise ValueError(f"all {lost} prompts of the {name} data set fill max_length={max_length}: raise it")
    if too_long:
        logger.warning(
            f"{len(too_long)} of {len(dataset)} rows of the {name} data set are longer than max_length={max_length}: "
            f"{lost} lose their whole completion and are dropped, the others lose its end; raise max_length"
        )
