"""
The demo: trains the embedded tiny model, and measures what it learned on held-out prompts.

```shell
python -m rest_trl.demo --config recipes/demo.yaml
```
"""

from .runs.held_out import count_exact, sample
from .runs.logs import configure_logging  # before PEFT is imported


# isort: split

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from .display.terminal import colored_completion, legend
from .regions.partition import partition
from .runs.checkpoints import find_checkpoint, naming_full_disk
from .runs.checks import check_packages
from .runs.endings import run_errors, setup_errors
from .runs.progress import show_progress
from .runs.results import check_output_dir, remove_results
from .tiny import TINY, TINY_DATASETS, is_tiny, load_tiny_dataset
from .tool_calls import Region
from .train import make_parser, make_trainer
from .trainer import ResTGRPOTrainer


HELD_OUT = 512  # prompts: a worst-case 95% half-width of 4.3 points


SHOWN = "demo.txt"  # what the demo has shown; it tells the demo's directory, which is used again, from another run's


def results_table(name: str, counts: Sequence[tuple[str, int]], total: int) -> Table:
    """
    Accuracies with 95% Wilson intervals.

    Args:
        name (`str`):
            Title of the table.
        counts (`Sequence[tuple[str, int]]`):
            Label and number of exact completions.
        total (`int`):
            Number of prompts.

    Returns:
        [`rich.table.Table`]
    """
    from scipy.stats import binomtest  # of the extra `demo`

    table = Table(title=f"{name}: exact calls on {total} held-out prompts, sampled at temperature 1")
    for column in ("policy", "accuracy", "95% interval"):
        table.add_column(column)
    for label, count in counts:
        interval = binomtest(count, total).proportion_ci(method="wilson")
        table.add_row(label, f"{count / total:.3f}", f"[{interval.low:.3f}, {interval.high:.3f}]")
    return table


def main(args: list[str] | None = None) -> ResTGRPOTrainer:
    """
    Run the demo.

    Args:
        args (`list[str]`, *optional*):
            A recipe and overrides, as of [`rest_trl.train`](rest_trl.train.main).

    Returns:
        [`ResTGRPOTrainer`]: the trainer after training.
    """
    console = Console(record=True)
    start = time.perf_counter()
    prog = "rest_trl.demo"
    configure_logging()
    with setup_errors(prog):
        check_packages("demo", "matplotlib", "scipy")
        script_args, training_args, model_args = make_parser(prog).parse_args_and_config(args)
        output = Path(training_args.output_dir)
        resume = find_checkpoint(training_args.resume_from_checkpoint, output)
        overwrites = script_args.overwrite_output_dir or (resume is None and (output / SHOWN).exists())
        check_output_dir(output, resume is not None, overwrites)
        trainer = make_trainer(script_args, training_args, model_args)
        show_progress(trainer)
        if overwrites:
            remove_results(trainer)
        (output / SHOWN).touch()  # a demo that is interrupted is also one
    with run_errors(prog, trainer):
        name: Any = script_args.dataset_name
        _run(trainer, console, resume, name if is_tiny(name, TINY_DATASETS) else TINY)
        console.print(f"Curves: {output / 'curves.png'}. Model: {output}. {time.perf_counter() - start:.0f} seconds.")
        console.save_text(str(output / SHOWN))
    return trainer


def _run(trainer: ResTGRPOTrainer, console: Console, resume: str | None, dataset_name: str) -> None:
    """Measure, train, measure again, and show what has changed."""
    from .display.curves import plot_curves  # of the extra `demo`

    args: Any = trainer.args
    output = Path(args.output_dir)
    tokenizer: Any = trainer.processing_class
    tool_call_syntax: Any = args.tool_call_syntax  # detected with the trainer, if not set
    held_out = load_tiny_dataset("test", size=HELD_OUT, name=dataset_name)

    def measure() -> tuple[torch.Tensor, int]:
        ids = sample(trainer.model, tokenizer, held_out["prompt"], args.max_completion_length, seed=0)
        return ids, count_exact(ids, held_out["solution"], tokenizer, tool_call_syntax)

    _, before = measure()
    trainer.train(resume_from_checkpoint=resume)
    completion_ids, after = measure()
    with naming_full_disk(f"the trained model in {output}", output):
        trainer.save_model()
        plot_curves(trainer.state.log_history, output / "curves.png")
    name = "GRPO" if args.coefficients == "uniform" else f"ResT ({args.coefficients})"
    console.print(results_table(name, [("start", before), ("end", after)], HELD_OUT))
    region_ids = partition(completion_ids, tokenizer, tool_call_syntax)
    console.print("Three completions of the trained model:", legend())
    for ids, regions in zip(completion_ids[:3].tolist(), region_ids[:3].tolist(), strict=True):
        length = next((i for i, region in enumerate(regions) if region == Region.NONE), len(ids))
        console.rule()
        console.print(colored_completion(ids[:length], regions[:length], tokenizer))
    console.rule()


if __name__ == "__main__":
    main()
