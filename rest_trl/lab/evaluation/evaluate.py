"""`rest-trl evaluate`: its command line, from `--data my.jsonl` to the table of a run."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from ...runs.endings import one_line
from ...spelling import HintingParser
from ..tiny import resolve_model
from .benchmark import Benchmark, find_benchmarks, get_benchmark, json_object, positive
from .bfcl.questions import BFCLError
from .generation import GenerationSettings, Generator, Tokenizer


# The backends that each option is for. With another backend the option would do nothing, so it is refused.
_BACKEND_OPTIONS = {
    "batch_size": ("transformers",),
    "dtype": ("transformers", "vllm"),
    "vllm_kwargs": ("vllm",),
    "server_url": ("server",),
    "served_model": ("server",),
    "concurrency": ("server",),
}


def chosen_benchmark(args: Sequence[str] | None) -> str | None:
    """The benchmark, which decides what other options there are: `--benchmark`, or `data` for `--data` alone."""
    parser = HintingParser("rest-trl evaluate", add_help=False, allow_abbrev=False)
    parser.add_argument("--benchmark")
    parser.add_argument("--data")
    known = parser.parse_known_args(args)[0]
    return "data" if known.benchmark is None and known.data is not None else known.benchmark


def make_parser(benchmarks: Mapping[str, type[Benchmark]]) -> argparse.ArgumentParser:
    """The parser for these benchmarks. Of options with the same name, the first benchmark's definition counts."""
    # Abbreviations are refused, because `chosen_benchmark` would not see that of `--benchmark`.
    description = "Evaluate a checkpoint, with error bars."
    parser = HintingParser("rest-trl evaluate", description=description, allow_abbrev=False)
    installable = sorted(name for name, benchmark in benchmarks.items() if benchmark.needs_setup)
    parser.add_argument("--setup", choices=installable, nargs="+", help="only install what these benchmarks need")
    parser.add_argument("--setup_python", help="Python 3.11 or 3.12 to set up with (default: the running one)")
    parser.add_argument("--benchmark", help=f"{', '.join(sorted(benchmarks))}, or the dotted path of your own")
    parser.add_argument("--model_name_or_path", help="path, Hub id, tiny or tiny/TASK")
    parser.add_argument("--revision", help="branch, tag or commit of the model and its tokenizer on the Hub")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run the Python code that comes with the model"
    )
    parser.add_argument("--adapter", help="path or Hub id of a PEFT adapter")
    parser.add_argument("--output_dir", type=Path, help="folder of the run; an interrupted one is continued")
    for name, options in _benchmark_options(benchmarks).items():
        parser.add_argument(f"--{name}", **options)
    parser.add_argument("--backend", choices=("transformers", "server", "vllm"), default="transformers")
    parser.add_argument("--server_url", help="of a vLLM server (default http://localhost:8000)")
    parser.add_argument("--served_model", help="name under which the server has the model or adapter")
    parser.add_argument("--concurrency", type=positive, help="prompts under way at the server (default 128)")
    parser.add_argument("--batch_size", type=positive, help="prompts at once with transformers (default 32)")
    parser.add_argument("--dtype", help="of the weights, with transformers and vllm (default auto)")
    parser.add_argument("--vllm_kwargs", type=json_object, help="JSON, such as '{\"max_model_len\": 8192}'")
    parser.add_argument("--max_new_tokens", type=positive, default=2048)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) takes the likeliest token")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=positive, help="only the first samples, of BFCL in each category, as a trial")
    return parser


def check_options(arguments: argparse.Namespace, benchmarks: Mapping[str, type[Benchmark]]) -> None:
    """Refuse options that do nothing with the chosen benchmark, backend or model, and the lack of needed ones."""
    if arguments.setup:
        parser = make_parser(benchmarks)
        for name, value in vars(arguments).items():
            if name not in ("setup", "setup_python") and value != parser.get_default(name):
                raise ValueError(f"--{name} is for a run, and --setup only installs: leave out one of them")
        return
    if lacking := [
        name for name in ("benchmark", "model_name_or_path", "output_dir") if vars(arguments)[name] is None
    ]:
        raise ValueError(f"--{lacking[0]} is needed, unless there is --setup")
    if arguments.setup_python is not None:
        raise ValueError("--setup_python is for --setup")
    benchmark_options = {
        name: [path for path, benchmark in benchmarks.items() if name in benchmark.options]
        for name in _benchmark_options(benchmarks)
    }
    for chosen, options in (("benchmark", benchmark_options), ("backend", _BACKEND_OPTIONS)):
        value = vars(arguments)[chosen]
        for name, users in options.items():
            if vars(arguments)[name] is not None and value not in users:
                raise ValueError(f"--{name} is for --{chosen} {' or '.join(users)}, not for {value}")
    if arguments.revision is not None and Path(resolve_model(arguments.model_name_or_path)).is_dir():
        raise ValueError(
            f"--revision is for a model on the Hub, not for {arguments.model_name_or_path}, which is a folder here"
        )


def _benchmark_options(benchmarks: Mapping[str, type[Benchmark]]) -> dict[str, Mapping]:
    options: dict[str, Mapping] = {}
    for benchmark in benchmarks.values():
        options = {**benchmark.options, **options}
    return options


def make_generator(
    arguments: argparse.Namespace, model_name: str, tokenizer: Tokenizer
) -> tuple[Generator, dict[str, Any]]:
    """The backend that runs the model, and the settings that its completions depend on."""
    sampling = GenerationSettings(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed)
    settings: dict[str, Any] = {
        "model": arguments.model_name_or_path,
        "revision": arguments.revision,
        "trust_remote_code": arguments.trust_remote_code,
        "adapter": arguments.adapter,
        "backend": arguments.backend,
        "generation": vars(sampling),
    }
    if arguments.backend == "server":
        from .server_backend import ServerGenerator

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
    from . import local_backends

    settings["dtype"] = arguments.dtype or "auto"
    model_kwargs = {name: settings[name] for name in ("revision", "trust_remote_code", "dtype")}
    if arguments.backend == "vllm":
        settings["vllm_kwargs"] = arguments.vllm_kwargs or {}
        engine_kwargs = {**model_kwargs, "tokenizer_revision": arguments.revision, **settings["vllm_kwargs"]}
        return local_backends.VLLMGenerator(
            model_name, tokenizer, sampling, arguments.adapter, **engine_kwargs
        ), settings
    generator = local_backends.TransformersGenerator(
        model_name, tokenizer, sampling, arguments.adapter, arguments.batch_size or 32, **model_kwargs
    )
    return generator, settings


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """
    Evaluate as the command line says and return the summary, which is empty with `--setup`.

    What is wrong is a `SystemExit` with one line that names cause and cure.
    """
    console = Console(markup=False, emoji=False)  # paths and names are shown as they are, with their brackets
    try:
        benchmarks, chosen = find_benchmarks(), chosen_benchmark(args)
        if chosen is not None:
            # The chosen benchmark comes first, so that its options win over another benchmark's of the same name.
            benchmarks = {chosen: get_benchmark(chosen), **benchmarks}
        arguments = make_parser(benchmarks).parse_args(args)
        arguments.benchmark = chosen
        check_options(arguments, benchmarks)
        if arguments.setup:
            for name in arguments.setup:
                console.print(f"{name} is ready: {benchmarks[name].setup(arguments.setup_python)}")
            return {}
        # Imported only now, because they take seconds, and `--help` or a wrong option need none of them.
        from accelerate import PartialState

        from ...runs.inputs import find_model, load_tokenizer
        from .summary import evaluate, summary_table

        PartialState()  # the loggers of loaders of data raise an error without it
        model_name = find_model(arguments.model_name_or_path)
        with ExitStack() as resources:
            tokenizer = load_tokenizer(model_name, arguments.revision, arguments.trust_remote_code)
            benchmark = benchmarks[arguments.benchmark].from_options(vars(arguments), tokenizer, resources)
            generator, settings = make_generator(arguments, model_name, tokenizer)
            summary = evaluate(benchmark, generator, arguments.output_dir, settings)
    except (ValueError, OSError, ImportError, BFCLError) as error:
        raise SystemExit(f"rest-trl evaluate: error: {one_line(error)}") from error
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
