"""
`rest-trl evaluate`.

```shell
rest-trl evaluate --benchmark tiny --model tiny --output_dir outputs/tiny
rest-trl evaluate --benchmark api_bank --data DIR --model MODEL --backend server --output_dir outputs/api_bank
```
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..tiny import TINY_MODEL_DIR
from ..tool_calls import FORMATS, detect_format
from . import api_bank, api_bank_scoring, tiny_benchmark
from .benchmark import Benchmark, SingleTurnBenchmark
from .generation import GenerationSettings, Generator
from .run import evaluate
from .server_backend import ServerGenerator
from .transformers_backend import TransformersGenerator
from .vllm_backend import VLLMGenerator


BENCHMARKS = ("api_bank", "tiny")
TINY = "tiny"


def make_parser() -> argparse.ArgumentParser:
    """Parser of `rest-trl evaluate`."""
    parser = argparse.ArgumentParser("rest-trl evaluate", description="Evaluate a checkpoint, with error bars.")
    parser.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    parser.add_argument("--model", required=True, help="path, Hub id, or tiny")
    parser.add_argument("--adapter", help="path or Hub id of a PEFT adapter")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the run; an interrupted one goes on")
    parser.add_argument("--data", help="API-Bank: folder with level-{1,2,3}-api_processed.json, or Hub id")
    parser.add_argument(
        "--prompt_form", choices=api_bank.PROMPT_FORMS, default="paper", help="API-Bank: as in the paper, or native"
    )
    parser.add_argument("--tool_call_format", choices=sorted(FORMATS), help="default: read off the chat template")
    parser.add_argument("--chat_template_kwargs", type=json.loads, default={}, help="JSON, such as enable_thinking")
    parser.add_argument("--backend", choices=("transformers", "server", "vllm"), default="transformers")
    parser.add_argument("--server_url", default="http://localhost:8000", help="of a vLLM server")
    parser.add_argument("--served_model", help="name under which the server has the model or adapter")
    parser.add_argument("--concurrency", type=int, default=64, help="prompts under way at the server")
    parser.add_argument("--batch_size", type=int, default=32, help="prompts at once with transformers")
    parser.add_argument("--dtype", default="auto", help="of the weights, with transformers and vllm")
    parser.add_argument("--max_new_tokens", type=int, default=2048)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only so many samples: a trial, no result")
    return parser


def make_benchmark(arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> Benchmark:
    """
    The benchmark that the command line asks for.

    Args:
        arguments (`argparse.Namespace`):
            The command line.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.

    Returns:
        [`Benchmark`]

    Raises:
        FileNotFoundError, ValueError: see [`api_bank.load_samples`].
    """
    limited = [f"only the first {arguments.limit} samples"] if arguments.limit is not None else []
    if arguments.benchmark == "tiny":
        return SingleTurnBenchmark(
            "tiny",
            ("exact",),
            tiny_benchmark.load_samples(tokenizer)[: arguments.limit],
            tiny_benchmark.score,
            {"limit": arguments.limit},
            [*limited, "synthetic: says nothing about tools of the world"],
        )
    if arguments.data is None:
        raise ValueError(
            "--benchmark api_bank needs --data, a folder with level-{1,2,3}-api_processed.json "
            "(benchmarks/API-Bank of github.com/qiancheng0/ToolRL), or a Hub id"
        )
    form = arguments.prompt_form
    samples = api_bank.load_samples(arguments.data, tokenizer, form, arguments.chat_template_kwargs)
    syntax = arguments.tool_call_format or ("rlla" if form == "paper" else detect_format(tokenizer))
    unanswerable = sum(not sample.gold["types"] and bool(sample.gold["parameters"]) for sample in samples)
    notes = [
        f"prompts in the {form} form, calls read as {syntax}",
        "soft is the authors' score: any call counts, an object without name or parameters too",
        f"{unanswerable} prompts do not show the gold tool",
    ]
    return SingleTurnBenchmark(
        "api_bank",
        ("strict", "soft"),
        samples[: arguments.limit],
        lambda sample, completion: api_bank_scoring.score(sample, completion, syntax, form),
        {"prompt_form": form, "tool_call_format": syntax, "limit": arguments.limit},
        limited + notes,
    )


def make_generator(
    arguments: argparse.Namespace, model_name: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[Generator, dict[str, Any]]:
    """
    What runs the model, and the settings that its completions depend on.

    Args:
        arguments (`argparse.Namespace`):
            The command line.
        model_name (`str`):
            Path or Hub id.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.

    Returns:
        `tuple[Generator, dict[str, Any]]`
    """
    sampling = GenerationSettings(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed)
    settings: dict[str, Any] = {
        "model": arguments.model,
        "adapter": arguments.adapter,
        "backend": arguments.backend,
        "generation": vars(sampling),
        "chat_template_kwargs": arguments.chat_template_kwargs,
    }
    if arguments.backend == "server":
        server = ServerGenerator(
            arguments.server_url, tokenizer, sampling, arguments.served_model, arguments.concurrency
        )
        return server, {**settings, "served_model": server.served_model}
    settings["dtype"] = arguments.dtype
    if arguments.backend == "vllm":
        return VLLMGenerator(model_name, tokenizer, sampling, arguments.adapter, dtype=arguments.dtype), settings
    generator = TransformersGenerator(
        model_name, tokenizer, sampling, arguments.adapter, arguments.batch_size, dtype=arguments.dtype
    )
    return generator, settings


def summary_table(summary: dict[str, Any]) -> Table:
    """
    A summary as a table.

    Args:
        summary (`dict[str, Any]`):
            Of [`~rest_trl.evaluation.run.evaluate`].

    Returns:
        [`rich.table.Table`]
    """
    adapter = f" + {summary['adapter']}" if summary["adapter"] else ""
    table = Table(title=f"{summary['benchmark']}: {summary['model']}{adapter}, percent with 95% intervals")
    for column in ("", "n", *summary["metrics"]):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, row in [*summary["subsets"].items(), ("overall", summary["overall"])]:
        table.add_row(name, str(row["n"]), *(_cell(row[metric]) for metric in summary["metrics"]))
    return table


def _cell(figure: dict[str, Any]) -> str:
    if "refused" in figure:
        return "none"
    text = f"{100 * figure['accuracy']:.1f}"
    return f"{text} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]" if "low" in figure else text


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """
    Evaluate as the command line says.

    Args:
        args (`Sequence[str]`, *optional*):
            The command line, by default the process's.

    Returns:
        `dict[str, Any]`: the summary.

    Raises:
        SystemExit: with one line that names cause and cure, if an argument, the data or the server is wrong.
    """
    arguments = make_parser().parse_args(args)
    PartialState()  # the loggers raise without it
    model_name = str(TINY_MODEL_DIR) if arguments.model == TINY else arguments.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_name)
        benchmark = make_benchmark(arguments, tokenizer)
        generator, settings = make_generator(arguments, model_name, tokenizer)
        summary = evaluate(benchmark, generator, arguments.output_dir, settings)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"rest-trl evaluate: error: {' '.join(str(error).split())}") from error
    console = Console()
    console.print(summary_table(summary))
    for metric in summary["metrics"]:
        if "refused" in summary["overall"][metric]:
            console.print(f"No overall {metric}: {summary['overall'][metric]['refused']}")
    if summary["missing"]:
        shown = ", ".join(summary["missing"][:10])
        console.print(f"{len(summary['missing'])} samples have no completion and count as wrong: {shown}")
    for note in summary["notes"]:
        console.print(f"Note: {note}")
    console.print(
        f"{summary['generated']} completions generated, {summary['reused']} reused, {summary['seconds']} s. "
        f"Per sample: {arguments.output_dir / 'samples.jsonl'}"
    )
    return summary


if __name__ == "__main__":
    main()
