"""The command line of `rest-trl evaluate`."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..tool_calls import SYNTAXES
from .api_bank import PROMPT_FORMS


_BFCL = ("bfcl_v3", "bfcl_v4")
BENCHMARKS = ("api_bank", *_BFCL, "tiny")
# What an option is for; given with anything else it is refused, for it would do nothing.
_BENCHMARK_OPTIONS = {
    "data": ("api_bank",),
    "prompt_form": ("api_bank",),
    "categories": _BFCL,
    "tool_call_syntax": ("api_bank", *_BFCL),
    "chat_template_kwargs": ("api_bank", *_BFCL),
}
_BACKEND_OPTIONS = {
    "batch_size": ("transformers",),
    "dtype": ("transformers", "vllm"),
    "vllm_kwargs": ("vllm",),
    "server_url": ("server",),
    "served_model": ("server",),
    "concurrency": ("server",),
}


def make_parser() -> argparse.ArgumentParser:
    """Parser of `rest-trl evaluate`."""
    parser = argparse.ArgumentParser("rest-trl evaluate", description="Evaluate a checkpoint, with error bars.")
    parser.add_argument("--setup", choices=_BFCL, nargs="+", help="only install what these benchmarks need")
    parser.add_argument("--setup_python", help="Python 3.11 or 3.12 to set up with (default: the running one)")
    parser.add_argument("--benchmark", choices=BENCHMARKS)
    parser.add_argument("--model", help="path, Hub id, or tiny")
    parser.add_argument("--adapter", help="path or Hub id of a PEFT adapter")
    parser.add_argument("--output_dir", type=Path, help="folder of the run; an interrupted one goes on")
    parser.add_argument("--data", help="API-Bank: folder with level-{1,2,3}-api_processed.json, or Hub id")
    parser.add_argument(
        "--categories",
        type=lambda text: text.split(","),
        help="BFCL: names or all (default), python, single_turn, non_live, live, multi_turn, with commas between",
    )
    parser.add_argument(
        "--prompt_form", choices=PROMPT_FORMS, help="API-Bank: as in the paper (default), or the model's own"
    )
    parser.add_argument(
        "--tool_call_syntax",
        choices=sorted(SYNTAXES),
        help="default: read off the chat template, API-Bank's paper form: rlla",
    )
    parser.add_argument(
        "--chat_template_kwargs", type=_json_object, help="JSON, such as '{\"enable_thinking\": false}'"
    )
    parser.add_argument("--backend", choices=("transformers", "server", "vllm"), default="transformers")
    parser.add_argument("--server_url", help="of a vLLM server (default http://localhost:8000)")
    parser.add_argument("--served_model", help="name under which the server has the model or adapter")
    parser.add_argument("--concurrency", type=_positive, help="prompts under way at the server (default 128)")
    parser.add_argument("--batch_size", type=_positive, help="prompts at once with transformers (default 32)")
    parser.add_argument("--dtype", help="of the weights, with transformers and vllm (default auto)")
    parser.add_argument("--vllm_kwargs", type=_json_object, help="JSON, such as '{\"max_model_len\": 8192}'")
    parser.add_argument("--max_new_tokens", type=_positive, default=2048)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) takes the likeliest token")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=_positive, help="only so many samples, of BFCL in each category: a trial")
    return parser


def check_options(arguments: argparse.Namespace) -> None:
    """
    Refuse options that the benchmark or the backend has no use for, and the lack of those that are needed.

    Args:
        arguments (`argparse.Namespace`):
            The command line.

    Raises:
        ValueError: if there is or lacks one.
    """
    needed = () if arguments.setup else ("benchmark", "model", "output_dir")
    if lacking := [name for name in needed if vars(arguments)[name] is None]:
        raise ValueError(f"--{lacking[0]} is needed, unless there is --setup")
    if arguments.setup_python is not None and not arguments.setup:
        raise ValueError("--setup_python is for --setup")
    for chosen, options in (("benchmark", _BENCHMARK_OPTIONS), ("backend", _BACKEND_OPTIONS)):
        value = vars(arguments)[chosen]
        for name, users in options.items():
            if vars(arguments)[name] is not None and value not in users:
                raise ValueError(f"--{name} is for --{chosen} {' or '.join(users)}, not for {value}")


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text} is no JSON object")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(f"{text} is not positive")
    return value
