"""
`rest-trl inspect`: completions with their prompts, rewards, regions and coefficients.

```shell
rest-trl inspect outputs/demo --model tiny --html completions.html
rest-trl inspect completion.txt --model Qwen/Qwen3-1.7B --checkpoint outputs/run/checkpoint-100
rest-trl inspect completion.txt --model Qwen/Qwen3-1.7B --coefficients released --step 100
```

For a run with `log_completions`, it shows the tokens, regions and coefficients that training stored.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from ..regions.partition import Partitioner, to_regions
from ..runs.files import write_atomically
from ..runs.inputs import find_model, load_tokenizer
from ..runs.recipes import find_recipe
from ..tool_calls import detect_syntax, get_syntax
from .display.completions import Completion, Inspected, read_completions
from .display.offline_rules import Rule, make_rule
from .display.page import html_page
from .display.terminal import described_completion, legend


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        "rest-trl inspect", description="Show prompts, rewards, regions and coefficients of completions."
    )
    parser.add_argument(
        "path",
        type=Path,
        help="output directory of a run with log_completions, one of its completions parquets, a .jsonl with "
        "`completion` or `completion_ids`, or a text file",
    )
    parser.add_argument(
        "--model", required=True, help="the policy's tokenizer: a path, an id on the Hub, tiny or tiny/TASK"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit of the model on the Hub")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code that the tokenizer brings")
    parser.add_argument("--tool_call_syntax", help="wire syntax (default: the model's)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--coefficients",
        help="a rule, as in training: entropy, released, uniform or a dotted path (default: the coefficients that "
        "training stored, else entropy)",
    )
    group.add_argument("--weights", type=float, nargs=5, metavar="W", help="weight per region, in the legend's order")
    parser.add_argument(
        "--checkpoint", type=Path, help="directory with a trainer_state.json, for region entropies and progress"
    )
    parser.add_argument("--config", help="recipe of the run, a file or a name, for the settings of the rule entropy")
    parser.add_argument("--step", type=int, help="rollouts done, for released (default: the checkpoint's, else 0)")
    parser.add_argument("--limit", type=int, default=10, help="completions to show (default: 10)")
    parser.add_argument("--html", type=Path, help="also write one self-contained page to this file")
    return parser


def inspect(completions: Sequence[Completion], partitioner: Partitioner, rule: Rule | None) -> list[Inspected]:
    """
    Regions and coefficients of completions.

    Args:
        completions (`Sequence[Completion]`):
            Completions of a file. Where the file has the parts of their tokens, these are used.
        partitioner ([`~rest_trl.regions.partition.Partitioner`]):
            Finds the parts of the tokens of all other completions.
        rule (`Callable`, *optional*):
            Coefficients of one completion, see [`~rest_trl.lab.display.offline_rules.make_rule`]. By default, the
            coefficients of the file are kept.

    Returns:
        `list[Inspected]`

    Raises:
        ValueError: if the rule fails.
    """
    inspected = []
    for completion in completions:
        ids = torch.tensor([completion.completion_ids], dtype=torch.long)
        mask = torch.tensor([completion.policy], dtype=torch.long)
        if completion.part_ids is None:
            part_ids = partitioner(ids, mask)
        else:
            part_ids = torch.tensor([completion.part_ids], dtype=torch.int8)
        coefficients = completion.coefficients
        if rule is not None:
            coefficients = rule(completion_ids=ids, mask=mask, part_ids=part_ids)[0].tolist()
        inspected.append(Inspected(completion, to_regions(part_ids)[0].tolist(), coefficients))
    return inspected


def make_notes(items: Sequence[Inspected], tool_call_syntax: str, rule_name: str) -> list[str]:
    """
    Notes that tell the reader where the token ids, regions and coefficients come from.

    Args:
        items (`Sequence[Inspected]`):
            The completions that are shown.
        tool_call_syntax (`str`):
            Name of the wire syntax.
        rule_name (`str`):
            Where the coefficients come from.

    Returns:
        `list[str]`
    """
    notes = []
    if all(item.completion.part_ids is not None for item in items):
        notes.append("Tokens and regions are those that training stored.")
    elif any(item.completion.from_text for item in items):
        notes.append(
            f"Token ids were made from text, and may differ from the sampled ones; regions are those of the syntax "
            f"{tool_call_syntax}."
        )
    else:
        notes.append(f"Tokens are those of the file; regions are those of the syntax {tool_call_syntax}.")
    if any(item.coefficients is not None for item in items):
        notes.append(f"Coefficients: {rule_name}.")
    else:
        notes.append(
            "Coefficients are not known: the rule entropy needs the region entropies of a run, so give "
            "--checkpoint DIR, or --weights, or another rule with --coefficients."
        )
    return notes


def _inspect(arguments: argparse.Namespace) -> tuple[list[Inspected], list[str], PreTrainedTokenizerBase]:
    if arguments.step is not None and (arguments.weights or arguments.coefficients in (None, "entropy", "uniform")):
        raise ValueError(
            "--step has no effect on these coefficients, which do not depend on the rollouts done: give "
            "--coefficients released or a rule of your own, or leave out --step"
        )
    tokenizer = load_tokenizer(find_model(arguments.model), arguments.revision, arguments.trust_remote_code)
    completions = read_completions(arguments.path, tokenizer, arguments.limit)
    syntax = get_syntax(arguments.tool_call_syntax or detect_syntax(tokenizer))
    chosen = arguments.coefficients or arguments.weights or arguments.checkpoint or arguments.config
    if chosen is None and all(completion.coefficients is not None for completion in completions):
        rule, name = None, "those that training stored, of the first update on these completions"
    else:
        rule, name = make_rule(
            arguments.coefficients or "entropy",
            weights=arguments.weights,
            checkpoint=arguments.checkpoint,
            recipe=None if arguments.config is None else find_recipe(arguments.config),
            step=arguments.step,
        )
        if rule is None:
            completions = [completion._replace(coefficients=None) for completion in completions]
    items = inspect(completions, Partitioner(tokenizer, syntax), rule)
    return items, make_notes(items, syntax.name, name), tokenizer


def main(args: list[str] | None = None) -> None:
    """
    Show completions as the command line says.

    Args:
        args (`list[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with one line, if the file or an argument is wrong.
    """
    arguments = make_parser().parse_args(args)
    try:
        items, notes, tokenizer = _inspect(arguments)
        if arguments.html:
            title = f"Completions of {arguments.path.resolve().name}"
            write_atomically(arguments.html, html_page(title, items, tokenizer, notes))
    except (ValueError, OSError) as error:
        raise SystemExit(f"rest-trl inspect: error: {' '.join(str(error).split())}") from error
    console = Console(markup=False, emoji=False)  # files and paths may hold what rich would replace
    console.print(legend())
    for note in notes:
        console.print(note, highlight=False)
    for item in items:
        console.rule(item.completion.title)
        console.print(described_completion(item, tokenizer))
    if arguments.html:
        console.print(f"Page: {arguments.html}")


if __name__ == "__main__":
    main()
