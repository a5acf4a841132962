"""The model card of a run: what was trained, on what, how, and how to load and serve it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl
import yaml
from accelerate.utils import is_peft_model
from huggingface_hub import ModelCard
from transformers import is_wandb_available
from trl.trainer.utils import get_comet_experiment_url, get_trackio_space_url

from ...regions.rules import rule_arguments
from ...runs.arguments import changed_arguments, is_hub_id, last_component, without_directories
from ...version import __version__
from .card_facts import (
    adapter_kind,
    coefficients_name,
    curve_rows,
    has_coefficients_of_script,
    quantization,
    region_rows,
    serving,
)
from .curves import plot_curves
from .writing import warned_if_failing


if is_wandb_available():
    import wandb

_TEMPLATE = Path(__file__).with_name("model_card.md")


@warned_if_failing("The model card")
def write_model_card(
    trainer: Any, write_card_of_trl: Callable[..., None], model_name: str | None, dataset_name: str | None, tags: Any
) -> None:
    """
    Put this package's text under the metadata of TRL's card, and the curves beside the card.

    It never raises: what goes wrong is logged as a warning, and the card that was there stays.

    Args:
        trainer ([`ResTGRPOTrainer`]):
            The trainer.
        write_card_of_trl (`Callable`):
            `create_model_card` of TRL's trainer, which writes `README.md` into the `output_dir`.
        model_name (`str`, *optional*):
            Name of the model. By default that of `output_dir`.
        dataset_name (`str`, *optional*):
            Data set: a Hub id, or a path, of which only the last component is shown. By default that of the recipe,
            since `Trainer` gives none for the card of a checkpoint.
        tags (`str` or `list[str]`, *optional*):
            Tags of the model.
    """
    dataset_name = dataset_name or (trainer.recipe or {}).get("dataset_name")
    write_card_of_trl(model_name, dataset_name if is_hub_id(dataset_name) else None, tags)
    if not trainer.is_world_process_zero():
        return
    output_dir = Path(trainer.args.output_dir)
    model_name = model_name or output_dir.name
    hub_model_id = trainer.hub_model_id or model_name
    recipe = changed_arguments(trainer.args) if trainer.recipe is None else trainer.recipe
    name_or_path = recipe.get("model_name_or_path", trainer.model.config._name_or_path)
    base_on_hub = is_hub_id(name_or_path)
    adapter = adapter_kind(trainer.model)
    coefficients, rule = coefficients_name(trainer), rule_arguments(trainer.args.coefficients)
    data = ModelCard.load(output_dir / "README.md").data
    data.base_model = name_or_path if base_on_hub else None
    data.datasets = dataset_name if is_hub_id(dataset_name) else None
    data.model_name = model_name
    data["library_name"] = "peft" if adapter else "transformers"
    data.pipeline_tag = "text-generation"
    data.tags = sorted({*(data.tags or []), *(["lora"] if adapter == "LoRA" else [])})
    data.pop("licence")  # TRL's placeholder: the licence follows from the base model's, which only the user knows
    logs = [log for log in trainer.state.log_history if "rest/progress" in log]
    columns, rows = curve_rows(logs)
    regions_step, regions = region_rows(trainer.region_statistics, logs)
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        model_name=model_name,
        hub_model_id=hub_model_id,
        adapter=adapter,
        base_model=_link(name_or_path, ""),
        base_on_hub=base_on_hub,
        dataset=_link(dataset_name, "datasets/") if dataset_name else None,
        method=_method(trainer, coefficients),
        version=__version__,
        tool_call_syntax=trainer.tool_call_syntax,
        quantization=quantization(trainer.model),
        max_completion_length=trainer.args.max_completion_length,
        serving=serving(trainer, hub_model_id, name_or_path if base_on_hub else "BASE_MODEL"),
        step=trainer.state.global_step,
        max_steps=trainer.state.max_steps,
        curriculum=coefficients == "entropy" and any(rule[slope] for slope in rule if slope.endswith("_slope")),
        progress=min(1.0, trainer.state.global_step / rule["horizon"]) if rule["horizon"] else trainer.progress,
        trackers=_trackers(),
        credit=trainer.args.credit,
        branch_size=trainer.args.branch_size,
        coefficients=coefficients,
        regions=regions,
        regions_step=regions_step,
        plotted=bool(logs) and _plotted(logs, output_dir / "curves.png"),
        curve_columns=columns,
        curve=rows,
        from_program=trainer.recipe is not None,
        from_script=has_coefficients_of_script(trainer),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        versions=_versions(trainer.model),
        citation=trainer.paper["citation"],
    )
    temporary = output_dir / "README.tmp"
    try:
        card.save(temporary)
        os.replace(temporary, output_dir / "README.md")
    finally:
        temporary.unlink(missing_ok=True)


def _plotted(logs: list[dict[str, float]], path: Path) -> bool:
    """Plot the curves; say whether there is a picture of these steps to show."""
    done = False
    with warned_if_failing("The picture of the curves"):
        plot_curves(logs, path)
        done = True
    return done


def _versions(model: Any) -> dict[str, str]:
    # From attributes, because a source tree that is not installed has no metadata of a distribution.
    modules = [trl, transformers, torch, datasets, tokenizers]
    if is_peft_model(model):
        import peft

        modules.append(peft)
    return {"rest-trl": __version__} | {module.__name__: module.__version__ for module in modules}


def _link(name: str, prefix: str) -> str:
    if is_hub_id(name):
        return f"[{name}](https://huggingface.co/{prefix}{name})"
    return f"`{last_component(without_directories(name))}`" if name else "a model made in memory"


def _method(trainer: Any, coefficients: str) -> str:
    paper = f"[{trainer.paper['title']}](https://huggingface.co/papers/{trainer.paper['id']})"
    if coefficients == "uniform":
        return f"GRPO (`coefficients: uniform`, the baseline of {paper})"
    if coefficients not in ("entropy", "released"):
        return f"GRPO whose advantages are weighted by the coefficients `{coefficients}` (not those of {paper})"
    return paper


def _trackers() -> list[tuple[str, str]]:
    urls = [
        ("Weights & Biases", wandb.run.url if is_wandb_available() and wandb.run is not None else None),
        ("Trackio", get_trackio_space_url()),
        ("Comet", get_comet_experiment_url()),
    ]
    return [(name, url) for name, url in urls if url]
