"""Checks that a recipe can run on this machine: it parses, what it names exists, and its packages are installed."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from .finding import Finding, brief
from .inputs import dataset_finding, model_findings
from .machine import disk_finding, existing_parent
from .memory import memory_findings
from .packages import package_finding
from .parsing import kind_of, parse_finding, runs_of


_TRACKERS = ("tensorboard", "trackio", "wandb")


def read_recipe(path: Path) -> dict[str, Any]:
    """
    Read the arguments that a recipe gives, without checking them.

    Args:
        path (`Path`):
            The recipe.

    Returns:
        `dict[str, Any]`

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(brief(error)) from error
    if not isinstance(recipe, dict):
        raise ValueError("not a YAML mapping of arguments")
    return recipe


def needed_packages(recipe: dict[str, Any], launch_config: dict[str, Any]) -> list[str]:
    """
    List the optional packages that a run needs.

    Args:
        recipe (`dict[str, Any]`):
            The recipe's arguments.
        launch_config (`dict[str, Any]`):
            The accelerate config.

    Returns:
        `list[str]`
    """
    needs = {
        "peft": recipe.get("use_peft"),
        "bitsandbytes": recipe.get("load_in_4bit") or recipe.get("load_in_8bit"),
        "vllm": recipe.get("use_vllm"),
        "deepspeed": recipe.get("deepspeed") or launch_config.get("distributed_type") == "DEEPSPEED",
    }
    report_to = recipe.get("report_to") or []
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

    Args:
        path (`Path`):
            The recipe.
        recipe (`dict[str, Any]`):
            What it says.
        learned (`dict[str, Any]`):
            From [`~rest_trl.lab.doctor.probe.probe`]; with `"hub_error"` if the Hub is needed and cannot be reached.
        gpus (`int`, *optional*):
            Number of GPUs, `None` if it is not known.
        arms (`Sequence[str]`, *optional*):
            Names of the arms whose settings `recipe` has.
        study (`str`, *optional*):
            Name of the study, where the file holds several.
    """
    yield parse_finding(path, kind_of(path, recipe), gpus == 0, arms, study)
    told = set()  # arms of a study share most of what is found
    for run in runs_of(path, recipe, study):
        for finding in _run_findings(path, run, learned, gpus):
            if finding not in told:
                yield finding
            told.add(finding)


def _run_findings(path: Path, run: dict[str, Any], learned: dict[str, Any], gpus: int | None) -> Iterator[Finding]:
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
    yield from memory_findings(path, run, learned)
    yield dataset_finding(run, cache_only)
    yield _output_finding(run)


def _output_finding(recipe: dict[str, Any]) -> Finding:
    path = recipe.get("output_dir") or "trainer_output"
    parent = existing_parent(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        found = f"{path} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}"
        return Finding("Recipe: output_dir", "problem", found, "set output_dir to a directory that can be written")
    return disk_finding("Recipe: output_dir", path, "free some, set save_total_limit, or move output_dir")
