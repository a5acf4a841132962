"""The vLLM server: reachable, and set up as TRL's server mode needs it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from .finding import Finding, brief


_TIMEOUT = 10  # seconds
_COMMAND = (
    'VLLM_SERVER_DEV_MODE=1 vllm serve {model} --weight-transfer-config \'{{"backend": "nccl"}}\' '
    "--logprobs-mode processed_logprobs --max-logprobs -1"
)


def server_url(recipe: dict[str, Any]) -> str | None:
    """
    Where a run looks for its server.

    Args:
        recipe (`dict[str, Any]`):
            All arguments, defaults included.

    Returns:
        `str`, or `None` if the run has no server.
    """
    if not recipe.get("use_vllm") or recipe.get("vllm_mode") != "server":
        return None
    return recipe.get("vllm_server_base_url") or f"http://{recipe['vllm_server_host']}:{recipe['vllm_server_port']}"


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        content: bytes = response.read()
        return content


def server_findings(url: str, recipe: dict[str, Any]) -> Iterator[Finding]:
    """
    What a server can do for a run.

    Args:
        url (`str`):
            Its address.
        recipe (`dict[str, Any]`):
            Arguments of the run, empty if there is none.
    """
    url = url.rstrip("/")
    model = recipe.get("model_name_or_path")
    restart = "restart it: " + _COMMAND.format(model=model or "MODEL")
    try:
        _get(f"{url}/health")
        names = [entry["id"] for entry in json.loads(_get(f"{url}/v1/models"))["data"]]
    except (OSError, ValueError) as error:  # URLError, HTTPError and timeouts are OSErrors; a bad URL a ValueError
        start = "start it (with the address and port of the recipe): " + _COMMAND.format(model=model or "MODEL")
        yield Finding("Server", "problem", f"{url} does not answer: {brief(error)}", start)
        return
    except (KeyError, TypeError) as error:
        yield Finding("Server", "problem", f"{url} is no vLLM server: {brief(error)}", "give its address")
        return
    yield Finding("Server", "ok", f"{url} answers and serves {', '.join(map(str, names))}")
    try:
        config = json.loads(_get(f"{url}/server_info?config_format=json"))["vllm_config"]
        transfer, settings = config["weight_transfer_config"], config["model_config"]
        mode, length, served = settings["logprobs_mode"], settings["max_model_len"], settings["model"]
    except urllib.error.HTTPError as error:
        found = f"no development endpoints ({error.code}), through which TRL sends the weights"
        yield Finding("Server: mode", "problem", found, restart)
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = "use a vLLM in the range above; see Server"
        yield Finding("Server: mode", "problem", f"/server_info cannot be read: {brief(error)}", cure)
        return
    yield Finding("Server: mode", "ok", "development endpoints")
    if model is not None and model not in (served, *names):
        yield Finding("Server: model", "warning", f"{served}, the recipe has {model}", f"if they differ, {restart}")
    if transfer is None:
        yield Finding("Server: weight transfer", "problem", "no weight_transfer_config", restart)
    else:
        yield Finding("Server: weight transfer", "ok", brief(json.dumps(transfer)))
    yield _logprobs_finding(mode, recipe, restart)
    yield _length_finding(length, recipe, restart)


def _logprobs_finding(mode: str, recipe: dict[str, Any], restart: str) -> Finding:
    if mode == "processed_logprobs" or recipe.get("vllm_importance_sampling_correction") is False:
        return Finding("Server: logprobs", "ok", mode)
    found = f"{mode}: biases the importance sampling correction"
    return Finding("Server: logprobs", "warning", found, f"{restart}; or vllm_importance_sampling_correction: false")


def _length_finding(length: int, recipe: dict[str, Any], restart: str) -> Finding:
    completion, prompt = recipe.get("max_completion_length"), recipe.get("max_prompt_length")
    found = f"max_model_len {length}"
    if completion is not None and length < completion + (prompt or 1):
        needs = f"prompt {prompt or 'at least 1'} + completion {completion} tokens"
        cure = f"{restart} --max-model-len {completion + (prompt or completion)}"
        return Finding("Server: length", "problem", f"{found}, the recipe: {needs}", cure)
    return Finding("Server: length", "ok", found)
