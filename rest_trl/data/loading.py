"""Data sets loaded and rendered for training."""

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .examples import Example, SourceReport, first_reasons, render_source
from .masking import check_masks
from .rendering import StepRenderer
from .sources import Source, dataset_source, open_sources


logger = get_logger(__name__)

# [ours] The limit of a prompt if the user gives none and the tokenizer's is higher or missing: far above the 2,048
# tokens of the paper, and low enough that one prompt does not take all memory of a GPU.
DEFAULT_MAX_PROMPT_LENGTH = 32_768


class PreparationOptions(TypedDict, total=False):
    """How rows become examples, see [`prepare_dataset`]."""

    strict: bool
    max_prompt_length: int | None
    chat_template_kwargs: dict[str, Any] | None
    mask_tools: Collection[str]
    seed: int


def load_rest_dataset(
    dataset_name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str = "train",
    config: str | None = None,
    test_size: float | None = None,
    **options: Unpack[PreparationOptions],
) -> Dataset:
    """
    Load a data set and prepare it with [`prepare_dataset`].

    Args:
        dataset_name (`str`):
            A .json, .jsonl, .parquet or .csv file, a directory of such files (of one type), the id of a data set on
            the Hub, or `bfcl/single`, BFCL's questions of one turn from the installed bfcl-eval, of which the `config`
            `"one_call"` has those that are answered by one call.
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer of the model, with its chat template.
        split (`str`, *optional*, defaults to `"train"`):
            Split to load. A single file is the split `"train"`. In a directory, the file names tell the split.
        config (`str`, *optional*):
            Configuration of the data set, for those that have several.
        test_size (`float`, *optional*):
            Hold this share of the rows of the split `"train"` out of it. They are then the split `"test"`, the same
            ones in every program: a hash of `source` decides, so the steps of a dialogue stay together.
        options:
            `strict`, `max_prompt_length`, `chat_template_kwargs`, `mask_tools` and `seed`, see [`prepare_dataset`].

    Returns:
        `Dataset`: As [`prepare_dataset`] returns it. `source` numbers each file's rows from 0, without blank lines.

    Raises:
        `FileNotFoundError`: If `dataset_name` is a path that does not exist, or the Hub has no such data set.
        `ValueError`: As for [`prepare_dataset`], and if the split, configuration or file type does not exist.

    Example:

    ```python
    dataset = load_rest_dataset("rlla_rl.parquet", tokenizer, max_prompt_length=2048)
    ```
    """
    prepared = prepare_sources(open_sources(dataset_name, whole_split(split, test_size), config), tokenizer, **options)
    prepared.log()
    return prepared.part(split, test_size).dataset()


def whole_split(split: str, test_size: float | None) -> str:
    """
    The split that is read where `split` is asked for, which `test_size` may hold rows out of.

    Raises:
        `ValueError`: If they do not go together.
    """
    if test_size is None:
        return split
    if not 0 < test_size < 1:
        raise ValueError(f"test_size is {test_size}: give the share of rows to hold out, between 0 and 1")
    if split not in ("train", "test"):
        raise ValueError(f"test_size divides the split 'train' into 'train' and 'test', not {split!r}: leave it out")
    return "train"


def prepare_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "dataset",
    **options: Unpack[PreparationOptions],
) -> Dataset:
    """
    Bring a data set of any supported schema to one example per step: what the model reads, and the gold completion.

    A dialogue with K assistant turns gives K examples; example k shows everything before turn k and is rewarded on
    turn k alone (arXiv 2509.21826, single-turn decomposition). Prompts are rendered here, with the tools of their row,
    because `GRPOTrainer` renders all prompts with the same tools.

    The schema is detected from the columns and, where several schemas share them, from the first rows: `prompt` and
    `reward_model` (ToolRL/ResT RL rows); `messages` (files for OpenAI's fine-tuning, also with `functions` and
    `function_call`); `conversations` of `from` and `value` (ShareGPT, APIGen-MT; with the tools in `system`, ToolACE)
    or of `role` and `content`; `query`, `tools` and `answers` (xLAM, Hammer); `prompt` and `solution`; `prompt` and
    `completion`; `instruction`, `input` and `output` (ToolRL's and Hammer's SFT rows); or `question`, `function` and
    `ground_truth` (BFCL's questions with the answers that belong to them). Where there are messages, a column `tools`
    can hold the JSON schemas of their tools. Text prompts, completions and solutions are taken as they
    are. An assistant message becomes what the chat template writes for it after the generation prompt. The schema is
    logged, and for each source one warning tells what was skipped and why.

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
            Drop examples whose prompt is longer, in tokens. By default the tokenizer's `model_max_length`, at most
            32,768.
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template, such as `enable_thinking`.
        mask_tools (`Collection[str]`, *optional*, defaults to `()`):
            Some of `"functions"` and `"parameters"`: their names become random, see
            [`~rest_trl.data.masking.mask_step`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random names.

    Returns:
        `Dataset`: With the columns `prompt` (`str`), `solution` (`str`, without the end-of-turn marker; where golds
        allow several values, as BFCL's, a mapping of this `text` and its `alternatives`, a JSON string), `source`
        (`str`, `name#row`: the examples of one dialogue share it) and `step` (`int`, from 0); and where rows declare
        tools, `tools` (`str`, JSON schemas).

    Raises:
        `ValueError`: If the data set is empty, has no supported schema or leaves no example; with `strict`, if a row
            is malformed; if it holds messages and the tokenizer has no chat template; or if `max_prompt_length` or
            `mask_tools` is invalid.
    """
    return _logged(prepare_sources([dataset_source(dataset, name)], tokenizer, **options))


def _logged(prepared: "Prepared") -> Dataset:
    prepared.log()
    return prepared.dataset()


class Prepared(NamedTuple):
    """Examples, and reports of how the rows were read."""

    examples: list[Example]
    reports: list[SourceReport]  # one per source; they also count the examples that are too long
    too_long: list[Example]  # dropped for the length of their prompt
    max_prompt_length: int  # tokens
    is_default: bool  # whether the limit is the default, because the user gave none

    def log(self) -> None:
        """Log how the rows were read, and warn about what was left out and what looks wrong."""
        for report in self.reports:
            logger.info(report.summary())
            for note, number in report.notes.items():
                logger.info(f"{report.name}: {number} x {note}")
            for warning in report.warnings():
                logger.warning(warning)
        if self.too_long:
            total = len(self.examples) + len(self.too_long)
            chosen = ", the default where max_prompt_length is not set" if self.is_default else ""
            limit = f"{self.max_prompt_length} tokens{chosen}"
            logger.warning(f"Dropped {len(self.too_long)} of {total} examples: prompt over {limit}.")

    def part(self, split: str, test_size: float | None) -> "Prepared":
        """The examples of a split where `test_size` holds rows out of `"train"`, see [`load_rest_dataset`]."""
        if test_size is None:
            return self
        sources = {example.source for example in self.examples}
        rows = sorted(sources, key=lambda source: hashlib.sha256(source.encode()).digest())
        number = round(test_size * len(rows))
        if not 0 < number < len(rows):
            raise ValueError(f"test_size={test_size} divides {len(rows)} rows into {len(rows) - number} and {number}")
        held_out = set(rows[:number])
        return self._replace(
            examples=[example for example in self.examples if (example.source in held_out) == (split == "test")]
        )

    def dataset(self) -> Dataset:
        """The data set that training reads."""
        rows = [example.columns() for example in self.examples]
        if any(isinstance(row["solution"], dict) for row in rows):  # then all are: a column has one type
            for row in rows:
                if isinstance(row["solution"], str):
                    row["solution"] = {"text": row["solution"], "alternatives": None}
        names = dict.fromkeys(name for row in rows for name in row)
        return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


# `Dataset.map` is not used here. Its cache would return the examples of an earlier run without the report of what was
# skipped, and rows of JSON files need not fit an Arrow table.
def prepare_sources(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    *,
    strict: bool = False,
    max_prompt_length: int | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    mask_tools: Collection[str] = (),
    seed: int = 0,
) -> Prepared:
    """Make examples from sources, see [`prepare_dataset`]."""
    PartialState()  # the logger raises without it, and a trainer that is made later shares it
    if max_prompt_length is not None and max_prompt_length < 1:
        raise ValueError(f"max_prompt_length is {max_prompt_length}: give a number of tokens from 1, or None.")
    check_masks(mask_tools)
    renderer = StepRenderer(tokenizer, chat_template_kwargs)
    rendered = [render_source(source, renderer, strict, mask_tools, seed) for source in sources]
    examples = [example for found, _ in rendered for example in found]
    reports = [report for _, report in rendered]
    if not examples:
        reasons = [f"{report.name}, {reason}" for report in reports for reason in report.malformed]
        raise ValueError(f"All {len(reasons)} examples are malformed, none is left: {first_reasons(reasons)}")
    limit = max_prompt_length or min(tokenizer.model_max_length, DEFAULT_MAX_PROMPT_LENGTH)
    kept, too_long = _split_by_length(examples, tokenizer, limit, exact=max_prompt_length is not None)
    return Prepared(kept, reports, too_long, limit, max_prompt_length is None)


def _split_by_length(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, limit: int, exact: bool
) -> tuple[list[Example], list[Example]]:
    """
    Take out the examples whose prompt is over a limit, because `GRPOTrainer` itself accepts prompts of any length.
    """
    kept: list[Example] = []
    too_long: list[Example] = []
    shortest = None
    for example in examples:
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
