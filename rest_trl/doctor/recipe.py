"""Checks that a recipe can run on this machine: it parses, what it names exists, and its packages are installed."""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..runs.recipes import read_head
from .finding import Finding, brief
from .machine import disk_finding, existing_parent
from .memory import GIB, OFFERED, Dimensions, cached_completions, estimate
from .packages import package_finding


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


def recipe_findings(path: Path, recipe: dict[str, Any], learned: dict[str, Any], gpus: int) -> Iterator[Finding]:
    """
    Yield all findings about a recipe but those about its server.

    Args:
        path (`Path`):
            The recipe.
        recipe (`dict[str, Any]`):
            What it says.
        learned (`dict[str, Any]`):
            From [`~rest_trl.doctor.probe.probe`].
        gpus (`int`):
            Number of GPUs.
    """
    yield _parse_finding(path)
    if gpus == 0 and not recipe.get("use_cpu"):
        bf16 = recipe.get("bf16", True)
        yield Finding(
            "Recipe: device",
            "problem" if bf16 else "warning",
            f"no GPU, and use_cpu is not set{' (bf16 needs it)' * bool(bf16)}",
            "run it where there is a GPU, or set use_cpu: true and bf16: false",
        )
    for name in needed_packages(recipe, learned.get("launch_config", {})):
        finding = package_finding(name, learned.get(name), needed=True)
        yield dataclasses.replace(finding, name=f"Recipe: {finding.name}")
    yield from _model_findings(recipe)
    yield from memory_findings(path, recipe, learned)
    yield _dataset_finding(recipe)
    yield _output_finding(recipe)


def memory_findings(path: Path, recipe: dict[str, Any], learned: dict[str, Any]) -> Iterator[Finding]:
    """
    Yield a finding on whether a run fits the memory of a card, as far as that can be estimated.

    Args:
        path (`Path`):
            The recipe. Where there is no GPU, the card that its head says it is meant for is assumed.
        recipe (`dict[str, Any]`):
            What it says.
        learned (`dict[str, Any]`):
            From [`~rest_trl.doctor.probe.probe`].
    """
    sharded = learned.get("launch_config", {}).get("distributed_type") in ("FSDP", "DEEPSPEED")
    meant = re.search(r"one card of (\d+) GB", read_head(path, path.stem).hardware)
    cards = [gpu["memory"] / GIB for gpu in learned.get("gpus", [])]
    if recipe.get("use_cpu") or sharded or not (cards or meant):
        return
    try:
        from transformers import AutoConfig

        revision = recipe.get("model_revision", "main")
        dimensions = Dimensions.of(AutoConfig.from_pretrained(recipe["model_name_or_path"], revision=revision))
    except Exception:  # `_model_findings` reports a model that cannot be read
        return
    card = min(cards) if cards else OFFERED.get(int(meant[1]), float(meant[1])) if meant else 0.0
    found = None if dimensions is None else estimate(dimensions, with_defaults(recipe), card)
    if dimensions is None or found is None:
        which = "estimated are LoRA and QLoRA on all linear layers of Qwen3 and Llama, with max_prompt_length"
        yield Finding("Recipe: memory", "ok", f"not estimated: {which}")
        return
    parts = ", ".join(f"{name} {size:.1f}" for name, size in found.items() if name != "peak")
    has = "the card has" if cards else "such a card offers"
    told = f"about {found['peak']:.1f} GiB, computed and not measured, and {has} {card:.1f} ({parts})"
    if found["peak"] > card:
        cure = "lower per_device_train_batch_size, vllm_gpu_memory_utilization or max_completion_length, or set "
        yield Finding("Recipe: memory", "problem", told, cure + "vllm_enable_sleep_mode or load_in_4bit")
        return
    if recipe.get("use_vllm") and recipe.get("vllm_mode") == "colocate":
        number = cached_completions(dimensions, with_defaults(recipe), card)
        told += f"; vLLM writes {number} of the longest completions at once"
        if number < 1:
            yield Finding("Recipe: memory", "problem", told, "raise vllm_gpu_memory_utilization")
            return
    tight = found["peak"] > 0.97 * card
    yield Finding("Recipe: memory", "warning" if tight else "ok", told, "it may not fit" if tight else "")


def with_defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """
    Complete a recipe's arguments with the defaults of the training program.

    Args:
        recipe (`dict[str, Any]`):
            What it says.

    Returns:
        `dict[str, Any]`: the arguments alone if TRL cannot be imported, which is a finding of its own.
    """
    try:
        from ..config import ResTGRPOConfig
    except Exception:  # a broken stack has been reported package by package
        return recipe
    defaults = {f.name: f.default for f in dataclasses.fields(ResTGRPOConfig) if f.default is not dataclasses.MISSING}
    return {**defaults, **recipe}


def _parse_finding(path: Path) -> Finding:
    said = io.StringIO()
    try:
        from ..train import make_parser

        with contextlib.redirect_stderr(said):
            make_parser("recipe").parse_args_and_config(["--config", str(path)], fail_with_unknown_args=True)
    except SystemExit:  # argparse writes the cause to stderr
        cause = said.getvalue().strip().split("error: ")[-1]
        return Finding("Recipe", "problem", brief(cause), "correct the argument; rest-trl train --help lists all")
    except Exception as error:  # the recipe or a broken stack may raise anything
        return Finding("Recipe", "problem", brief(error, 400), "correct what the message names")
    return Finding("Recipe", "ok", f"{path} parses")


def _model_findings(recipe: dict[str, Any]) -> Iterator[Finding]:
    name = recipe.get("model_name_or_path")
    if not name:
        yield Finding("Recipe: model", "problem", "none", "set model_name_or_path to a path, a Hub id, or tiny")
        return
    options = {"revision": recipe.get("model_revision", "main"), "trust_remote_code": recipe.get("trust_remote_code")}
    try:
        from transformers import AutoConfig, AutoTokenizer

        from ..tiny import resolve_model
        from ..tool_calls import detect_syntax, get_syntax

        source = resolve_model(name)
        kind = AutoConfig.from_pretrained(source, **options).model_type
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # the Hub, the network or a broken stack may raise anything
        cure = "check the name; for a gated model: hf auth login; offline: download it first with hf download"
        yield Finding("Recipe: model", "problem", f"{name}: {brief(error)}", cure)
        return
    yield Finding("Recipe: model", "ok", f"{name}: {kind}, config and tokenizer are readable")
    given = recipe.get("tool_call_syntax")
    try:
        detected = detect_syntax(tokenizer)
    except ValueError as error:
        detected, cause = None, brief(error)
    else:
        cause = ""
    if given is None and detected is None:
        yield Finding("Recipe: tool_call_syntax", "problem", cause, "set tool_call_syntax")
        return
    try:
        syntax = get_syntax(given or detected or "").name
    except ValueError as error:
        yield Finding("Recipe: tool_call_syntax", "problem", brief(error), "choose one of these")
        return
    found = f"{syntax}, " + ("from the chat template" if given is None else f"given; chat template: {detected}")
    cure = "right if the prompts ask for it" if given and detected and given != detected else ""
    yield Finding("Recipe: tool_call_syntax", "ok", found, cure)


def _dataset_finding(recipe: dict[str, Any]) -> Finding:
    name = recipe.get("dataset_name")
    if not name:
        return Finding(
            "Recipe: data set", "problem", "none", "set dataset_name to a file, a directory, a Hub id, or tiny"
        )
    from ..tiny import TINY_DATASETS, is_tiny

    try:
        if is_tiny(name, TINY_DATASETS):
            return Finding("Recipe: data set", "ok", f"{name}, in the package")
    except ValueError as error:
        return Finding("Recipe: data set", "problem", brief(error), "correct dataset_name")
    path = Path(name).expanduser()
    if path.exists():
        empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
        cure = "fill it" if empty else ""
        return Finding("Recipe: data set", "problem" if empty else "ok", f"{path}{', empty' * empty}", cure)
    # A Hub id has at most one slash and no suffix of a file.
    if path.suffix in (".json", ".jsonl", ".parquet") or name.startswith((".", "~", "/")) or len(path.parts) > 2:
        return Finding("Recipe: data set", "problem", f"there is no {path}", "put it there, or correct dataset_name")
    try:
        from datasets import load_dataset_builder

        load_dataset_builder(name, recipe.get("dataset_config"))
    except Exception as error:  # the Hub or the data set's code may raise anything
        cure = "check the name; for a private one: hf auth login"
        return Finding("Recipe: data set", "problem", f"{name}: {brief(error)}", cure)
    return Finding("Recipe: data set", "ok", f"{name}, on the Hub or in its cache")


def _output_finding(recipe: dict[str, Any]) -> Finding:
    path = recipe.get("output_dir") or "trainer_output"
    parent = existing_parent(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        found = f"{path} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}"
        return Finding("Recipe: output_dir", "problem", found, "set output_dir to a directory that can be written")
    return disk_finding("Recipe: output_dir", path, "free some, set save_total_limit, or move output_dir")
