"""
The program of supervised fine-tuning.

```shell
accelerate launch -m rest_trl.lab.sft --config recipes/tiny/sft.yaml
accelerate launch -m rest_trl.lab.sft --help
```

The recipe holds arguments of [`~rest_trl.runs.program.DataArguments`], [`ResTSFTConfig`] and [`~trl.ModelConfig`];
arguments on the command line override it. To go on from the result with `rest_trl.train`, set `model_name_or_path`
in its recipe to the `output_dir` of this one.
"""

from ...runs.logs import configure_logging  # before PEFT is imported


# isort: split

from typing import Any

from trl import ModelConfig, get_peft_config, get_quantization_config

from ...runs.inputs import load_split
from ...runs.parser import RecipeParser
from ...runs.processes import check_processes
from ...runs.program import DataArguments, prepare_model, run
from .config import ResTSFTConfig
from .trainer import ResTSFTTrainer


def make_parser(prog: str | None = None) -> RecipeParser:
    """
    Parser of recipes and command lines.

    Args:
        prog (`str`, *optional*):
            Name of the program in its help.

    Returns:
        [`~rest_trl.runs.parser.RecipeParser`]
    """
    dataclass_types: Any = (DataArguments, ResTSFTConfig, ModelConfig)
    # Without this, argparse shows all of several hundred arguments before each error.
    return RecipeParser(dataclass_types, prog=prog, usage="%(prog)s [-h] [--config RECIPE] [--ARGUMENT VALUE ...]")


def make_trainer(
    script_args: DataArguments, training_args: ResTSFTConfig, model_args: ModelConfig, **trainer_kwargs: Any
) -> ResTSFTTrainer:
    """
    The trainer that a recipe describes.

    Args:
        script_args ([`~rest_trl.runs.program.DataArguments`]):
            Data set.
        training_args ([`ResTSFTConfig`]):
            Training.
        model_args ([`~trl.ModelConfig`]):
            Model, LoRA and quantisation.
        trainer_kwargs:
            Further arguments of [`ResTSFTTrainer`], such as `callbacks`.

    Returns:
        [`ResTSFTTrainer`]

    Raises:
        FileNotFoundError: if there is no such model or data set.
        ImportError: if a tracker is not installed.
        ValueError: if an argument is missing or wrong.
    """
    model_name, tokenizer = prepare_model(training_args, model_args)
    evaluates = training_args.eval_strategy != "no"
    trainer = ResTSFTTrainer(
        model_name,
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
    return trainer


def main(args: list[str] | None = None, prog: str = "rest_trl.lab.sft") -> None:
    """
    Train as the command line says.

    Args:
        args (`list[str]`, *optional*):
            The command line, by default the process's.
        prog (`str`, *optional*, defaults to `"rest_trl.lab.sft"`):
            Name of the program in messages.

    Raises:
        SystemExit: with one line that names cause and cure, if an argument or the data set is wrong, or the trained
            model cannot be pushed.
    """
    configure_logging()
    run(prog, make_parser, make_trainer, args)
