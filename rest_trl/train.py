"""
The training program.

```shell
accelerate launch -m rest_trl.train --config recipes/demo.yaml
accelerate launch -m rest_trl.train --help
```

The recipe holds arguments of [`ResTScriptArguments`], [`ResTGRPOConfig`] and [`~trl.ModelConfig`]; arguments on the
command line override it.
"""

from .runs.logs import configure_logging  # before PEFT is imported


# isort: split

from dataclasses import dataclass, field
from typing import Any

from accelerate.logging import get_logger
from trl import ModelConfig

from .config import ResTGRPOConfig
from .rewards import get_reward_func
from .runs.arguments import changed_arguments
from .runs.inputs import find_environment
from .runs.parser import RecipeParser
from .runs.preflight import check_processes
from .runs.program import DataArguments, recipe_parser, run, trainer_inputs
from .trainer import ResTGRPOTrainer


logger = get_logger("rest_trl.train")  # as a program, this module has another name


@dataclass
class ResTScriptArguments(DataArguments):
    """
    Arguments of the program beside those of the trainer and the model; only what [`DataArguments`] lacks is listed.

    Args:
        reward_funcs (`list[str]`, *optional*):
            Rewards by name (`layout_reward`, `tool_call_reward`, `tool_schema_reward`) or dotted path, see
            [`~rest_trl.rewards.get_reward_func`]; `reward_weights` gives their weights. By default the first two,
            which are the paper's.
        environment_factory (`str`, *optional*):
            Dotted path of a class or function that makes an environment of TRL, whose methods the policy calls as
            tools over several turns, and whose `get_reward` and `turn_rewards` are rewards. With an environment,
            `reward_funcs` is empty by default, and the rows of the data set, which have a column `prompt` of messages,
            are passed to `reset` unchanged. The data set is `"tiny/agents"`, the help desk of the package (2,048
            tasks, and 128 others for evaluation), or your own.
    """

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "layout_reward, tool_call_reward, tool_schema_reward, or dotted paths. Default: the first two, "
            "which are the paper's."
        },
    )
    environment_factory: str | None = field(
        default=None,
        metadata={
            "help": "Dotted path of an environment of TRL, such as rest_trl.lab.tiny.agents.HelpDesk. Default: none, "
            "and the policy writes one turn."
        },
    )


def make_parser(prog: str | None = None) -> RecipeParser:
    """Parser of recipes and command lines; `prog` is the name of the program in its help."""
    return recipe_parser(prog, ResTScriptArguments, ResTGRPOConfig)


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
    recipe = changed_arguments(script_args, training_args, model_args)  # before `trainer_inputs` fills in some of them
    if training_args.log_completions and training_args.num_completions_to_print is None:
        training_args.num_completions_to_print = 0  # by default, TRL prints all that it writes to files
        where = f"{training_args.output_dir}: rest-trl inspect {training_args.output_dir}"
        logger.info(f"Completions are not printed but written to {where} shows them")
    rewards, environment = script_args.reward_funcs, script_args.environment_factory
    trainer = ResTGRPOTrainer(
        reward_funcs=None if rewards is None else [get_reward_func(name) for name in rewards],
        environment_factory=None if environment is None else find_environment(environment),
        **trainer_inputs(script_args, training_args, model_args),
        **trainer_kwargs,
    )
    check_processes(trainer.accelerator)
    trainer.recipe = recipe
    return trainer


def main(args: list[str] | None = None, prog: str = "rest_trl.train") -> None:
    """Train as the command line says, by default the process's, see [`~rest_trl.runs.program.run`]."""
    configure_logging()
    run(prog, make_parser, make_trainer, args)


if __name__ == "__main__":
    main()
