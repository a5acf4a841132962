"""What the training programs share: their arguments, the inputs of the trainer, and the course of a run."""

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from transformers import PreTrainedTokenizerBase
from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

from ..tool_calls import detect_syntax
from .checkpoints import check_output_dir, check_results, continues, find_checkpoint, naming_full_disk, remove_results
from .endings import is_unreachable, run_errors, setup_errors
from .inputs import TASK_EVAL_SIZE, TINY_EVAL_SIZE, find_model, load_split, load_tokenizer
from .lifetime import ending_in_time, locked
from .logs import release_kernels_warning
from .parser import RecipeParser
from .preflight import check_model, check_tokenizer, check_trackers, check_vllm
from .progress import show_progress


logger = get_logger(__name__)


@dataclass
class DataArguments(ScriptArguments):
    """
    Arguments of a training program besides those of the trainer and the model.

    Args:
        dataset_name (`str`):
            A .json, .jsonl, .parquet or .csv file, a directory of such files, the id of a data set on the Hub, or
            `"tiny"`, the synthetic tool world that the package holds (2,048 prompts, and 128 others for evaluation),
            or one of the tasks `"tiny/decides"`, `"tiny/calls"`, `"tiny/arguments"`, `"tiny/agents"` (2,048 prompts,
            and 512 others), or `"bfcl/single"`, BFCL's questions of one turn from the installed bfcl-eval (1,081 rows,
            and 246 others with other tools).
        max_prompt_length (`int`, *optional*):
            Examples with a longer prompt, in tokens, are dropped and counted. By default the tokenizer's limit, at
            most 32,768.
        test_size (`float`, *optional*):
            Share of the rows of the split `train` that are held out of training, as the split `test`; see
            [`~rest_trl.data.load_rest_dataset`].
        mask_tools (`list[str]`, *optional*):
            `functions`, `parameters` or both: their names become random in tools and calls, as in Hammer's training,
            so that only descriptions tell what a tool does.
        strict (`bool`, *optional*, defaults to `False`):
            Whether a malformed row of the data set is an error; otherwise it is skipped, counted and named.
        overwrite_output_dir (`bool`, *optional*, defaults to `False`):
            Whether checkpoints and the final model of an earlier run in `output_dir` are removed before training
            starts; otherwise such a directory is refused.

    Raises:
        ValueError: for an argument of [`~trl.ScriptArguments`] that the program does not support.
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A .json, .jsonl, .parquet or .csv file, a directory of such files, the id of a data set on the "
            f"Hub, or tiny: the synthetic tool world of the package, 2048 prompts and {TINY_EVAL_SIZE} others for "
            "evaluation, or tiny/decides, tiny/calls, tiny/arguments, tiny/agents: other tasks, 2048 prompts and "
            f"{TASK_EVAL_SIZE} others; or bfcl/single, BFCL's questions from the installed bfcl-eval."
        },
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Drop examples with a longer prompt, in tokens. Default: the tokenizer's limit, at most 32768."
        },
    )
    test_size: float | None = field(
        default=None,
        metadata={"help": "Hold this share of the rows of the split train out of training: they are the split test."},
    )
    mask_tools: list[str] | None = field(
        default=None,
        metadata={"help": "functions, parameters or both: give them random names in tools and calls, as Hammer does."},
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


_USAGE = "%(prog)s [-h] [--config RECIPE] [--arm NAME ...] [--ARGUMENT VALUE ...]"


def recipe_parser(prog: str | None, *argument_types: Any) -> RecipeParser:
    """Parser of recipes and command lines that hold the arguments of these classes, and those of the model."""
    dataclass_types: Any = (*argument_types, ModelConfig)
    # Without `usage`, argparse shows all of several hundred arguments before each error.
    return RecipeParser(dataclass_types, prog=prog, usage=_USAGE)


def trainer_inputs(script_args: DataArguments, training_args: Any, model_args: ModelConfig) -> dict[str, Any]:
    """
    The arguments of a trainer that do not depend on its method: `model`, `args`, data sets, tokenizer, LoRA.

    It sets `model_init_kwargs` of the training arguments and, unless it is given, their `tool_call_syntax`.
    """
    model_name, tokenizer = _prepare_model(training_args, model_args)
    train = load_split(script_args, training_args, tokenizer, script_args.dataset_train_split)
    evaluates = training_args.eval_strategy != "no"
    test = load_split(script_args, training_args, tokenizer, script_args.dataset_test_split) if evaluates else None
    return {
        "model": model_name,
        "args": training_args,
        "train_dataset": train,
        "eval_dataset": test,
        "processing_class": tokenizer,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }


def _prepare_model(training_args: Any, model_args: ModelConfig) -> tuple[str, PreTrainedTokenizerBase]:
    model_name = find_model(model_args.model_name_or_path)
    check_model(model_name)
    check_trackers(training_args)
    check_vllm(training_args)
    release_kernels_warning(model_args.load_in_4bit)
    tokenizer = load_tokenizer(
        model_name, model_args.model_revision, training_args.trust_remote_code, padding_side="left"
    )
    check_tokenizer(tokenizer, model_name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    if training_args.tool_call_syntax is None:
        training_args.tool_call_syntax = detect_syntax(tokenizer)
        logger.info(f"tool_call_syntax={training_args.tool_call_syntax!r}, from the chat template")
    return model_name, tokenizer


def _tags(dataset_name: str | None, model_name: str | None) -> list[str] | None:
    """Tags of the model card that evaluations look at: whether the model, or its base, was trained on a benchmark."""
    from ..lab.packaged import BFCL_SINGLE, TRAINED_ON_BFCL
    from ..lab.packaged.bfcl_single import is_trained_on_bfcl

    return [TRAINED_ON_BFCL] if dataset_name == BFCL_SINGLE or is_trained_on_bfcl(model_name) else None


def run(prog: str, parser: Callable[[str], RecipeParser], make_trainer: Callable[..., Any], args: Any) -> None:
    """
    Train as the command line says.

    Args:
        prog (`str`):
            Name of the program in messages.
        parser (`Callable`):
            Makes the parser, which returns [`DataArguments`] first and the trainer's arguments second.
        make_trainer (`Callable`):
            Makes the trainer from the parsed arguments.
        args (`list[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with one line that names cause and cure, if an argument or the data set is wrong, training is
            interrupted or loses its disk or server, or the trained model cannot be pushed.
    """
    with ExitStack() as resources:
        with setup_errors(prog):
            resources.enter_context(ending_in_time())
            arguments = parser(prog).parse_args_and_config(args)
            script_args, training_args = arguments[:2]
            output_dir = training_args.output_dir
            check_output_dir(output_dir)
            resources.enter_context(locked(output_dir))
            resume = find_checkpoint(training_args.resume_from_checkpoint, output_dir)
            check_results(output_dir, continues(resume, output_dir), script_args.overwrite_output_dir)
            trainer = make_trainer(*arguments)
            show_progress(trainer)
            if script_args.overwrite_output_dir:
                remove_results(trainer)
        with run_errors(prog, trainer):
            trainer.train(resume_from_checkpoint=resume)
            with naming_full_disk(f"the trained model in {output_dir}", output_dir):
                # `_internal_call` keeps it from pushing: the state is saved before the network can fail.
                trainer.save_model(output_dir, _internal_call=True)
                trainer.save_state()
                # It replaces the one that PEFT has written beside the adapter.
                trainer.create_model_card(tags=_tags(script_args.dataset_name, arguments[2].model_name_or_path))
    logger.info(f"Model saved to {output_dir}")
    if training_args.push_to_hub:
        _push(trainer, prog)


def _push(trainer: Any, prog: str) -> None:
    """Push the saved model, with its card; if that fails, end with a line that says where it is and how to push it."""
    try:
        trainer.push_to_hub()
    except Exception as error:  # network, Hub or metadata check: the model is saved, and the cure is the same
        args = trainer.args
        repo = trainer.hub_model_id or args.hub_model_id or Path(args.output_dir).absolute().name
        command = ["hf", "upload", repo, args.output_dir, ".", "--exclude", "checkpoint-*"]
        command += ["--revision", args.hub_revision] if args.hub_revision else []
        cause = "the Hub cannot be reached: " if is_unreachable(error) else ""
        raise SystemExit(
            f"{prog}: error: the trained model is saved in {args.output_dir}, but pushing it to {repo} failed "
            f"({cause}{type(error).__name__}: {' '.join(str(error).split())}). Push it with: {shlex.join(command)}"
        ) from error
