"""The vLLM server of a run: whether it answers, and whether TRL's server mode can train with it."""

import json
from collections.abc import Iterator
from typing import Any

import requests

from ...serving.client import ServerClient, server_url
from ...serving.command import serve_command
from .finding import Finding, brief


def recipe_server_url(run: dict[str, Any]) -> str | None:
    """The address at which a run looks for its server, or `None`; `run` has the defaults filled in."""
    if not run.get("use_vllm") or run.get("vllm_mode") != "server":
        return None
    return server_url(run.get("vllm_server_base_url"), run["vllm_server_host"], run["vllm_server_port"])


def server_findings(url: str, run: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings on whether a server can serve a run, of which `run` may be empty."""
    client, model = ServerClient(url), run.get("model_name_or_path")
    command = serve_command(model or "MODEL", training=True)
    restart = f"restart it: {command}"
    try:
        status = client.health()
        names = [str(entry["id"]) for entry in client.models()]
    except requests.RequestException as error:
        start = f"start it (with the address and port of the recipe): {command}"
        yield Finding("Server", "problem", f"{url} does not answer as a vLLM server: {brief(error)}", start)
        return
    if status != requests.codes.ok:
        yield Finding("Server", "problem", f"{url} is not healthy: /health gives {status}", restart)
        return
    yield Finding("Server", "ok", f"{url} answers and serves {', '.join(names)}")
    if recipe_server_url(run) == url != client.url:
        found = f"TRL appends its own paths to the recipe's {url}"
        yield Finding("Server: address", "problem", found, f"vllm_server_base_url: {client.url}")
    try:
        config = client.config()
        if config is None:
            found = "no development endpoints, through which TRL sends the weights"
            yield Finding("Server: mode", "problem", found, restart)
            return
        transfer, settings = config["weight_transfer_config"], config["model_config"]
        mode, length, served = settings["logprobs_mode"], settings["max_model_len"], settings["model"]
    except (requests.RequestException, KeyError, TypeError) as error:
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
    yield _logprobs_finding(mode, run, restart)
    yield _length_finding(length, run, restart)


def _logprobs_finding(mode: str, run: dict[str, Any], restart: str) -> Finding:
    if mode == "processed_logprobs" or run.get("vllm_importance_sampling_correction") is False:
        return Finding("Server: logprobs", "ok", mode)
    found = f"{mode}: biases the importance sampling correction"
    return Finding("Server: logprobs", "warning", found, f"{restart}; or vllm_importance_sampling_correction: false")


def _length_finding(length: int, run: dict[str, Any], restart: str) -> Finding:
    completion, prompt = run.get("max_completion_length"), run.get("max_prompt_length")
    found = f"max_model_len {length}"
    if completion is None:
        return Finding("Server: length", "ok", found)
    # A later turn of an agent asks for `max_completion_length` tokens after all those that the turns before it wrote.
    room = 2 * completion if run.get("environment_factory") else completion
    cure = f"{restart} --max-model-len {room + (prompt or completion)}"
    if length < completion + (prompt or 1):
        needs = f"prompt {prompt or 'at least 1'} + completion {completion} tokens"
        return Finding("Server: length", "problem", f"{found}, the recipe: {needs}", cure)
    if length < room + (prompt or 1):
        return Finding("Server: length", "warning", f"{found}: later turns of an agent may be refused", cure)
    return Finding("Server: length", "ok", found)
