"""The model, the data set and the environment that a recipe names."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..data import load_rest_dataset
from ..data.sources import Source, is_local_path, open_sources


TINY_EVAL_SIZE = 128  # prompts: a reward's standard error is then below a tenth of its standard deviation
TASK_EVAL_SIZE = 512  # prompts, for the studies: a share's standard error is then at most 2.2 points


def find_model(name: str | None) -> str:
    """
    Find the model that the arguments name.

    Args:
        name (`str`, *optional*):
            A path, an id, one of [`~rest_trl.lab.tiny.TINY_MODELS`], or `smollm2`.

    Returns:
        `str`: the directory with `~` expanded, or the id.
    """
    if not name:
        raise ValueError("no model: give --model_name_or_path a path, a Hub id, or tiny")
    path = Path(name).expanduser()
    if name == "smollm2" or _is_embedded(name):
        from ..lab.tiny import resolve_model

        path = Path(resolve_model(name))
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
    """Load the tokenizer of a model, a directory or an id; an error names the model and the revision."""
    try:
        return AutoTokenizer.from_pretrained(
            model_name, revision=revision, trust_remote_code=trust_remote_code, **kwargs
        )
    except (OSError, ValueError) as error:
        where = model_name if revision is None else f"{model_name} at revision {revision}"
        raise ValueError(f"the tokenizer of {where} cannot be loaded: {error}") from error


def find_environment(name: str) -> Callable[[], Any]:
    """Import the class or function that makes an environment for TRL without arguments, by its dotted path."""
    module, _, attribute = name.rpartition(".")
    try:
        factory = vars(importlib.import_module(module))[attribute]
    except Exception as error:  # of any kind: the module is the user's
        raise ValueError(
            f"environment_factory: {name!r} cannot be imported ({type(error).__name__}: {error}): give the dotted "
            "path of a class or function, e.g. my_package.my_module.MyEnvironment"
        ) from error
    if not callable(factory):
        raise ValueError(f"environment_factory: {name!r} is a {type(factory).__name__}, which cannot be called")
    made: Callable[[], Any] = factory
    return made


def load_split(
    script_args: Any, training_args: Any, tokenizer: PreTrainedTokenizerBase, split: str, size: int | None = None
) -> Dataset:
    """
    Load one split of the data set that the arguments name.

    Args:
        script_args ([`~rest_trl.runs.program.DataArguments`]):
            The arguments that name the data set. With an `environment_factory`, its rows are tasks, whose columns go
            to the environment's `reset` as they are; otherwise prompts with gold completions.
        training_args ([`ResTGRPOConfig`] or [`~rest_trl.lab.sft.ResTSFTConfig`]):
            The arguments with `chat_template_kwargs` and `seed`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer, with its chat template.
        split (`str`):
            Name of the split.
        size (`int`, *optional*):
            Take at most this many rows, the first ones. By default all; the test split of an embedded data set, whose
            rows are made on demand, has as many as an evaluation during training can afford.

    Returns:
        [`~datasets.Dataset`] with columns `prompt` and `solution`, or for an environment `prompt` of messages.
    """
    name, has_environment = script_args.dataset_name, vars(script_args).get("environment_factory") is not None
    if not name:
        embedded = "tiny/agents" if has_environment else "tiny"
        raise ValueError(f"no data set: give --dataset_name a file, a directory, a Hub id, or {embedded}")
    if has_environment:
        return _load_tasks(script_args, split, size)
    chat_template_kwargs: Any = training_args.chat_template_kwargs  # TRL has parsed it if it was a string
    if _is_embedded(name):
        if script_args.test_size is not None:
            raise ValueError(f"{name} has a split test already: leave test_size out")
        if script_args.mask_tools:
            raise ValueError(
                f"mask_tools needs rows with tools in a column, and {name} has prompts of text: leave it out"
            )
        dataset = load_tiny_split(name, split, script_args.dataset_config, size)
        if script_args.max_prompt_length is not None:
            _check_lengths(dataset, tokenizer, script_args)
        return dataset
    dataset = load_rest_dataset(
        name,
        tokenizer,
        split=split,
        config=script_args.dataset_config,
        test_size=script_args.test_size,
        strict=script_args.strict,
        max_prompt_length=script_args.max_prompt_length,
        chat_template_kwargs=chat_template_kwargs,
        mask_tools=script_args.mask_tools or (),
        seed=training_args.seed,
    )
    return _first(dataset, size)


def _load_tasks(script_args: Any, split: str, size: int | None) -> Dataset:
    name = script_args.dataset_name
    for argument in ("max_prompt_length", "mask_tools", "strict", "test_size"):
        if vars(script_args)[argument]:
            raise ValueError(
                f"{argument} is for data sets with gold calls, and the tasks of an environment are left as they are: "
                "leave it out"
            )
    if _is_embedded(name):
        from ..lab.tiny import TINY_AGENTS
        from ..lab.tiny.agents import load_tasks

        if name != TINY_AGENTS:
            raise ValueError(
                f"{name} has no tasks for an environment: choose {TINY_AGENTS}, or leave out environment_factory"
            )
        tiny_split = _tiny_split(name, split, script_args.dataset_config)
        return load_tasks(tiny_split, size or (2048 if tiny_split == "train" else TINY_EVAL_SIZE))
    dataset = concatenate_datasets([*map(_rows, open_sources(name, split, script_args.dataset_config))])
    if not len(dataset):
        raise ValueError(f"{name} is empty: it has no rows to train on.")
    if "prompt" not in dataset.column_names or not isinstance(dataset[0]["prompt"], list):
        raise ValueError(
            f"{name} has no column prompt of messages, which an environment needs: "
            "give each row a list of role and content"
        )
    return _first(dataset, size)


def load_tiny_split(name: str, split: str, config: str | None = None, size: int | None = None) -> Dataset:
    """Load one split of an embedded data set, see [`load_split`]."""
    from ..lab.tiny import TINY, load_tiny_dataset

    if _tiny_split(name, split, config) == "train":
        return _first(load_tiny_dataset(name=name), size)
    return load_tiny_dataset("test", size=size or (TINY_EVAL_SIZE if name == TINY else TASK_EVAL_SIZE), name=name)


def _is_embedded(name: str) -> bool:
    """Whether the name is that of a model and data set of the package, which is imported only for such names."""
    if name != "tiny" and not name.startswith("tiny/"):
        return False
    from ..lab.tiny import TINY_DATASETS, is_tiny

    return is_tiny(name, TINY_DATASETS)


def _check_lengths(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, script_args: Any) -> None:
    """Refuse a `max_prompt_length` that would drop prompts of an embedded data set, and allow one that drops none."""
    longest = max(map(len, tokenizer(list(dataset["prompt"]))["input_ids"]))
    if longest > script_args.max_prompt_length:
        raise ValueError(
            f"the prompts of {script_args.dataset_name} have up to {longest} tokens, and max_prompt_length is "
            f"{script_args.max_prompt_length}: raise it or leave it out"
        )


def _tiny_split(name: str, split: str, config: str | None) -> Literal["train", "test"]:
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
