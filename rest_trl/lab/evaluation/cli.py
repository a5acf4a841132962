"""
`rest-trl evaluate`.

```shell
rest-trl evaluate --benchmark tiny --model tiny --output_dir outputs/tiny
rest-trl evaluate --benchmark api_bank --data DIR --model MODEL --backend server --output_dir outputs/api_bank
rest-trl evaluate --setup bfcl_v3
rest-trl evaluate --benchmark bfcl_v3 --categories multi_turn --model MODEL --output_dir outputs/bfcl_v3
rest-trl evaluate --benchmark my_package.my_module.MyBenchmark --model MODEL --output_dir outputs/mine
```
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from ...runs.inputs import find_model, load_tokenizer
from .arguments import check_options, chosen_benchmark, make_parser
from .bfcl import BFCLError
from .catalog import find_benchmarks, get_benchmark
from .generation import GenerationSettings, Generator
from .report import summary_table
from .run import evaluate
from .server_backend import ServerGenerator
from .transformers_backend import TransformersGenerator
from .vllm_backend import VLLMGenerator


def make_generator(
    arguments: argparse.Namespace, model_name: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[Generator, dict[str, Any]]:
    """
    The backend that runs the model, and the settings that its completions depend on.

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
        "revision": arguments.revision,
        "trust_remote_code": arguments.trust_remote_code,
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
    model_kwargs = {name: settings[name] for name in ("revision", "trust_remote_code", "dtype")}
    if arguments.backend == "vllm":
        settings["vllm_kwargs"] = arguments.vllm_kwargs or {}
        engine_kwargs = {**model_kwargs, "tokenizer_revision": arguments.revision, **settings["vllm_kwargs"]}
        return VLLMGenerator(model_name, tokenizer, sampling, arguments.adapter, **engine_kwargs), settings
    generator = TransformersGenerator(
        model_name, tokenizer, sampling, arguments.adapter, arguments.batch_size or 32, **model_kwargs
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
    console = Console(markup=False, emoji=False)  # paths and names are shown as they are, with their brackets
    PartialState()  # accelerate's loggers raise an error without it
    try:
        benchmarks, chosen = find_benchmarks(), chosen_benchmark(args)
        if chosen is not None:
            # The chosen benchmark comes first, so that its options win over another benchmark's of the same name.
            benchmarks = {chosen: get_benchmark(chosen), **benchmarks}
        arguments = make_parser(benchmarks).parse_args(args)
        check_options(arguments, benchmarks)
        if arguments.setup:
            for name in arguments.setup:
                console.print(f"{name} is ready: {benchmarks[name].setup(arguments.setup_python)}")
            return {}
        model_name = find_model(arguments.model)
        with ExitStack() as resources:
            tokenizer = load_tokenizer(model_name, arguments.revision, arguments.trust_remote_code)
            benchmark = benchmarks[arguments.benchmark].from_options(vars(arguments), tokenizer, resources)
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
