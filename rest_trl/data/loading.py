"""Data sets loaded and rendered for training."""

from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import tqdm
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .messages import MalformedRowError
from .rendering import StepRenderer
from .rows import detect_schema
from .sources import Source, dataset_source, open_sources


logger = get_logger(__name__)

MAX_REASONS = 5


def load_rest_dataset(
    dataset_name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str = "train",
    config: str | None = None,
    strict: bool = False,
    max_prompt_length: int | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> Dataset:
    """
    Load a data set and prepare it with [`prepare_dataset`].

    Args:
        dataset_name (`str`):
            A .json, .jsonl or .parquet file, a directory of such files (of one type), or the id of a data set on the
            Hub.
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer of the model, with its chat template.
        split (`str`, *optional*, defaults to `"train"`):
            Split to load. A single file is the split `"train"`. In a directory the names of the files tell.
        config (`str`, *optional*):
            Configuration of the data set, for those that have several.
        strict (`bool`, *optional*, defaults to `False`):
            Whether a malformed row is an error; otherwise it is skipped and named in a warning.
        max_prompt_length (`int`, *optional*):
            Drop examples whose prompt is longer, in tokens.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template, such as `enable_thinking`.

    Returns:
        `Dataset`: As [`prepare_dataset`] returns it. `source` counts each file's rows, not its blank lines, from 0.

    Raises:
        `FileNotFoundError`: If `dataset_name` is a path and there is nothing.
        `ValueError`: As [`prepare_dataset`], and if the split, configuration or file type is not there.

    Example:

    ```python
    dataset = load_rest_dataset("rlla_rl.parquet", tokenizer, max_prompt_length=2048)
    ```
    """
    sources = open_sources(dataset_name, split, config)
    return _prepare(sources, tokenizer, strict, max_prompt_length, chat_template_kwargs)


def prepare_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "dataset",
    strict: bool = False,
    max_prompt_length: int | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> Dataset:
    """
    Bring a data set of any supported schema to one example per step: what the model reads, and the gold completion.

    A dialogue with K assistant turns gives K examples; example k shows everything before turn k and is rewarded on
    turn k alone (arXiv 2509.21826, single-turn decomposition). Prompts are rendered here, with the tools of their row,
    because `GRPOTrainer` renders all prompts with the same tools.

    The columns tell the schema: `prompt` and `reward_model` (ToolRL/ResT RL rows), `messages`, `prompt` and
    `solution`, `prompt` and `completion`, or `instruction`, `input` and `output` (ToolRL SFT rows). Where there are
    messages, a column `tools` can hold the JSON schemas of their tools. Text prompts, completions and solutions are
    taken as they are. An assistant message becomes what the chat template writes for it after the generation prompt.

    Args:
        dataset (`Dataset`):
            The data set.
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer of the model, with its chat template.
        name (`str`, *optional*, defaults to `"dataset"`):
            Name of the data set in warnings, errors and the column `source`.
        strict (`bool`, *optional*, defaults to `False`):
            Whether a malformed row is an error; otherwise it is skipped and named in a warning.
        max_prompt_length (`int`, *optional*):
            Drop examples whose prompt is longer, in tokens.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template, such as `enable_thinking`.

    Returns:
        `Dataset`: With the columns `prompt` (`str`), `solution` (`str`, without the end-of-turn marker), `source`
        (`str`, `name#row`: the examples of one dialogue share it) and `step` (`int`, from 0).

    Raises:
        `ValueError`: If the data set is empty, has no supported schema or leaves no example, or with `strict` if a
        row is malformed; if it holds messages and the tokenizer has no chat template.
    """
    return _prepare([dataset_source(dataset, name)], tokenizer, strict, max_prompt_length, chat_template_kwargs)


# `Dataset.map` is not used here. Its cache would return the examples of an earlier run without the report of what was
# skipped, and rows of JSON files need not fit an Arrow table.
def _prepare(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    strict: bool,
    max_prompt_length: int | None,
    chat_template_kwargs: dict[str, Any] | None,
) -> Dataset:
    PartialState()  # the logger raises without it, and a trainer that is made later shares it
    if max_prompt_length is not None and max_prompt_length < 1:
        raise ValueError(f"max_prompt_length is {max_prompt_length}: give a number of tokens from 1, or None.")
    renderer = StepRenderer(tokenizer, chat_template_kwargs)
    examples: list[dict[str, Any]] = []
    skips: list[tuple[str, int, list[str]]] = []
    for source in sources:
        if len(source.rows) == 0:
            raise ValueError(f"{source.name} is empty: it has no rows to train on.")
        kept, malformed = _render_source(source, renderer, strict)
        examples += kept
        skips.append((source.name, len(kept), malformed))
    if not examples:
        reasons = [f"{name}, {reason}" for name, _, malformed in skips for reason in malformed]
        raise ValueError(f"All {len(reasons)} examples are malformed, none is left: {_first(reasons)}")
    for name, num_kept, malformed in skips:
        if malformed:
            logger.warning(
                f"{name}: skipped {len(malformed)} malformed examples and kept {num_kept}: {_first(malformed)}"
            )
    if max_prompt_length is not None:
        examples = _drop_long_prompts(examples, tokenizer, max_prompt_length)
    return Dataset.from_list(examples)


def _render_source(source: Source, renderer: StepRenderer, strict: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the examples of `source`, and for each malformed row or step its place and the reason."""
    examples: list[dict[str, Any]] = []
    malformed: list[str] = []

    def skip(place: str, error: MalformedRowError) -> None:
        if strict:
            raise ValueError(
                f"{source.name}, {place}: {error}. Correct the row, or set strict to False to skip such rows."
            ) from error
        malformed.append(f"{place}: {error}")

    for index, raw in enumerate(tqdm(source.rows, desc=f"Preparing {source.name}")):
        try:
            row = source.row(raw)
            steps = detect_schema(source.columns, source.name).steps(row)
        except MalformedRowError as error:
            skip(f"row {index}", error)
            continue
        for number, step in enumerate(steps):
            try:
                prompt, solution = renderer.render(step)
            except MalformedRowError as error:
                skip(f"row {index}, step {number}", error)
                continue
            examples.append(
                {"prompt": prompt, "solution": solution, "source": f"{source.name}#{index}", "step": number}
            )
    return examples, malformed


def _drop_long_prompts(
    examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_prompt_length: int
) -> list[dict[str, Any]]:
    """Drop the prompts over the limit. `GRPOTrainer` itself takes prompts of any length."""
    lengths = [len(tokenizer(example["prompt"])["input_ids"]) for example in examples]
    kept = [example for example, length in zip(examples, lengths, strict=True) if length <= max_prompt_length]
    if not kept:
        raise ValueError(
            f"All {len(examples)} prompts are longer than max_prompt_length={max_prompt_length}: the shortest has "
            f"{min(lengths)} tokens. Raise the limit."
        )
    if len(kept) < len(examples):
        logger.warning(
            f"Dropped {len(examples) - len(kept)} of {len(examples)} examples: prompt over {max_prompt_length} tokens."
        )
    return kept


def _first(reasons: list[str]) -> str:
    more = len(reasons) - MAX_REASONS
    return "; ".join(reasons[:MAX_REASONS]) + (f"; and {more} more" if more > 0 else "")
