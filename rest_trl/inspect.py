"""
`rest-trl inspect`: completions with the regions and coefficients that training would give them.

```shell
rest-trl inspect completions_00010.parquet --model Qwen/Qwen3-1.7B --html completions.html
rest-trl inspect completion.txt --model Qwen/Qwen3-1.7B --coefficients released --step 100
```
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .display.page import Inspected, colored_completion, html_page, legend
from .regions.coefficients import normalize, released_coefficients, uniform_coefficients
from .regions.partition import Partitioner, to_regions
from .tool_calls import SYNTAXES, detect_syntax, get_syntax


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        "rest-trl inspect", description="Show the regions and coefficients of completions."
    )
    parser.add_argument(
        "path",
        type=Path,
        help="a completions parquet (log_completions), a .jsonl with `completion` or `completion_ids`, or a text file",
    )
    parser.add_argument("--model", required=True, help="tokenizer: a path, or an id on the Hub")
    parser.add_argument("--tool_call_syntax", choices=sorted(SYNTAXES), help="wire syntax (default: the model's)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--coefficients",
        choices=["released", "uniform"],
        default="released",
        help="as in training (default: released)",
    )
    group.add_argument("--weights", type=float, nargs=5, metavar="W", help="weight per region, in the legend's order")
    parser.add_argument("--step", type=int, default=0, help="rollouts done, for released")
    parser.add_argument("--limit", type=int, default=10, help="completions to show (default: 10)")
    parser.add_argument("--html", type=Path, help="also write one self-contained page to this file")
    return parser


def read_completions(path: Path, tokenizer: PreTrainedTokenizerBase, limit: int) -> list[tuple[str, list[int]]]:
    """
    Completions of a file, as titles and token ids.

    Text is tokenised here: unlike sampled ids it does not say which tokens it was made of.

    Args:
        path (`Path`):
            A parquet with a column `completion`, a .jsonl with `completion` or `completion_ids`, or a text.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        limit (`int`):
            Completions to read at most.

    Returns:
        `list[tuple[str, list[int]]]`

    Raises:
        ValueError: if a row has neither column.
        FileNotFoundError: if there is no such file.
    """
    if path.suffix == ".parquet":
        import pandas

        rows: list[dict[str, Any]] = pandas.read_parquet(path).head(limit).to_dict("records")
    elif path.suffix in (".jsonl", ".json"):
        with path.open() as file:
            rows = [json.loads(line) for _, line in zip(range(limit), file, strict=False)]
    else:
        rows = [{"completion": path.read_text()}]
    completions = []
    for index, row in enumerate(rows):
        step = f", step {row['step']}" if "step" in row else ""
        if "completion_ids" in row:
            ids = [int(token_id) for token_id in row["completion_ids"]]
        elif "completion" in row:
            ids = _encode(row["completion"], tokenizer)
        else:
            raise ValueError(f"{path}, row {index}: needs a column completion or completion_ids, has {sorted(row)}")
        completions.append((f"Completion {index}{step}", ids))
    return completions


def _encode(completion: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    text = completion if isinstance(completion, str) else "".join(message["content"] or "" for message in completion)
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def inspect(
    completions: list[tuple[str, list[int]]],
    tokenizer: PreTrainedTokenizerBase,
    tool_call_syntax: str,
    coefficients: str,
    step: int = 0,
    weights: list[float] | None = None,
) -> list[Inspected]:
    """
    Regions and coefficients of completions.

    Args:
        completions (`list[tuple[str, list[int]]]`):
            Titles and token ids.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        tool_call_syntax (`str`):
            Name of the wire syntax.
        coefficients (`str`):
            `"released"` or `"uniform"`.
        step (`int`, *optional*, defaults to `0`):
            Rollouts done.
        weights (`list[float]` of length 5, *optional*):
            Weight of each region but `NONE`, in the place of `coefficients`; what training logs as
            `rest/coefficient/<region>`.

    Returns:
        `list[Inspected]`
    """
    partitioner = Partitioner(tokenizer, get_syntax(tool_call_syntax))
    inspected = []
    for title, completion_ids in completions:
        ids = torch.tensor([completion_ids], dtype=torch.long)
        mask = torch.ones_like(ids)
        part_ids = partitioner(ids, mask)
        region_ids = to_regions(part_ids)
        if weights is not None:
            values = normalize(torch.tensor([0.0, *weights])[region_ids.long()], mask)
        elif coefficients == "released":
            values = released_coefficients(mask=mask, part_ids=part_ids, step=step)
        else:
            values = uniform_coefficients(mask)
        inspected.append(Inspected(title, completion_ids, region_ids[0].tolist(), values[0].tolist()))
    return inspected


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
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        tool_call_syntax = arguments.tool_call_syntax or detect_syntax(tokenizer)
        items = inspect(
            read_completions(arguments.path, tokenizer, arguments.limit),
            tokenizer,
            tool_call_syntax,
            arguments.coefficients,
            arguments.step,
            arguments.weights,
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"rest-trl inspect: error: {' '.join(str(error).split())}") from error
    console = Console()
    console.print(legend())
    for item in items:
        console.rule(item.title)
        console.print(colored_completion(item.completion_ids, item.region_ids, tokenizer))
    if arguments.html:
        temporary = arguments.html.with_suffix(".tmp")
        temporary.write_text(html_page(f"{arguments.path.name} ({tool_call_syntax})", items, tokenizer))
        os.replace(temporary, arguments.html)
        console.print(f"Page: {arguments.html}")
