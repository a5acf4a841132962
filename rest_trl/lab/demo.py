"""
The demo: trains the embedded tiny model, and measures what it learned on held-out prompts.

```shell
python -m rest_trl.lab.demo --config recipes/demo.yaml
```
"""

from ..runs.logs import configure_logging  # before PEFT is imported


# isort: split

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from scipy.stats import binomtest

from ..regions.partition import partition
from ..runs.checkpoints import (
    check_output_dir,
    check_results,
    continues,
    find_checkpoint,
    naming_full_disk,
    remove_results,
)
from ..runs.endings import run_errors, setup_errors
from ..runs.files import write_atomically
from ..runs.lifetime import ending_in_time, locked
from ..runs.listing import read_table
from ..runs.progress import show_progress
from ..tool_calls import Region
from ..train import make_parser, make_trainer
from ..trainer import ResTGRPOTrainer
from .display.curves import plot_curves
from .display.terminal import colored_completion, legend
from .sampling import Exact, count_exact, end_ids, sample
from .tiny import TINY, TINY_DATASETS, is_tiny, load_tiny_dataset


HELD_OUT = 512  # number of prompts, for which the half-width of a 95% interval is at most 4.3 points
SHOWN = "demo.txt"  # output of the demo; its presence marks a directory that the next demo may overwrite
RESULTS = "demo.json"  # results, which the demos of other arms show beside their own
_BASELINE = "grpo"  # its demo is in outputs/demo-grpo, beside outputs/demo, outputs/demo-rest and those of other arms


def results_table(name: str, counts: Sequence[tuple[str, Mapping[str, Sequence[int]]]]) -> Group:
    """
    Exact completions by label and kind of gold, each how many of how many, see [`~rest_trl.lab.sampling.count_exact`],
    as accuracies with 95% Wilson intervals.
    """
    totals = {kind: total for _, exact in counts for kind, (_, total) in exact.items()}
    table = Table("policy", *(f"{kind} ({total})" for kind, total in totals.items()))
    for label, exact in counts:
        cells = []
        for count, total in exact.values():
            interval = binomtest(count, total).proportion_ci(method="wilson")
            cells.append(f"{count / total:.3f} [{interval.low:.3f}, {interval.high:.3f}]")
        table.add_row(label, *cells)
    title = f": exact calls on {sum(totals.values())} held-out prompts, sampled at temperature 1"
    return Group(Text.assemble((name, "bold"), title), table)


def arm_name(args: Any) -> str:
    """Name of the method that a demo trains with, such as `region credit, uniform`."""
    if args.credit != "completion":
        name = f"{args.credit} credit, {args.coefficients}"
    else:
        name = "GRPO" if args.coefficients == "uniform" else f"ResT ({args.coefficients})"
    return f"{name}, with the gold call" if args.gold_weight else name


def other_arm(output: Path) -> Path:
    """
    The directory of the demo that this one is compared with: the baseline's, or for the baseline that of a method
    which has run.
    """
    arms = read_table("arms")
    stem, _, arm = output.name.rpartition("-")
    method = output.with_name(stem) if stem and arm in arms else output
    baseline = method.with_name(f"{method.name}-{_BASELINE}")
    if output != baseline:
        return baseline
    methods = [method, *(method.with_name(f"{method.name}-{arm}") for arm in arms if arm != _BASELINE)]
    return next((path for path in methods if (path / RESULTS).exists()), method)


def next_command(args: Sequence[str], output: Path) -> str:
    """A command to try after a demo: the other arm, and once that is there, a study of both."""
    python = os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd() + os.sep) else "python"
    other = other_arm(output)
    if (other / RESULTS).exists():
        return f"{python} -m rest_trl.cli study --config studies --study demo --seeds 3"
    method = {"credit": "completion", "coefficients": "uniform", "gold_weight": "0"}
    replaced = {"--arm", "--credit_baseline", "--turn_discount", "--gold_variant", "--output_dir"}
    replaced |= {f"--{name}" for name in method}
    pairs = zip(["", *args], args, strict=False)
    kept = [word for before, word in pairs if not {before, word.partition("=")[0]} & replaced]
    if other.name.endswith(f"-{_BASELINE}"):
        kept += [word for name, value in method.items() for word in (f"--{name}", value)]
    return shlex.join([python, "-m", "rest_trl.lab.demo", *kept, "--output_dir", str(other)])


def main(args: list[str] | None = None) -> ResTGRPOTrainer:
    """Run the demo with a recipe and overrides, as of [`rest_trl.train`](rest_trl.train.main)."""
    console = Console(record=True, highlight=False, markup=False, emoji=False)
    start = time.perf_counter()
    prog = "rest_trl.lab.demo"
    configure_logging()
    with ExitStack() as resources:
        with setup_errors(prog):
            resources.enter_context(ending_in_time())
            script_args, training_args, model_args = make_parser(prog).parse_args_and_config(args)
            output = Path(training_args.output_dir)
            check_output_dir(output)
            resources.enter_context(locked(output))
            resume = find_checkpoint(training_args.resume_from_checkpoint, output)
            overwrites = script_args.overwrite_output_dir or (resume is None and (output / SHOWN).exists())
            check_results(output, continues(resume, output), overwrites)
            trainer = make_trainer(script_args, training_args, model_args)
            show_progress(trainer)
            if overwrites:
                remove_results(trainer)
            (output / RESULTS).unlink(missing_ok=True)
            (output / SHOWN).touch()  # marks the directory even if the demo is interrupted
        with run_errors(prog, trainer):
            name: Any = script_args.dataset_name
            _run(trainer, console, resume, name if is_tiny(name, TINY_DATASETS) else TINY)
            console.print(f"Model   {output} ({time.perf_counter() - start:.0f} seconds)", soft_wrap=True)
            console.print(f"Curves  {output / 'curves.png'}", soft_wrap=True)
            console.print(f"Next    {next_command(sys.argv[1:] if args is None else args, output)}", soft_wrap=True)
            console.save_text(str(output / SHOWN))
    return trainer


def _run(trainer: ResTGRPOTrainer, console: Console, resume: str | None, dataset_name: str) -> None:
    """Measure, train, measure again, and show what has changed."""
    args: Any = trainer.args
    output = Path(args.output_dir)
    tokenizer: Any = trainer.processing_class
    tool_call_syntax: Any = args.tool_call_syntax  # `make_trainer` has set it if the recipe does not
    held_out = load_tiny_dataset("test", size=HELD_OUT, name=dataset_name)

    ends = end_ids(trainer.model, tokenizer)

    def measure(when: str) -> tuple[torch.Tensor, dict[str, Exact]]:
        bar = f"{HELD_OUT} held-out prompts {when} training"
        length = args.max_completion_length
        ids = sample(trainer.model, tokenizer, held_out["prompt"], length, seed=0, bar=bar, add_special_tokens=True)
        return ids, count_exact(ids, held_out["solution"], tokenizer, tool_call_syntax, ends)

    _, before = measure("before")
    trainer.train(resume_from_checkpoint=resume)
    completion_ids, after = measure("after")
    name = arm_name(args)
    counts: list[tuple[str, Mapping[str, Sequence[int]]]] = [("start", before), ("end", after)]
    logs = trainer.state.log_history
    results = {"name": name, "exact": after, "log_history": logs}
    found = other_arm(output) / RESULTS
    other = json.loads(found.read_text(encoding="utf-8")) if found.exists() else None
    with naming_full_disk(f"the trained model in {output}", output):
        trainer.save_model()
        write_atomically(output / RESULTS, json.dumps(results))
        baseline, of_baseline = ([], "") if other is None else (other["log_history"], other["name"])
        plot_curves(logs, output / "curves.png", baseline, of_baseline, f"{output.name}: {name}")
    if other is not None and _totals(other["exact"]) == _totals(after):
        counts.append((f"end, {other['name']}", other["exact"]))
    console.print(results_table(name, counts))
    region_ids = partition(completion_ids, tokenizer, tool_call_syntax)
    console.print(Text.assemble("Three completions of the trained model: ", legend()))
    for ids, regions in zip(completion_ids[:3].tolist(), region_ids[:3].tolist(), strict=True):
        length = next((i for i, region in enumerate(regions) if region == Region.NONE), len(ids))
        console.rule()
        console.print(colored_completion(ids[:length], regions[:length], tokenizer))
    console.rule()


def _totals(exact: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """How many prompts there are of each kind of gold."""
    return {kind: total for kind, (_, total) in exact.items()}


if __name__ == "__main__":
    main()
