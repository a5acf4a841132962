"""
The training program.

```shell
accelerate launch -m rest_trl.train --config recipes/demo.yaml
accelerate launch -m rest_trl.train --help
```

The recipe holds arguments of [`ResTScriptArguments`], [`ResTGRPOConfig`] and [`~trl.ModelConfig`]; arguments on the
command line override it.
"""

from dataclasses import dataclass, field
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from httpx import HTTPError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config
from yaml import YAMLError

from .config import ResTGRPOConfig
from .data import load_rest_dataset
from .display.arguments import changed_arguments
from .rewards import get_reward_func
from .runs.hub import push
from .runs.processes import check_processes
from .serving.recovery import VLLMServerError
from .tiny import TINY_MODEL_DIR, load_tiny_dataset
from .tool_calls import detect_syntax
from .trainer import ResTGRPOTrainer


logger = get_logger(__name__)

# The embedded default answers to this name, as a model and as a data set.
TINY = "tiny"


@dataclass
class ResTScriptArguments(ScriptArguments):
    """
    Arguments of the program beside those of the trainer and the model.

    Args:
        dataset_name (`str`):
            A .json, .jsonl or .parquet file, a directory of such files, the id of a data set on the Hub, or `"tiny"`,
            the synthetic tool world that the package holds.
        reward_funcs (`list[str]`, *optional*):
            Rewards by name (`layout_reward`, `tool_call_reward`) or dotted path, see
            [`~rest_trl.rewards.get_reward_func`]; `reward_weights` gives their weights. By default the trainer's, the
            paper's two.
        max_prompt_length (`int`, *optional*):
            Examples with a longer prompt, in tokens, are dropped and counted.
        strict (`bool`, *optional*, defaults to `False`):
            Whether a malformed row of the data set is an error; otherwise it is skipped, counted and named.
    """

    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "layout_reward, tool_call_reward, or dotted paths. Default: the paper's two."}
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "Drop examples with a longer prompt, in tokens."}
    )
    strict: bool = field(default=False, metadata={"help": "Make a malformed row an error instead of skipping it."})


def make_parser(prog: str | None = None) -> TrlParser:
    """
    Parser of recipes and command lines.

    Args:
        prog (`str`, *optional*):
            Name of the program in its help.

    Returns:
        [`~trl.TrlParser`]
    """
    dataclass_types: Any = (ResTScriptArguments, ResTGRPOConfig, ModelConfig)
    # Without this, argparse shows all of several hundred arguments before each error.
    return TrlParser(dataclass_types, prog=prog, usage="%(prog)s [-h] [--config RECIPE] [--ARGUMENT VALUE ...]")


def load_split(
    script_args: ResTScriptArguments, training_args: ResTGRPOConfig, tokenizer: PreTrainedTokenizerBase, split: str
) -> Dataset:
    """
    One split of the data set that the arguments name.

    Args:
        script_args ([`ResTScriptArguments`]):
            Name the data set.
        training_args ([`ResTGRPOConfig`]):
            Hold `chat_template_kwargs`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer, with its chat template.
        split (`str`):
            Name of the split.

    Returns:
        [`~datasets.Dataset`] with columns `prompt` and `solution`.

    Raises:
        FileNotFoundError: if the data set is a path and there is nothing.
        ValueError: if no data set is named, or it cannot be used.
    """
    if script_args.dataset_name is None:
        raise ValueError("no data set: give --dataset_name a file, a directory, a Hub id, or tiny")
    chat_template_kwargs: Any = training_args.chat_template_kwargs  # TRL has parsed it if it was a string
    if script_args.dataset_name == TINY:
        return load_tiny_dataset("train" if split == "train" else "test")
    return load_rest_dataset(
        script_args.dataset_name,
        tokenizer,
        split=split,
        config=script_args.dataset_config,
        strict=script_args.strict,
        max_prompt_length=script_args.max_prompt_length,
        chat_template_kwargs=chat_template_kwargs,
    )


def make_trainer(
    script_args: ResTScriptArguments,
    training_args: ResTGRPOConfig,
    model_args: ModelConfig,
    **trainer_kwargs: Any,
) -> ResTGRPOTrainer:
    """
    The trainer that a recipe describes.

    Args:
        script_args ([`ResTScriptArguments`]):
            Data set and rewards.
        training_args ([`ResTGRPOConfig`]):
            Training.
        model_args ([`~trl.ModelConfig`]):
            Model, LoRA and quantisation.
        trainer_kwargs:
            Further arguments of [`ResTGRPOTrainer`], such as `callbacks`.

    Returns:
        [`ResTGRPOTrainer`]

    Raises:
        FileNotFoundError: see [`load_split`].
        ValueError: if an argument is missing or wrong.
    """
    recipe = changed_arguments(script_args, training_args, model_args)  # as given: some are filled in below
    if model_args.model_name_or_path is None:
        raise ValueError("no model: give --model_name_or_path a path, a Hub id, or tiny")
    model_name = str(TINY_MODEL_DIR) if model_args.model_name_or_path == TINY else model_args.model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(
        model_name,
        revision=model_args.model_revision,
        trust_remote_code=training_args.trust_remote_code,
        padding_side="left",
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    init_kwargs: Any = training_args.model_init_kwargs or {}  # TRL has parsed it if it was a string
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **init_kwargs,
    }
    if training_args.tool_call_syntax is None:
        training_args.tool_call_syntax = detect_syntax(tokenizer)
        logger.info(f"tool_call_syntax={training_args.tool_call_syntax!r}, from the chat template")
    evaluates = training_args.eval_strategy != "no"
    trainer = ResTGRPOTrainer(
        model_name,
        None if script_args.reward_funcs is None else [get_reward_func(name) for name in script_args.reward_funcs],
        training_args,
        train_dataset=load_split(script_args, training_args, tokenizer, script_args.dataset_train_split),
        eval_dataset=(
            load_split(script_args, training_args, tokenizer, script_args.dataset_test_split) if evaluates else None
        ),
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
        **trainer_kwargs,
    )
    check_processes(trainer.accelerator)
    trainer.recipe = recipe
    return trainer


def main(args: list[str] | None = None, prog: str = "rest_trl.train") -> None:
    """
    Train as the command line says.

    Args:
        args (`list[str]`, *optional*):
            The command line, by default the process's.
        prog (`str`, *optional*, defaults to `"rest_trl.train"`):
            Name of the program in messages.

    Raises:
        SystemExit: with one line that names cause and cure, if an argument or the data set is wrong, or the trained
            model cannot be pushed.
    """
    parser = make_parser(prog)
    try:
        script_args, training_args, model_args = parser.parse_args_and_config(args, fail_with_unknown_args=True)
        trainer = make_trainer(script_args, training_args, model_args)
    # of OSError: no such file, no such model, no access to the Hub; HTTPError: no connection to it; ImportError: an
    # optional package that the recipe asks for
    except (ValueError, OSError, ImportError, YAMLError, HTTPError) as error:
        raise SystemExit(f"{prog}: error: {' '.join(str(error).split())}") from error
    # `--resume_from_checkpoint true` is the last checkpoint of `output_dir`; the command line only has strings
    resume = training_args.resume_from_checkpoint
    try:
        trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    except VLLMServerError as error:
        raise SystemExit(f"{prog}: error: {' '.join(str(error).split())}") from error
    # As an internal call it does not push: the state is to be saved before anything can go wrong on the network.
    trainer.save_model(training_args.output_dir, _internal_call=True)
    trainer.save_state()
    trainer.create_model_card()  # PEFT has written one of its own beside the adapter
    logger.info(f"Model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        push(trainer, prog)


if __name__ == "__main__":
    main()
