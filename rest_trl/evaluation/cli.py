"""
`rest-trl evaluate`.

```shell
rest-trl evaluate --benchmark tiny --model tiny --output_dir outputs/tiny
rest-trl evaluate --benchmark api_bank --data DIR --model MODEL --backend server --output_dir outputs/api_bank
rest-trl evaluate --setup bfcl_v3
rest-trl evaluate --benchmark bfcl_v3 --categories multi_turn --model MODEL --output_dir outputs/bfcl_v3
```
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..tiny import TINY_MODEL_DIR
from ..tool_calls import detect_syntax
from . import api_bank, api_bank_scoring, tiny_benchmark
from .arguments import check_options, make_parser
from .benchmark import Benchmark, SingleTurnBenchmark
from .bfcl import BFCLBenchmark, BFCLError, OfficialBFCL, expand_categories, setup
from .generation import GenerationSettings, Generator
from .report import summary_table
from .run import evaluate
from .server_backend import ServerGenerator
from .transformers_backend import TransformersGenerator
from .vllm_backend import VLLMGenerator


def make_benchmark(
    arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, resources: ExitStack
) -> Benchmark:
    """
    The benchmark that the command line asks for.

    Args:
        arguments (`argparse.Namespace`):
            The command line.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        resources (`ExitStack`):
            Takes what is to be closed when the benchmark has been run.

    Returns:
        [`Benchmark`]

    Raises:
        FileNotFoundError, ValueError: see [`api_bank.load_samples`], [`BFCLBenchmark`].
    """
    limited = [f"only the first {arguments.limit} samples"] if arguments.limit is not None else []
    if arguments.benchmark == "tiny":
        return SingleTurnBenchmark(
            "tiny",
            tiny_benchmark.METRICS,
            tiny_benchmark.load_samples(tokenizer)[: arguments.limit],
            tiny_benchmark.score,
            {"limit": arguments.limit},
            [*limited, "synthetic: says nothing about tools of the world"],
        )
    if arguments.benchmark.startswith("bfcl"):
        version = arguments.benchmark.removeprefix("bfcl_")
        categories = expand_categories(version, arguments.categories or ["all"])
        syntax = arguments.tool_call_syntax or detect_syntax(tokenizer)
        official = resources.enter_context(OfficialBFCL(version))
        return BFCLBenchmark(official, categories, tokenizer, syntax, arguments.chat_template_kwargs, arguments.limit)
    if arguments.data is None:
        raise ValueError(
            "--benchmark api_bank needs --data, a folder with level-{1,2,3}-api_processed.json "
            "(benchmarks/API-Bank of github.com/qiancheng0/ToolRL), or a Hub id"
        )
    form, template_kwargs = arguments.prompt_form or "paper", arguments.chat_template_kwargs or {}
    samples = api_bank.load_samples(arguments.data, tokenizer, form, template_kwargs)
    syntax = arguments.tool_call_syntax or ("rlla" if form == "paper" else detect_syntax(tokenizer))
    unanswerable = sum(not sample.gold["types"] and bool(sample.gold["parameters"]) for sample in samples)
    notes = [
        f"prompts in the {form} form, calls read as {syntax}",
        "soft is the authors' score: any call counts, an object without name or parameters too",
        f"{unanswerable} prompts do not show the gold tool",
    ]
    return SingleTurnBenchmark(
        "api_bank",
        api_bank_scoring.METRICS,
        samples[: arguments.limit],
        lambda sample, completion: api_bank_scoring.score(sample, completion, syntax, form),
        {
            "prompt_form": form,
            "tool_call_syntax": syntax,
            "chat_template_kwargs": template_kwargs,
            "limit": arguments.limit,
        },
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
    }
    if arguments.backend == "server":
        server = ServerGenerator(
            arguments.server_url or "http://localhost:8000",
            model_name,
            tokenizer,
            sampling,
            arguments.adapter,
            arguments.served_model,
            arguments.concurrency or 128,
        )
        return server, {**settings, "served_model": server.served_model}
    settings["dtype"] = arguments.dtype or "auto"
    if arguments.backend == "vllm":
        settings["vllm_kwargs"] = arguments.vllm_kwargs or {}
        engine_kwargs = {"dtype": settings["dtype"], **settings["vllm_kwargs"]}
        return VLLMGenerator(model_name, tokenizer, sampling, arguments.adapter, **engine_kwargs), settings
    generator = TransformersGenerator(
        model_name, tokenizer, sampling, arguments.adapter, arguments.batch_size or 32, dtype=settings["dtype"]
    )
    return generator, settings


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """
    Evaluate as the command line says.

    Args:
        args (`Sequence[str]`, *optional*):
            The command line, by default the process's.

    Returns:
        `dict[str, Any]`: the summary; empty with `--setup`.

    Raises:
        SystemExit: with one line that names cause and cure, if an argument, the data or the server is wrong.
    """
    arguments = make_parser().parse_args(args)
    PartialState()  # the loggers raise without it
    model_name = str(TINY_MODEL_DIR) if arguments.model == "tiny" else arguments.model
    console = Console()
    try:
        check_options(arguments)
        if arguments.setup:
            for name in arguments.setup:
                python = setup(name.removeprefix("bfcl_"), python=arguments.setup_python)
                console.print(f"{name} is ready: {python}")
            return {}
        with ExitStack() as resources:
            tokenizer = AutoTokenizer.from_pretrained(model_name)
            benchmark = make_benchmark(arguments, tokenizer, resources)
            generator, settings = make_generator(arguments, model_name, tokenizer)
            summary = evaluate(benchmark, generator, arguments.output_dir, settings)
    except (ValueError, OSError, ImportError, BFCLError) as error:
        raise SystemExit(f"rest-trl evaluate: error: {' '.join(str(error).split())}") from error
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
