"""
The training program.

```shell
accelerate launch -m rest_trl.train --config recipes/demo.yaml
accelerate launch -m rest_trl.train --help
```

The recipe holds arguments of [`ResTScriptArguments`], [`ResTGRPOConfig`] and [`~trl.ModelConfig`]; arguments on the
command line override it.
"""

from .runs.logs import configure_logging, release_kernels_warning  # before PEFT is imported


# isort: split

from dataclasses import dataclass, field
from typing import Any

from accelerate.logging import get_logger
from transformers import AutoTokenizer
from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

from .config import ResTGRPOConfig
from .display.arguments import changed_arguments
from .rewards import get_reward_func
from .runs.checkpoints import find_checkpoint, naming_full_disk
from .runs.checks import check_trackers
from .runs.endings import run_errors, setup_errors
from .runs.hub import push
from .runs.inputs import TINY_EVAL_SIZE, find_model, load_split
from .runs.parser import RecipeParser
from .runs.processes import check_processes
from .runs.progress import show_progress
from .runs.results import check_output_dir, remove_results
from .tool_calls import detect_syntax
from .trainer import ResTGRPOTrainer


logger = get_logger("rest_trl.train")  # also where the module is run as `__main__`


@dataclass
class ResTScriptArguments(ScriptArguments):
    """
    Arguments of the program beside those of the trainer and the model.

    Args:
        dataset_name (`str`):
            A .json, .jsonl or .parquet file, a directory of such files, the id of a data set on the Hub, or `"tiny"`,
            the synthetic tool world that the package holds (2,048 prompts, and 128 others for evaluation).
        reward_funcs (`list[str]`, *optional*):
            Rewards by name (`layout_reward`, `tool_call_reward`) or dotted path, see
            [`~rest_trl.rewards.get_reward_func`]; `reward_weights` gives their weights. By default the trainer's, the
            paper's two.
        max_prompt_length (`int`, *optional*):
            Examples with a longer prompt, in tokens, are dropped and counted.
        strict (`bool`, *optional*, defaults to `False`):
            Whether a malformed row of the data set is an error; otherwise it is skipped, counted and named.
        overwrite_output_dir (`bool`, *optional*, defaults to `False`):
            Whether checkpoints and the final model of an earlier run in `output_dir` are removed before training
            starts; otherwise such a directory is refused.

    Raises:
        ValueError: for an argument of [`~trl.ScriptArguments`] that the program cannot follow.
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A .json, .jsonl or .parquet file, a directory of such files, the id of a data set on the Hub, or "
            f"tiny: the synthetic tool world of the package, 2048 prompts and {TINY_EVAL_SIZE} others for evaluation."
        },
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "layout_reward, tool_call_reward, or dotted paths. Default: the paper's two."}
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "Drop examples with a longer prompt, in tokens."}
    )
    strict: bool = field(default=False, metadata={"help": "Make a malformed row an error instead of skipping it."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Remove checkpoints and the final model of an earlier run in output_dir."},
    )

    def __post_init__(self) -> None:
        if self.dataset_streaming:
            raise ValueError(
                "dataset_streaming=True is not supported, because all rows are checked and rendered before training: "
                "leave it out"
            )
        if self.ignore_bias_buffers:
            raise ValueError("ignore_bias_buffers=True is not supported: leave it out")


def make_parser(prog: str | None = None) -> RecipeParser:
    """
    Parser of recipes and command lines.

    Args:
        prog (`str`, *optional*):
            Name of the program in its help.

    Returns:
        [`~rest_trl.runs.parser.RecipeParser`]
    """
    dataclass_types: Any = (ResTScriptArguments, ResTGRPOConfig, ModelConfig)
    # Without this, argparse shows all of several hundred arguments before each error.
    return RecipeParser(dataclass_types, prog=prog, usage="%(prog)s [-h] [--config RECIPE] [--ARGUMENT VALUE ...]")


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
        FileNotFoundError: if there is no such model or data set.
        ImportError: if a tracker is not installed.
        ValueError: if an argument is missing or wrong.
    """
    recipe = changed_arguments(script_args, training_args, model_args)  # as given: some are filled in below
    model_name = find_model(model_args.model_name_or_path)
    check_trackers(training_args)
    release_kernels_warning(model_args.load_in_4bit)
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
    configure_logging()
    with setup_errors(prog):
        script_args, training_args, model_args = make_parser(prog).parse_args_and_config(args)
        resume = find_checkpoint(training_args.resume_from_checkpoint, training_args.output_dir)
        check_output_dir(training_args.output_dir, resume is not None, script_args.overwrite_output_dir)
        trainer = make_trainer(script_args, training_args, model_args)
        show_progress(trainer)
        if script_args.overwrite_output_dir:
            remove_results(trainer)
    with run_errors(prog, trainer):
        trainer.train(resume_from_checkpoint=resume)
        with naming_full_disk(f"the trained model in {training_args.output_dir}", training_args.output_dir):
            # As an internal call it does not push: the state is to be saved before anything can go wrong on the
            # network.
            trainer.save_model(training_args.output_dir, _internal_call=True)
            trainer.save_state()
            trainer.create_model_card()  # PEFT has written one of its own beside the adapter
    logger.info(f"Model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        push(trainer, prog)


if __name__ == "__main__":
    main()
