"""
One run of a study, in a process of its own.

```shell
python -m rest_trl.lab.study.worker DIRECTORY ARM SEED
```

The process exits when its standard input closes. So a run does not outlive a study that is killed, and the next study
can start it again.
"""

import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ...rewards import get_reward_func
from ...runs.endings import run_errors, setup_errors
from ...runs.inputs import find_environment, load_split
from ...train import make_parser, make_trainer
from ...trainer import ResTGRPOTrainer
from .accuracy import HeldOutCalls, HeldOutDialogues
from .arms import Run, Study, StudyFolder
from .seeds import TRAINING


_PROG = "rest-trl study"


class CommonRandomNumbers(TrainerCallback):
    """
    Seeds the random numbers of every optimiser step by the run's seed and the step alone.

    Two arms of one seed thus sample with the same numbers at every step, however many either has used before. This
    does not reach the sampling of a vLLM engine.
    """

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        set_seed(int(np.random.SeedSequence([args.seed, state.global_step]).generate_state(1)[0]))


def parse_arm(settings: dict[str, Any], run: Run, directory: Path) -> tuple[Any, Any, Any]:
    """
    Parse the settings of an arm with the training program's parser. They are kept in `recipe.yaml` in the directory.

    Returns:
        `tuple`: [`~rest_trl.train.ResTScriptArguments`], [`ResTGRPOConfig`] and [`~trl.ModelConfig`].

    Raises:
        ValueError: if an argument is unknown or wrong.
    """
    directory.mkdir(parents=True, exist_ok=True)
    given = {"seed": run[1], "output_dir": str(directory), "logging_strategy": "steps", "logging_steps": 1}
    recipe = directory / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**settings, **given}, sort_keys=False), encoding="utf-8")
    arguments: Any = make_parser(_PROG).parse_args_and_config(["--config", str(recipe)], fail_with_unknown_args=True)
    return arguments


def check_arms(study: Study) -> None:
    """
    Parse the settings of every arm and find its rewards, so that a misspelt name is found before the first run.

    Raises:
        ValueError: names the arm.
    """
    with tempfile.TemporaryDirectory() as directory:
        for arm, settings in study.arms.items():
            try:
                script_args, _, _ = parse_arm(settings, (arm, study.seeds[0]), Path(directory))
                for name in script_args.reward_funcs or []:
                    get_reward_func(name)
                if script_args.environment_factory is not None:
                    find_environment(script_args.environment_factory)
            except ValueError as error:
                raise ValueError(f"arm {arm}: {error}") from error


def train(folder: StudyFolder, run: Run) -> pd.DataFrame:
    """Train one arm with one seed, from the checkpoint of an earlier try if there is one; see [`step_table`]."""
    with setup_errors(_PROG):
        trainer, training = _make_trainer(folder, run)
    with run_errors(_PROG, trainer):
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder.work(run))))
    args: Any = trainer.args
    table = step_table(
        run,
        trainer.state.log_history,
        args.generation_batch_size,
        args.num_generations,
        args.gradient_accumulation_steps,
        args.steps_per_generation * args.num_iterations,
    )
    return table if training == TRAINING else table.assign(**{TRAINING: table[training]})


def _make_trainer(folder: StudyFolder, run: Run) -> tuple[ResTGRPOTrainer, str]:
    """The trainer of a run, which measures held-out accuracy, and the name under which it logs that of training."""
    manifest, directory = folder.manifest(), folder.work(run)
    script_args, training_args, model_args = parse_arm(manifest["arms"][run[0]], run, directory)
    set_seed(run[1])  # before the trainer is made, which may draw the first weights of an adapter
    training_args.disable_tqdm = True
    trainer = make_trainer(script_args, training_args, model_args, callbacks=[CommonRandomNumbers()])
    tokenizer: Any = trainer.processing_class
    split = script_args.dataset_test_split
    rows = load_split(script_args, training_args, tokenizer, split, size=manifest["held_out"])
    arguments = trainer, rows, manifest["evaluations"]
    training = TRAINING
    if script_args.environment_factory is None:
        trainer.add_callback(HeldOutCalls(*arguments))
    else:
        held_out = HeldOutDialogues(*arguments, find_environment(script_args.environment_factory))
        trainer.add_callback(held_out)
        training = held_out.outcome
    return trainer, training


def step_table(
    run: Run,
    log_history: list[dict[str, float]],
    completions: int,
    group_size: int = 1,
    micro_steps: int = 1,
    micro_steps_per_rollout: int = 1,
) -> pd.DataFrame:
    """
    What a run has logged, as a table.

    Args:
        run (`Run`):
            Arm and seed.
        log_history (`list[dict[str, float]]`):
            `trainer.state.log_history`.
        completions (`int`):
            Completions that a rollout trains on.
        group_size (`int`, *optional*, defaults to `1`):
            Completions per prompt, for the groups that a rollout has sampled on top.
        micro_steps (`int`, *optional*, defaults to `1`):
            Micro-steps of an optimiser step.
        micro_steps_per_rollout (`int`, *optional*, defaults to `1`):
            Micro-steps that one rollout serves.

    Returns:
        `pd.DataFrame`: one row per step; `arm`, `seed`, `step`, `rollouts` (all completions sampled up to this step,
        discarded ones, too), `generated_tokens` (all tokens sampled up to this step: those that completions share
        count once, those of discarded completions count), and every metric under the name that it was logged with.
    """
    rows: dict[int, dict[str, Any]] = {}
    for log in log_history:
        rows.setdefault(int(log["step"]), {}).update(log)
    table = pd.DataFrame([rows[step] for step in sorted(rows)])
    # A step that trains on rollouts of an earlier one logs no lengths, and generates nothing. A step of several
    # rollouts logs the means over them.
    lengths = table["completions/mean_length"]
    until = -(-lengths.notna().cumsum() * max(micro_steps, micro_steps_per_rollout) // micro_steps_per_rollout)
    number = until.diff().fillna(until)

    def total(mean: pd.Series) -> pd.Series:
        return (mean * number).fillna(0).round().astype("int64").cumsum()

    table["rollouts"] = total(completions + group_size * table.get("rest/groups/extra", 0 * lengths))
    table["generated_tokens"] = total(table.get("rest/generated_tokens", lengths * completions))
    table["arm"], table["seed"] = run
    first = ["arm", "seed", "step", "rollouts", "generated_tokens"]
    return table[first + [name for name in table if name not in first]]


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def main(args: list[str] | None = None) -> None:
    """Train the arm with the seed that the command line names, and write the result into the study's folder."""
    directory, arm, seed = sys.argv[1:] if args is None else args
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, run = StudyFolder(Path(directory)), (arm, int(seed))
    folder.save(run, train(folder, run))


if __name__ == "__main__":
    main()
