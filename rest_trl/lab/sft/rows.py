"""Rows of a data set as the token ids that supervised fine-tuning reads."""

from collections.abc import Sequence
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase


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
    Tokenize prompts and gold completions, columns `prompt` and `solution`, to `input_ids` and `labels`. Of a gold with
    alternatives its `text` is taken.

    Both are tokenized separately, because a policy samples its completion after the tokens of the prompt: tokenized
    together, they could share a token. A data set that has `input_ids` and `labels` is returned as it is. Rows of
    which `max_length` leaves out tokens of the completion are counted in a warning.

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
        solution = row["solution"]["text"] if isinstance(row["solution"], dict) else row["solution"]
        if not isinstance(row["prompt"], str) or not isinstance(solution, str):
            raise ValueError(
                f"the {name} data set has a prompt or a solution that is not text: render it with "
                "rest_trl.data.prepare_dataset"
            )
        prompt_ids = tokenizer(row["prompt"])["input_ids"]
        completion_ids = [*tokenizer(solution, add_special_tokens=False)["input_ids"], *end]
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


def stop_ids(model: Any, revision: str = "main") -> set[int]:
    """The tokens at which generation of a model, or of its path or id, stops; empty without a generation config."""
    if isinstance(model, str):
        try:
            config: Any = GenerationConfig.from_pretrained(model, revision=revision)
        except OSError:  # not every checkpoint has the file
            return set()
    else:
        config = model.generation_config
    found = config.eos_token_id
    return set() if found is None else set(found) if isinstance(found, list) else {found}
