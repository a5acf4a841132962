"""Checks that a recipe can run on this machine: it parses, what it names exists, and its packages are installed."""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ...runs.listing import read_head
from .finding import Finding, brief
from .machine import disk_finding, existing_parent
from .memory import memory_findings
from .model_and_data import dataset_finding, model_findings
from .packages import package_finding


Kind = Literal["train", "sft", "study"]
# Defaults of the arguments that the doctor looks at, which it has to know also where TRL cannot be imported.
# [TRL] 1.16: `ModelConfig` for `dtype` and `lora_r`, `GRPOConfig` for the others, but for our `share_prompts`.
DEFAULTS = {
    "dtype": "float32",
    "lora_r": 16,
    "max_completion_length": 512,
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "share_prompts": "auto",
    "use_vllm": False,
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_mode": "colocate",
    "vllm_server_base_url": None,
    "vllm_server_host": "0.0.0.0",
    "vllm_server_port": 8000,
}
# Arguments of `rest-trl sft` alone. By them its recipes are known where no comment names their command.
SFT_ARGUMENTS = {
    "assistant_only_loss",
    "completion_only_loss",
    "format_weight",
    "max_length",
    "packing",
    "parameters_weight",
    "reasoning_weight",
    "response_weight",
    "tool_name_weight",
}
_PROGRAM = re.compile(r"rest[-_]trl(?:\.lab)?[ .](train|sft|study)\b")
_TRACKERS = ("tensorboard", "trackio", "wandb")


def kind_of(path: Path, recipe: dict[str, Any]) -> Kind:
    """Tell which program a recipe is for: by the last launch command in its head, else by its arguments."""
    if "arms" in recipe:
        return "study"
    named: list[Any] = _PROGRAM.findall(" ".join(read_head(path, path.stem).commands))
    if named:
        kind: Kind = named[-1]  # servers are started before
        return kind
    return "sft" if SFT_ARGUMENTS & recipe.keys() else "train"


def runs_of(path: Path, recipe: dict[str, Any], study: str | None = None) -> list[dict[str, Any]]:
    """
    List the runs that a recipe describes, one for each arm of a study, with [`DEFAULTS`] filled in.

    There is none if a study cannot be read; [`parse_finding`] names the cause.
    """
    if kind_of(path, recipe) != "study":
        return [{**DEFAULTS, **recipe}]
    try:
        loaded = _load_study(path, study)
    except Exception:  # see the docstring
        return []
    return [{**DEFAULTS, **arm, "output_dir": str(loaded.output_dir)} for arm in loaded.arms.values()]


def parse_finding(path: Path, kind: Kind, on_cpu: bool, arms: Sequence[str] = (), study: str | None = None) -> Finding:
    """Say whether a recipe's program takes it; `on_cpu`, because another finding says that there is no GPU."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            _parse(path, kind, on_cpu, arms, study)
    except SystemExit:  # argparse writes the cause to stderr
        cause = said.getvalue().strip().split("error: ")[-1]
        program = "sft" if kind == "sft" else "train"
        return Finding("Recipe", "problem", brief(cause), f"correct the argument; rest-trl {program} --help lists all")
    except Exception as error:  # the recipe or a broken stack may raise anything
        return Finding("Recipe", "problem", brief(error, 400), "correct what the message names")
    return Finding("Recipe", "ok", f"{path} parses" + ("" if kind == "train" else f" for rest-trl {kind}"))


def _parse(path: Path, kind: Kind, on_cpu: bool, arms: Sequence[str], name: str | None) -> None:
    if kind == "study":
        study, device = _load_study(path, name), {"use_cpu": True} if on_cpu else {}
        study = dataclasses.replace(study, arms={name: {**arm, **device} for name, arm in study.arms.items()})
        from ..study.worker import check_arms

        check_arms(study)
        return
    if kind == "sft":
        from ..sft import make_parser
    else:
        from ...train import make_parser
    arguments = ["--config", str(path), *(["--use_cpu", "true"] if on_cpu else [])]
    arguments += [f"--arm={arm}" for arm in arms]
    make_parser("recipe").parse_args_and_config(arguments, fail_with_unknown_args=True)


def _load_study(path: Path, name: str | None) -> Any:
    from ..study.arms import load_study

    return load_study(path, name=name)


def needed_packages(run: dict[str, Any], launch_config: dict[str, Any]) -> list[str]:
    """List the optional packages that a run needs."""
    needs = {
        "peft": run.get("use_peft"),
        "bitsandbytes": run.get("load_in_4bit") or run.get("load_in_8bit"),
        "vllm": run.get("use_vllm"),
        "deepspeed": run.get("deepspeed") or launch_config.get("distributed_type") == "DEEPSPEED",
    }
    report_to = run.get("report_to") or []
    trackers = [report_to] if isinstance(report_to, str) else report_to
    return [name for name, need in needs.items() if need] + [name for name in _TRACKERS if name in trackers]


def recipe_findings(
    path: Path,
    recipe: dict[str, Any],
    learned: dict[str, Any],
    gpus: int | None,
    arms: Sequence[str] = (),
    study: str | None = None,
) -> Iterator[Finding]:
    """
    Yield all findings about a recipe but those about its server.

    `learned` comes from [`~rest_trl.lab.doctor.probe.probe`], with `"hub_error"` if the Hub is needed and cannot be
    reached; `gpus` is `None` if their number is not known.
    """
    kind = kind_of(path, recipe)
    yield parse_finding(path, kind, gpus == 0, arms, study)
    told = set()  # arms of a study share most of what is found
    for run in runs_of(path, recipe, study):
        for finding in _run_findings(path, run, kind != "sft", learned, gpus):
            if finding not in told:
                yield finding
            told.add(finding)


def _run_findings(
    path: Path, run: dict[str, Any], is_rl: bool, learned: dict[str, Any], gpus: int | None
) -> Iterator[Finding]:
    if gpus == 0 and not run.get("use_cpu"):
        bf16 = run.get("bf16", True)
        yield Finding(
            "Recipe: device",
            "problem" if bf16 else "warning",
            f"no GPU, and use_cpu is not set{' (bf16 needs it)' * bool(bf16)}",
            "run it where there is a GPU, or set use_cpu: true and bf16: false",
        )
    for name in needed_packages(run, learned.get("launch_config", {})):
        finding = package_finding(name, learned.get(name), needed=True)
        yield dataclasses.replace(finding, name=f"Recipe: {finding.name}")
    cache_only = "hub_error" in learned
    yield from model_findings(run, cache_only)
    yield from memory_findings(path, run, is_rl, learned)
    yield dataset_finding(run, cache_only)
    yield _output_finding(run)


def _output_finding(run: dict[str, Any]) -> Finding:
    path = run.get("output_dir") or "trainer_output"
    parent = existing_parent(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        found = f"{path} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}"
        return Finding("Recipe: output_dir", "problem", found, "set output_dir to a directory that can be written")
    return disk_finding("Recipe: output_dir", path, "free some, set save_total_limit, or move output_dir")
