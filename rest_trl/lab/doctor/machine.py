"""What the machine has: GPUs, memory, disk, a token for the Hub, a config for the launcher."""

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .finding import Finding, brief


_GIB = 1024**3
# [ours] A checkpoint of a 1.7B model with its optimiser takes about 20 GiB, and one of an adapter less than 1 GiB.
_DISK_WARNING, _DISK_PROBLEM = 20 * _GIB, _GIB
_HUB_TIMEOUT = 5  # seconds


def gpu_finding(learned: dict[str, Any]) -> Finding:
    """Describe the GPUs that torch sees, as [`~rest_trl.lab.doctor.probe.probe`] learned."""
    if "gpus" not in learned:
        error = learned.get("gpus_error", "torch cannot be imported")
        return Finding("GPU", "problem", f"unknown: {error}", "see torch, or the driver (nvidia-smi, rocm-smi)")
    build = f"torch is built for {'CUDA/ROCm ' + learned['cuda'] if learned['cuda'] else 'CPU only'}"
    if not learned["gpus"]:
        if shutil.which("nvidia-smi") and not learned["cuda"]:
            cure = "there is an NVIDIA driver: install torch's CUDA build, see pytorch.org"
            return Finding("GPU", "problem", f"none; {build}", cure)
        return Finding("GPU", "warning", f"none; {build}", "enough for recipes/demo.yaml; others want a GPU")
    found = "; ".join(
        f"{gpu['name']}, {gpu['memory'] / _GIB:.0f} GiB, compute capability {gpu['capability']}, "
        f"{'bf16' if gpu['bf16'] else 'no bf16'}"
        for gpu in learned["gpus"]
    )
    if not all(gpu["bf16"] for gpu in learned["gpus"]):
        return Finding("GPU", "warning", f"{found}; {build}", "set bf16: false and fp16: true")
    return Finding("GPU", "ok", f"{found}; {build}")


def cpu_finding() -> Finding:
    """Describe cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("CPU", "ok", f"{cores} cores, {memory:.0f} GiB of memory")


def hub_error() -> str | None:
    """
    Ask the Hub for an answer once, and return why it cannot be reached; `None` also if it must not be asked.

    Look-ups of models and data sets repeat a request that fails, for about a minute.
    """
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
        if constants.HF_HUB_OFFLINE:
            return None
        hub: Any = importlib.import_module("huggingface_hub")
        hub.get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT)
    except Exception as error:  # a broken package, the network or a proxy may raise anything, and that is the finding
        return brief(error)
    return None


def hub_findings(pushes: bool = False, error: str | None = None) -> Iterator[Finding]:
    """Describe token, offline mode and cache of the Hub; `error` is from [`hub_error`], if the run needs the Hub."""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except Exception as broken:  # a broken package may raise anything, and that is the finding
        yield Finding("Hub", "problem", brief(broken), "pip install huggingface_hub")
        return
    found = ["a token" if hub.get_token() else "no token"]  # the token itself is a secret
    cure, status = [], "ok"
    if not hub.get_token():
        cure.append("for gated models and push_to_hub: hf auth login")
        status = "problem" if pushes else "ok"
    if hub.constants.HF_HUB_OFFLINE:
        found.append("offline (HF_HUB_OFFLINE)")
        cure.append("unset HF_HUB_OFFLINE to download or push")
        status = "problem" if pushes else status
    if error is not None:
        found.append(f"{hub.constants.ENDPOINT} cannot be reached: {error}")
        cure.append("check network and proxy, or set HF_HUB_OFFLINE=1 to use the cache alone")
        status = "problem" if pushes or status == "problem" else "warning"
    state: Any = status
    yield Finding("Hub", state, ", ".join(found), "; ".join(cure))
    yield disk_finding("Hub cache", hub.constants.HF_HUB_CACHE, "free some, or set HF_HOME to a larger disk")


def existing_parent(path: str | os.PathLike[str]) -> Path:
    """Return the path, or its nearest parent that exists."""
    path = Path(path).expanduser().absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def disk_finding(name: str, path: str | os.PathLike[str], cure: str) -> Finding:
    """Judge the free disk space where a path is or will be."""
    free = shutil.disk_usage(existing_parent(path)).free
    status: Any = "problem" if free < _DISK_PROBLEM else "warning" if free < _DISK_WARNING else "ok"
    return Finding(name, status, f"{path}: {free / _GIB:.1f} GiB free", cure if status != "ok" else "")


def read_launch_config(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Read an accelerate config; the result is empty if there is no file."""
    if path is None or not Path(path).is_file():
        return {}
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(brief(error)) from error
    if not isinstance(config, dict):
        raise ValueError("not a YAML mapping")
    return config


def launch_finding(path: str | os.PathLike[str] | None, gpus: int | None) -> Finding:
    """Say what `accelerate launch` would do with the config at `path`; `gpus` is `None` if it is not known."""
    # Measured with accelerate 1.15, whose launcher starts no second process on a CPU and does not say so.
    processes = (
        "accelerate launch --cpu --num_processes 2 runs ONE process; for more on a CPU: "
        "torchrun --nproc_per_node 2 -m rest_trl.train --use_cpu true"
    )
    try:
        config = read_launch_config(path)
    except ValueError as error:
        return Finding("Launcher", "problem", f"{path}: {error}", "mend or remove it; accelerate config writes one")
    if not config:
        if gpus is None:
            return Finding("Launcher", "ok", "no accelerate config: one process per GPU")
        found = (
            f"no accelerate config: {gpus or 'no'} GPU{'s' * (gpus != 1)}, {max(1, gpus)} process{'es' * (gpus > 1)}"
        )
        cure = "a config for several GPUs is in recipes/accelerate" if gpus > 1 else "" if gpus else processes
        return Finding("Launcher", "ok", found, cure)
    number, machines = config.get("num_processes"), config.get("num_machines") or 1  # `number` is of all machines
    on_cpu = bool(config.get("use_cpu"))
    found = f"{path}: {number} processes{f' on {machines} machines' * (machines != 1)}"
    found += f", {config.get('distributed_type')}{', CPU' * on_cpu}"
    if on_cpu and isinstance(number, int) and number > 1:
        return Finding("Launcher", "warning", found, processes)
    if not on_cpu and gpus is not None and isinstance(number, int) and number // machines > max(1, gpus):
        cure = f"--num_processes {max(1, gpus) * machines}, or more GPUs"
        return Finding("Launcher", "problem", f"{found}, but {gpus} GPUs here", cure)
    return Finding("Launcher", "ok", found)
