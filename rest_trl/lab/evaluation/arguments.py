"""The command line of `rest-trl evaluate`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..tiny import resolve_model
from .benchmark import Benchmark
from .options import json_object, positive


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
    """
    The value of `--benchmark`, which decides what other options there are.

    Args:
        args (`Sequence[str]`, *optional*):
            The command line, by default the process's.

    Returns:
        `str` or `None`
    """
    parser = argparse.ArgumentParser("rest-trl evaluate", add_help=False, allow_abbrev=False)
    parser.add_argument("--benchmark")
    return parser.parse_known_args(args)[0].benchmark


def make_parser(benchmarks: Mapping[str, type[Benchmark]]) -> argparse.ArgumentParser:
    """
    Parser of `rest-trl evaluate`.

    Args:
        benchmarks (`Mapping[str, type[Benchmark]]`):
            The benchmarks that it takes, by name or dotted path. Where two of them have an option of the same name,
            the definition of the first one counts.

    Returns:
        `argparse.ArgumentParser`
    """
    # Abbreviations are refused, because `chosen_benchmark` would not see that of `--benchmark`.
    description = "Evaluate a checkpoint, with error bars."
    parser = argparse.ArgumentParser("rest-trl evaluate", description=description, allow_abbrev=False)
    installable = sorted(name for name, benchmark in benchmarks.items() if benchmark.needs_setup)
    parser.add_argument("--setup", choices=installable, nargs="+", help="only install what these benchmarks need")
    parser.add_argument("--setup_python", help="Python 3.11 or 3.12 to set up with (default: the running one)")
    parser.add_argument("--benchmark", help=f"{', '.join(sorted(benchmarks))}, or the dotted path of your own")
    parser.add_argument("--model", help="path, Hub id, tiny or tiny/TASK")
    parser.add_argument("--revision", help="branch, tag or commit of the model and its tokenizer on the Hub")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run the Python code that comes with the model"
    )
    parser.add_argument("--adapter", help="path or Hub id of a PEFT adapter")
    parser.add_argument("--output_dir", type=Path, help="folder of the run; an interrupted one goes on")
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
    parser.add_argument("--limit", type=positive, help="only so many samples, of BFCL in each category: a trial")
    return parser


def check_options(arguments: argparse.Namespace, benchmarks: Mapping[str, type[Benchmark]]) -> None:
    """
    Refuse options that would do nothing with the chosen benchmark, backend or model, and the lack of needed ones.

    Args:
        arguments (`argparse.Namespace`):
            The command line.
        benchmarks (`Mapping[str, type[Benchmark]]`):
            The benchmarks that [`make_parser`] was given.

    Raises:
        ValueError: if an option is useless or lacking.
    """
    if arguments.setup:
        parser = make_parser(benchmarks)
        for name, value in vars(arguments).items():
            if name not in ("setup", "setup_python") and value != parser.get_default(name):
                raise ValueError(f"--{name} is for a run, and --setup only installs: leave out one of them")
        return
    if lacking := [name for name in ("benchmark", "model", "output_dir") if vars(arguments)[name] is None]:
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
    if arguments.revision is not None and Path(resolve_model(arguments.model)).is_dir():
        raise ValueError(f"--revision is for a model on the Hub, not for {arguments.model}, which is a folder here")


def _benchmark_options(benchmarks: Mapping[str, type[Benchmark]]) -> dict[str, Mapping]:
    options: dict[str, Mapping] = {}
    for benchmark in benchmarks.values():
        options = {**benchmark.options, **options}
    return options
