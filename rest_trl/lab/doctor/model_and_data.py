"""The model and the data set that a recipe names: whether they can be read, and which syntax the model has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..packaged import BFCL_SINGLE, SMOLLM2
from ..packaged.bfcl_single import bfcl_rows
from ..tiny import TINY, TINY_DATASETS, is_tiny, resolve_model
from .finding import Finding, brief


def is_hub_id(name: Any) -> bool:
    """
    Whether a model or data set of this name has to be on the Hub: nothing of the name is here, and it can be an id,
    which has at most one slash and no suffix of a data file.
    """
    path = Path(str(name or TINY)).expanduser()
    is_path = str(name).startswith((".", "~", "/")) or len(path.parts) > 2
    is_file = path.suffix in (".json", ".jsonl", ".parquet")
    is_ours = path.parts[0] == TINY or name in (SMOLLM2, BFCL_SINGLE)
    return not (is_ours or is_path or is_file or path.exists())


def needs_hub(recipe: dict[str, Any]) -> bool:
    """Whether a run reads its model or its data set from the Hub, or from the Hub's cache."""
    return is_hub_id(recipe.get("model_name_or_path")) or is_hub_id(recipe.get("dataset_name"))


def load_options(recipe: dict[str, Any], cache_only: bool) -> tuple[str, dict[str, Any]]:
    """Choose name and arguments with which transformers loads the config and the tokenizer of a recipe's model."""
    # The steps of `rest_trl.runs.inputs.find_model`, which cannot be imported without `datasets`.
    source = str(Path(resolve_model(recipe["model_name_or_path"])).expanduser())
    return source, {
        "revision": recipe.get("model_revision", "main"),
        "trust_remote_code": recipe.get("trust_remote_code", False),
        "local_files_only": cache_only,
    }


def model_findings(recipe: dict[str, Any], cache_only: bool = False) -> Iterator[Finding]:
    """Yield findings on whether the model can be read, without the Hub if `cache_only`, and on its syntax."""
    name = recipe.get("model_name_or_path")
    if not name:
        yield Finding("Recipe: model", "problem", "none", "set model_name_or_path to a path, a Hub id, or tiny")
        return
    try:
        from transformers import AutoConfig, AutoTokenizer

        from ...tool_calls import detect_syntax, get_syntax

        source, options = load_options(recipe, cache_only)
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


def dataset_finding(recipe: dict[str, Any], cache_only: bool = False) -> Finding:
    """
    Say whether the data set can be read.

    If the Hub cannot be reached (`cache_only`), its data sets are not looked up: `datasets` looks into its cache
    alone only in a process that began with `HF_HUB_OFFLINE`, and else tries the Hub for long.
    """
    name = str(recipe.get("dataset_name") or "")  # YAML reads some names as numbers
    if not name:
        return Finding(
            "Recipe: data set", "problem", "none", "set dataset_name to a file, a directory, a Hub id, or tiny"
        )
    try:
        if is_tiny(name, TINY_DATASETS):
            return Finding("Recipe: data set", "ok", f"{name}, in the package")
    except ValueError as error:
        return Finding("Recipe: data set", "problem", brief(error), "correct dataset_name")
    if name == BFCL_SINGLE:
        try:
            return Finding("Recipe: data set", "ok", f"{name}, {len(bfcl_rows('train'))} rows of bfcl-eval")
        except FileNotFoundError as error:
            return Finding("Recipe: data set", "problem", brief(error), "")
    path = Path(name).expanduser()
    if path.exists():
        empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
        cure = "fill it" if empty else ""
        return Finding("Recipe: data set", "problem" if empty else "ok", f"{path}{', empty' * empty}", cure)
    if not is_hub_id(name):
        return Finding("Recipe: data set", "problem", f"there is no {path}", "put it there, or correct dataset_name")
    if cache_only:
        cure = "with HF_HUB_OFFLINE=1 the doctor looks it up in the cache"
        return Finding("Recipe: data set", "warning", f"{name}: not looked up, the Hub cannot be reached", cure)
    try:
        from datasets import load_dataset_builder

        load_dataset_builder(name, recipe.get("dataset_config"))
    except Exception as error:  # the Hub or the data set's code may raise anything
        cure = "check the name; for a private one: hf auth login"
        return Finding("Recipe: data set", "problem", f"{name}: {brief(error)}", cure)
    return Finding("Recipe: data set", "ok", f"{name}, on the Hub or in its cache")
