"""
`rest-trl inspect`: completions with their prompts, rewards, regions and coefficients.

```shell
rest-trl inspect outputs/demo --html completions.html
rest-trl inspect completion.txt --model_name_or_path Qwen/Qwen3-1.7B --checkpoint outputs/run/checkpoint-100
rest-trl inspect completion.txt --model_name_or_path Qwen/Qwen3-1.7B --coefficients released --step 100
```

For a run with `log_completions`, it shows the tokens, regions and coefficients that training stored.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spelling import HintingParser


if TYPE_CHECKING:
    from ..tool_calls import ToolCallSyntax
    from .display.completion_files import Completion
    from .display.described import Inspected
    from .display.offline_rules import Rule

# The functions below import what they need, because these imports take seconds and `--help` needs none of them.


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = HintingParser(
        "rest-trl inspect", description="Show prompts, rewards, regions and coefficients of completions."
    )
    parser.add_argument(
        "path",
        type=Path,
        help="output directory of a run with log_completions, one of its completions parquets, a .jsonl with "
        "`completion` or `completion_ids`, or a text file",
    )
    parser.add_argument(
        "--model_name_or_path",
        help="the policy's tokenizer: a path, an id on the Hub, tiny or tiny/TASK (default: the run's)",
    )
    parser.add_argument("--model_revision", default="main", help="branch, tag or commit of the model on the Hub")
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
    parser.add_argument("--all_steps", action="store_true", help="show every table of a run (default: the last one)")
    parser.add_argument("--html", type=Path, help="also write one self-contained page to this file")
    return parser


def inspect(
    completions: "Sequence[Completion]", tokenizer: Any, syntax: "ToolCallSyntax", rule: "Rule | None"
) -> "list[Inspected]":
    """
    Find the regions of completions that do not bring them, and give the tokens the coefficients of a rule.

    Without a rule, the coefficients of the file are kept.
    """
    import torch

    from ..regions.partition import Partitioner, to_regions
    from ..rewards import is_exact
    from ..rewards.reading import parse_gold
    from ..rewards.tool_schemas import read_tools
    from .display.completion_files import encode
    from .display.described import Inspected

    partitioner = Partitioner(tokenizer, syntax)
    inspected = []
    for completion in completions:
        ids = torch.tensor([completion.completion_ids], dtype=torch.long)
        mask = torch.tensor([completion.policy], dtype=torch.long)
        reading = partitioner.read(ids, mask)
        part_ids, turns = reading.part_ids, reading.turns[0]
        if completion.part_ids is not None:
            part_ids = torch.tensor([completion.part_ids], dtype=torch.int8)
        coefficients = completion.coefficients
        if rule is not None:
            coefficients = rule(completion_ids=ids, mask=mask, part_ids=part_ids)[0].tolist()
        item = Inspected(completion, to_regions(part_ids)[0].tolist(), coefficients)
        if completion.solution is not None:
            solution = completion.solution
            text = solution if isinstance(solution, str) else solution["text"]
            gold_ids = torch.tensor([encode(text, tokenizer)], dtype=torch.long)
            regions = to_regions(partitioner(gold_ids, torch.ones_like(gold_ids)))[0].tolist()
            item = item._replace(gold_ids=gold_ids[0].tolist(), gold_region_ids=regions)
            typed = syntax.untyped and completion.tools is not None  # only tools tell strings from numbers
            tools = read_tools(completion.tools) if typed else None
            gold = parse_gold(syntax.name, solution, tools)
            if len(turns) == 1 and not gold.errors:
                parsed = turns[0].parsed if tools is None else tools.typed(turns[0].parsed)
                exact = is_exact(replace(parsed, is_cut=completion.truncated), gold)
                item = item._replace(has_gold_calls=bool(gold.calls), exact=exact)
        inspected.append(item)
    return inspected


def make_notes(items: "Sequence[Inspected]", tool_call_syntax: str, rule_name: str) -> list[str]:
    """Tell the reader where token ids, regions and coefficients come from, and how many completions are right."""
    from .display.described import exact_counts

    if all(item.completion.part_ids is not None for item in items):
        tokens = "Tokens and regions are those that training stored."
    elif any(item.completion.from_text for item in items):
        tokens = (
            f"Token ids were made from text, and may differ from the sampled ones; regions are those of the syntax "
            f"{tool_call_syntax}."
        )
    else:
        tokens = f"Tokens are those of the file; regions are those of the syntax {tool_call_syntax}."
    rule = f"Coefficients: {rule_name}."
    if all(item.coefficients is None for item in items):
        rule = (
            "Coefficients are not known: the rule entropy needs the region entropies of a run, so give "
            "--checkpoint DIR, or --weights, or another rule with --coefficients."
        )
    exact = exact_counts(items)
    return [tokens, rule, *([exact] if exact else [])]


def _tokenizer_source(path: Path) -> str:
    """The directory of the tokenizer of a run, which every checkpoint and the trained model hold."""
    run = path if path.is_dir() else path.parent
    run = run.parent if run.name == "completions" else run
    for folder in (run, *sorted(run.glob("checkpoint-*"))):
        if (folder / "tokenizer_config.json").exists():
            return str(folder)
    raise ValueError(f"{run} holds no tokenizer: name the policy with --model_name_or_path")


def _inspect(arguments: argparse.Namespace) -> "tuple[list[Inspected], list[str], Any]":
    from ..runs.inputs import find_model, load_tokenizer
    from ..runs.recipes import find_recipe
    from ..tool_calls import detect_syntax, get_syntax
    from .display.completion_files import read_completions
    from .display.offline_rules import make_rule

    if arguments.step is not None and (arguments.weights or arguments.coefficients in (None, "entropy", "uniform")):
        raise ValueError(
            "--step has no effect on these coefficients, which do not depend on the rollouts done: give "
            "--coefficients released or a rule of your own, or leave out --step"
        )
    model = find_model(arguments.model_name_or_path or _tokenizer_source(arguments.path))
    tokenizer = load_tokenizer(model, arguments.model_revision, arguments.trust_remote_code)
    completions = read_completions(arguments.path, tokenizer, arguments.limit, arguments.all_steps)
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
    items = inspect(completions, tokenizer, syntax, rule)
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
    from rich.console import Console

    from ..runs.endings import one_line
    from ..runs.files import write_atomically
    from .display.page import html_page
    from .display.terminal import described_completion, legend

    try:
        items, notes, tokenizer = _inspect(arguments)
        if arguments.html:
            title = f"Completions of {arguments.path.resolve().name}"
            write_atomically(arguments.html, html_page(title, items, tokenizer, notes))
    except (ValueError, OSError) as error:
        raise SystemExit(f"rest-trl inspect: error: {one_line(error)}") from error
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
