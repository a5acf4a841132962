"""The model, the data set and the environment that a recipe names."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..data import load_rest_dataset
from ..data.sources import Source, is_local_path, open_sources
from ..lab.tiny import TINY, TINY_AGENTS, TINY_DATASETS, is_tiny, load_tiny_dataset, resolve_model
from ..lab.tiny.agents import load_tasks
from ..lab.tiny.world import Split


TINY_EVAL_SIZE = 128  # prompts: a reward's standard error is then below a tenth of its standard deviation
TASK_EVAL_SIZE = 512  # prompts, for the studies: a share's standard error is then at most 2.2 points


def find_model(name: str | None) -> str:
    """Find the model that the arguments name."""
    if not name:
        raise ValueError("no model: give --model_name_or_path a path, a Hub id, or tiny")
    path = Path(resolve_model(name)).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise NotADirectoryError(f"the model {name} is a file: give the directory with its config.json")
    if is_local_path(name) or len(path.parts) > 2:  # an id has at most one slash
        raise FileNotFoundError(f"there is no model directory {name}: check the path")
    return name


def load_tokenizer(
    model_name: str, revision: str | None = None, trust_remote_code: bool = False, **kwargs: Any
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model."""
    try:
        return AutoTokenizer.from_pretrained(
            model_name, revision=revision, trust_remote_code=trust_remote_code, **kwargs
        )
    except (OSError, ValueError) as error:
        where = model_name if revision is None else f"{model_name} at revision {revision}"
        raise ValueError(f"the tokenizer of {where} cannot be loaded: {error}") from error


def find_environment(name: str) -> Callable[[], Any]:
    """Find the environment that the arguments name."""
    module, _, attribute = name.rpartition(".")
    try:
        factory = vars(importlib.import_module(module))[attribute]
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"environment_factory: {name!r} cannot be imported ({type(error).__name__}: {error}): give the dotted "
            "path of a class or function, e.g. my_package.my_module.MyEnvironment"
        ) from error
    if not callable(factory):
        raise ValueError(f"environment_factory: {name!r} is a {type(factory).__name__}, which cannot be called")
    made: Callable[[], Any] = factory
    return made


def load_tasks_split(script_args: Any, split: str, size: int | None = None) -> Dataset:
    """Load one split of a data set of tasks. The columns go to the environment's `reset` as they are."""
    name = script_args.dataset_name
    if not name:
        raise ValueError("no data set: give --dataset_name a file, a directory, a Hub id, or tiny/agents")
    for argument in ("max_prompt_length", "mask_tools", "strict"):
        if vars(script_args)[argument]:
            raise ValueError(
                f"{argument} is for data sets with gold calls, and the tasks of an environment are left as they are: "
                "leave it out"
            )
    if name == TINY_AGENTS:
        tiny_split = _tiny_split(name, split, script_args.dataset_config)
        return load_tasks(tiny_split, size or (2048 if tiny_split == "train" else TINY_EVAL_SIZE))
    if is_tiny(name, TINY_DATASETS):
        raise ValueError(
            f"{name} has no tasks for an environment: choose {TINY_AGENTS}, or leave out environment_factory"
        )
    dataset = concatenate_datasets([*map(_rows, open_sources(name, split, script_args.dataset_config))])
    if not len(dataset):
        raise ValueError(f"{name} is empty: it has no rows to train on.")
    if "prompt" not in dataset.column_names or not isinstance(dataset[0]["prompt"], list):
        raise ValueError(
            f"{name} has no column prompt of messages, which an environment needs: "
            "give each row a list of role and content"
        )
    return _first(dataset, size)


def load_split(
    script_args: Any, training_args: Any, tokenizer: PreTrainedTokenizerBase, split: str, size: int | None = None
) -> Dataset:
    """Load one split of the data set that the arguments name."""
    if not script_args.dataset_name:
        raise ValueError("no data set: give --dataset_name a file, a directory, a Hub id, or tiny")
    chat_template_kwargs: Any = training_args.chat_template_kwargs  # TRL has parsed it if it was a string
    if is_tiny(script_args.dataset_name, TINY_DATASETS):
        if script_args.mask_tools:
            raise ValueError(
                f"mask_tools needs rows with tools in a column, and {script_args.dataset_name} has prompts of text: "
                "leave it out"
            )
        dataset = load_tiny_split(script_args.dataset_name, split, script_args.dataset_config, size)
        if script_args.max_prompt_length is not None:
            _check_lengths(dataset, tokenizer, script_args)
        return dataset
    dataset = load_rest_dataset(
        script_args.dataset_name,
        tokenizer,
        split=split,
        config=script_args.dataset_config,
        strict=script_args.strict,
        max_prompt_length=script_args.max_prompt_length,
        chat_template_kwargs=chat_template_kwargs,
        mask_tools=script_args.mask_tools or (),
        seed=training_args.seed,
    )
    return _first(dataset, size)


def load_tiny_split(name: str, split: str, config: str | None = None, size: int | None = None) -> Dataset:
    """Load one split of an embedded data set."""
    if _tiny_split(name, split, config) == "train":
        return _first(load_tiny_dataset(name=name), size)
    return load_tiny_dataset("test", size=size or (TINY_EVAL_SIZE if name == TINY else TASK_EVAL_SIZE), name=name)


def _check_lengths(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, script_args: Any) -> None:
    """Refuse a `max_prompt_length` that would drop prompts of an embedded data set, and allow one that drops none."""
    longest = max(map(len, tokenizer(list(dataset["prompt"]))["input_ids"]))
    if longest > script_args.max_prompt_length:
        raise ValueError(
            f"the prompts of {script_args.dataset_name} have up to {longest} tokens, and max_prompt_length is "
            f"{script_args.max_prompt_length}: raise it or leave it out"
        )


def _tiny_split(name: str, split: str, config: str | None) -> Split:
    if config is not None:
        raise ValueError(f"{name} has no configurations, but dataset_config={config!r}: leave it out")
    if split not in ("train", "test"):
        raise ValueError(f"{name} has the splits 'train' and 'test', not {split!r}")
    return "train" if split == "train" else "test"


def _rows(source: Source) -> Dataset:
    if isinstance(source.rows, Dataset):
        return source.rows
    return Dataset.from_list([source.row(row) for row in source.rows])


def _first(dataset: Dataset, size: int | None) -> Dataset:
    return dataset if size is None else dataset.select(range(min(size, len(dataset))))
