"""
Supervised fine-tuning with a weight per region of the gold completion (SFT, TSFT and RSFT), and its program.

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

from trl import ModelConfig

from ...runs.parser import RecipeParser
from ...runs.preflight import check_processes
from ...runs.program import DataArguments, recipe_parser, run, trainer_inputs
from .config import ResTSFTConfig
from .trainer import ResTSFTTrainer


__all__ = ["ResTSFTConfig", "ResTSFTTrainer", "main", "make_parser", "make_trainer"]


def make_parser(prog: str | None = None) -> RecipeParser:
    """Parser of recipes and command lines; `prog` is the name of the program in its help."""
    return recipe_parser(prog, DataArguments, ResTSFTConfig)


def make_trainer(
    script_args: DataArguments, training_args: ResTSFTConfig, model_args: ModelConfig, **trainer_kwargs: Any
) -> ResTSFTTrainer:
    """The trainer that a recipe describes; `trainer_kwargs` are further arguments of [`ResTSFTTrainer`]."""
    trainer = ResTSFTTrainer(**trainer_inputs(script_args, training_args, model_args), **trainer_kwargs)
    check_processes(trainer.accelerator)
    return trainer


def main(args: list[str] | None = None, prog: str = "rest_trl.lab.sft") -> None:
    """Train as the command line says, by default the process's, see [`~rest_trl.runs.program.run`]."""
    configure_logging()
    run(prog, make_parser, make_trainer, args)
