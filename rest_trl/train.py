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

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import ModelConfig, get_peft_config, get_quantization_config

from .config import ResTGRPOConfig
from .lab.display.arguments import changed_arguments
from .rewards import get_reward_func
from .runs.inputs import find_environment, load_split, load_tasks_split
from .runs.parser import RecipeParser
from .runs.processes import check_processes
from .runs.program import DataArguments, prepare_model, run
from .trainer import ResTGRPOTrainer


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


def load_rows(
    script_args: ResTScriptArguments,
    training_args: ResTGRPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    size: int | None = None,
) -> Dataset:
    """
    One split of the data set that a recipe names: prompts with gold completions, or tasks for an environment.

    Args:
        script_args ([`ResTScriptArguments`]):
            The name of the data set, and the environment if there is one.
        training_args ([`ResTGRPOConfig`]):
            Training.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        split (`str`):
            Name of the split.
        size (`int`, *optional*):
            Number of rows to take at most, from the first on.

    Returns:
        [`~datasets.Dataset`]

    Raises:
        FileNotFoundError, ValueError: see [`~rest_trl.runs.inputs.load_split`].
    """
    if script_args.environment_factory is not None:
        return load_tasks_split(script_args, split, size)
    return load_split(script_args, training_args, tokenizer, split, size)


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
    recipe = changed_arguments(script_args, training_args, model_args)  # before `prepare_model` fills in some of them
    model_name, tokenizer = prepare_model(training_args, model_args)
    environment = script_args.environment_factory
    evaluates = training_args.eval_strategy != "no"
    trainer = ResTGRPOTrainer(
        model_name,
        None if script_args.reward_funcs is None else [get_reward_func(name) for name in script_args.reward_funcs],
        training_args,
        train_dataset=load_rows(script_args, training_args, tokenizer, script_args.dataset_train_split),
        eval_dataset=(
            load_rows(script_args, training_args, tokenizer, script_args.dataset_test_split) if evaluates else None
        ),
        processing_class=tokenizer,
        environment_factory=None if environment is None else find_environment(environment),
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
    run(prog, make_parser, make_trainer, args)


if __name__ == "__main__":
    main()
