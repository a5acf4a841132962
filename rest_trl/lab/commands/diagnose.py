"""
`rest-trl diagnose`: where the noise of a checkpoint's gradient comes from, and what each rule does to it.

```shell
rest-trl diagnose --config recipes/demo.yaml
rest-trl diagnose --config recipe.yaml --model_name_or_path outputs/run/checkpoint-100 --groups 128 --gradients head
```

Data, rewards, sampling and loss are those of the recipe, whose arguments may be overridden on the command line.
"""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...spelling import HintingParser


logger = logging.getLogger(__name__)
_PROG = "rest-trl diagnose"
_LEAST_GROUPS = 3  # fewer give no confidence interval


def make_parser() -> argparse.ArgumentParser:
    """Parser of the arguments of this command; all others are those of a recipe."""
    parser = HintingParser(
        _PROG,
        description="Say where the noise of a checkpoint's gradient comes from, and what each rule does to it.",
        epilog="Any argument of rest-trl train may follow, and overrides the recipe.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="recipe of the run: a file, or the name of one that comes with the package")
    parser.add_argument(
        "--model_name_or_path",
        help="the policy: a directory, an id on the Hub, tiny or tiny/TASK (default: the recipe's)",
    )
    parser.add_argument("--groups", type=int, default=64, help="prompts to sample completions for (default: 64)")
    parser.add_argument(
        "--gradients",
        choices=("auto", "exact", "head"),
        default="auto",
        help="exact: all trainable parameters; head: projected gradients of the LM head, without backward passes; "
        "auto (default): exact if all gradients fit into 8 GiB on the disk of temporary files",
    )
    parser.add_argument("--dimension", type=int, default=64, help="side of a projected gradient (default: 64)")
    parser.add_argument(
        "--theory_groups", type=int, default=16, help="groups that Theorem 1 is measured with (default: 16)"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/diagnose"), help="for the report (default: outputs/diagnose)"
    )
    return parser


def sample_groups(trainer: Any, count: int, bar: Any) -> list[Any]:
    """
    Sample completions for `count` prompts of the training split, in a random order that depends on the recipe's seed.

    Raises:
        ValueError: if there are too few prompts.
    """
    dataset = trainer.train_dataset
    if not _LEAST_GROUPS <= count <= len(dataset):
        raise ValueError(f"--groups {count} must be at least {_LEAST_GROUPS} and at most the {len(dataset)} prompts")
    rows = dataset.shuffle(seed=trainer.args.seed).select(range(count))
    per_prompt = trainer.num_generations
    at_once = max(1, (trainer.args.generation_batch_size or 1) // per_prompt)
    trainer.model.train()
    for start in bar(range(0, count, at_once), "Rollouts"):
        chosen = rows.select(range(start, min(count, start + at_once)))
        trainer.roll_out([dict(row) for row in chosen for _ in range(per_prompt)])
    groups: list[Any] = trainer.diagnosis.groups
    return groups


def _stand_at(trainer: Any, checkpoint: Path) -> None:
    """Set schedules and curriculum to the step at which the checkpoint was saved."""
    from transformers import TrainerState
    from transformers.trainer import TRAINER_STATE_NAME

    stored = checkpoint / TRAINER_STATE_NAME
    if stored.exists():
        state = TrainerState.load_from_json(str(stored))
        trainer.state.global_step, trainer.state.max_steps = state.global_step, state.max_steps
    else:
        trainer.state.max_steps = max(0, trainer.args.max_steps)


def main(args: Sequence[str] | None = None) -> None:
    """
    Diagnose a checkpoint as the command line says.

    Args:
        args (`Sequence[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with one line that names cause and cure, if an argument, the model or the data set is wrong.
    """
    given = list(sys.argv[1:] if args is None else args)
    options, overrides = make_parser().parse_known_args(given)
    # Imported here, because `--help` needs none of it.
    from ...runs.logs import configure_logging

    configure_logging()  # before PEFT is imported
    from rich.console import Console
    from tqdm.auto import tqdm

    from ... import train
    from ...runs.endings import setup_errors
    from ..diagnose.diagnosis import Settings
    from ..diagnose.noise_report import Facts, write_report

    def bar(items: Any, name: str) -> Any:
        return tqdm(items, desc=name)

    recipe = ["--config", options.config] if options.config else []
    if options.model_name_or_path:
        recipe += ["--model_name_or_path", options.model_name_or_path]
    recipe += ["--output_dir", str(options.output_dir), "--diagnose_steps", "1"]
    with setup_errors(_PROG, before="the report was written"):
        settings = Settings(options.gradients, options.dimension, options.theory_groups)
        script_args, training_args, model_args = train.make_parser(_PROG).parse_args_and_config([*recipe, *overrides])
        checkpoint = Path(model_args.model_name_or_path or "")
        if (checkpoint / "adapter_config.json").exists():
            raise ValueError(f"{checkpoint} holds an adapter: merge it into its model, and diagnose that")
        if training_args.gold_weight:
            logger.warning(
                "gold_weight=%g is left out: the gradients that are compared are those of sampled tokens",
                training_args.gold_weight,
            )
            training_args.gold_weight = 0.0
        trainer = train.make_trainer(script_args, training_args, model_args)
        assert trainer.diagnosis is not None, "diagnose_steps is set"
        _stand_at(trainer, checkpoint)
        start = time.perf_counter()
        groups = sample_groups(trainer, options.groups, bar)
        seconds = time.perf_counter() - start
        diagnosis = trainer.diagnosis.diagnose(groups, settings, bar=bar)
        if diagnosis is None:
            raise ValueError("no group has completions of different rewards, so there is no gradient: try --groups")
        minibatch = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
        command = shlex.join([*_PROG.split(), *given])
        facts = Facts(command, training_args, trainer.progress, max(1, minibatch // len(groups[0].mask)), seconds)
        report = write_report(diagnosis, facts, options.output_dir)
    console = Console(markup=False, emoji=False)  # a path may hold what rich would replace
    console.print(f"Report:  {report}", soft_wrap=True, highlight=False)
    console.print(f"Picture: {report.with_suffix('.png')}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
