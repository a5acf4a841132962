"""The model card of a run: what was trained, on what, how, and how to load and serve it."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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

from ... import __version__
from ...regions.rules import PRESETS, rule_arguments, rule_name
from ...runs.arguments import changed_arguments, is_hub_id, without_directories
from ...serving.command import reasoning_parser_of, serve_command
from ...tool_calls import Region, get_syntax
from ..packaged import TRAINED_ON_BFCL
from .curves import plot_curves
from .writing import warned_if_failing


if is_wandb_available():
    import wandb

_TEMPLATE = Path(__file__).with_name("model_card.md")
_CURVE_ROWS = 6
_EXACT = ("rest/reward/exact_with_calls", "rest/reward/exact_without_calls")
_LINE_BREAK = " \\\n  "
_MERGED = "merged"


class Serving(NamedTuple):
    """
    How vLLM serves the result: by `command` (`None` if it cannot), after a merge for the reason `merge`, if any.

    `parsed` says whether the server parses the tool calls.
    """

    command: str | None
    merge: str | None
    parsed: bool


@warned_if_failing("The model card")
def write_model_card(
    trainer: Any,
    write_card_of_trl: Callable[..., None],
    model_name: str | None = None,
    dataset_name: str | None = None,
    tags: str | list[str] | None = None,
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
    coefficients = trainer.rule_name if trainer.rule_name in PRESETS else function_name(trainer.rule)
    rule = rule_arguments(trainer.args.coefficients)
    data = ModelCard.load(output_dir / "README.md").data
    data.base_model = name_or_path if base_on_hub else None
    data.datasets = dataset_name if is_hub_id(dataset_name) else None
    data.model_name = model_name
    data["library_name"] = "peft" if adapter else "transformers"
    data.pipeline_tag = "text-generation"
    data.tags = sorted({*(data.tags or []), *(["lora"] if adapter == "LoRA" else [])})
    data.pop("licence")  # TRL's placeholder: the licence follows from the base model's, which only the user knows
    logs = [log for log in trainer.state.log_history if "rest/progress" in log]
    columns, rows = _curve_rows(logs)
    arm = f"coefficients {coefficients}, credit {trainer.args.credit}"
    if trainer.args.gold_weight:
        arm += f", gold_weight {trainer.args.gold_weight:g}"
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        model_name=model_name,
        hub_model_id=hub_model_id,
        adapter=adapter,
        base_model=_link(name_or_path, ""),
        base_on_hub=base_on_hub,
        dataset=_link(dataset_name, "datasets/") if dataset_name else None,
        trained_on_bfcl=TRAINED_ON_BFCL in data.tags,
        method=_method(trainer.paper, coefficients),
        version=__version__,
        tool_call_syntax=trainer.tool_call_syntax,
        quantization=_quantization(trainer.model),
        max_completion_length=trainer.args.max_completion_length,
        serving=_serving(trainer, hub_model_id, name_or_path if base_on_hub else "BASE_MODEL"),
        step=trainer.state.global_step,
        max_steps=trainer.state.max_steps,
        curriculum=coefficients == "entropy" and any(rule[slope] for slope in rule if slope.endswith("_slope")),
        progress=min(1.0, trainer.state.global_step / rule["horizon"]) if rule["horizon"] else trainer.progress,
        trackers=_trackers(),
        credit=trainer.args.credit,
        branch_size=trainer.args.branch_size,
        gold_weight=trainer.args.gold_weight,
        coefficients=coefficients,
        regions=_region_rows(trainer.region_statistics, logs),
        regions_step=int(logs[-1]["step"]) if logs else None,
        plotted=bool(logs) and _plotted(logs, output_dir / "curves.png", f"{model_name}: {arm}"),
        curve_columns=columns,
        curve=rows,
        from_program=trainer.recipe is not None,
        from_script=trainer.rule_name != rule_name(trainer.args.coefficients),
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


def function_name(function: Callable[..., Any]) -> str:
    """
    Module and name of a function, or of the class of an object, with the arguments that are bound to it.

    ```python
    >>> import json
    >>> function_name(partial(json.dumps, indent=2))
    'json.dumps(indent=2)'

    ```
    """
    if isinstance(function, partial):
        keywords = ", ".join(f"{name}={_brief(value)}" for name, value in function.keywords.items())
        return f"{function_name(function.func)}({keywords})"
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    # The path of a function that is defined inside another one says nothing to a reader.
    name = named.__qualname__.rpartition("<locals>.")[2]
    return name if named.__module__ == "__main__" else f"{named.__module__}.{name}"


def _brief(value: Any) -> str:
    # Anything longer may hold a path of the user's machine, or an address in memory.
    short = value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and value.isidentifier())
    return repr(value) if short else type(value).__name__


def _method(paper: Mapping[str, str], coefficients: str) -> str:
    link = f"[{paper['title']}](https://huggingface.co/papers/{paper['id']})"
    if coefficients == "uniform":
        return f"GRPO (`coefficients: uniform`, the baseline of {link})"
    if coefficients not in ("entropy", "released"):
        return f"GRPO whose advantages are weighted by the coefficients `{coefficients}` (not those of {link})"
    return link


def _link(name: str, prefix: str) -> str:
    if is_hub_id(name):
        return f"[{name}](https://huggingface.co/{prefix}{name})"
    return f"`{without_directories(name).rpartition('/')[2]}`" if name else "a model made in memory"


def adapter_kind(model: Any) -> str | None:
    """The kind of adapter that was trained, such as `"LoRA"`, or `None` if the model itself was."""
    if not is_peft_model(model):
        return None
    kind: str = model.active_peft_config.peft_type.value
    return {"LORA": "LoRA", "IA3": "IA3"}.get(kind, kind.replace("_", " ").lower())


def _serving(trainer: Any, hub_model_id: str, base_model: str) -> Serving:
    parser = get_syntax(trainer.tool_call_syntax).vllm_parser
    parsed, reasoning_parser = parser is not None, None
    if parsed:
        reasoning_parser = reasoning_parser_of(trainer.model.config.model_type, trainer.processing_class.chat_template)
    command = partial(serve_command, tool_call_parser=parser, reasoning_parser=reasoning_parser, separator=_LINE_BREAK)
    kind = adapter_kind(trainer.model)
    if kind is None:
        return Serving(command(hub_model_id), None, parsed)
    config = trainer.model.active_peft_config
    if config.is_prompt_learning:
        return Serving(None, None, parsed)
    if kind != "LoRA":
        return Serving(command(_MERGED), f"vLLM takes LoRA adapters only, and this one is {kind}", parsed)
    # What else vLLM 0.31 refuses in an adapter.
    if config.use_dora or config.modules_to_save or config.bias != "none":
        return Serving(command(_MERGED), "vLLM takes no DoRA, no trained biases and no `modules_to_save`", parsed)
    rank = max(config.r, *config.rank_pattern.values(), 1)
    try:
        return Serving(command(base_model, adapter=hub_model_id, lora_rank=rank), None, parsed)
    except ValueError:
        return Serving(command(_MERGED), f"vLLM takes no LoRA adapter of rank {rank}", parsed)


def _quantization(model: Any) -> str | None:
    config = model.config.to_dict().get("quantization_config")
    if config is None:
        return None
    four_bits = f", 4 bits ({config['bnb_4bit_quant_type']})" if config.get("load_in_4bit") else ""
    return f"`{config['quant_method']}`{four_bits}"


def _region_rows(statistics: Any, logs: Sequence[dict[str, float]]) -> list[list[str]]:
    """Entropy, share and last coefficient of every region; nothing before the first step."""
    rows = []
    for region in list(Region)[1:] if sum(statistics.shares) else []:
        name = region.name.lower()
        key = f"rest/coefficient/{name}"
        coefficient = next((log[key] for log in reversed(logs) if key in log), None)
        rows.append([name, *map(_number, (statistics.entropies[region], statistics.shares[region], coefficient))])
    return rows


def _curve_rows(logs: Sequence[dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of rewards and exact accuracy at a few steps, evenly spaced over the run."""
    if not logs:
        return [], []
    parts = sorted(key for key in logs[-1] if key.startswith("rewards/") and key.endswith("/mean"))
    keys = ["reward", *parts, *(key for key in _EXACT if any(key in log for log in logs))]
    last = len(logs) - 1
    picked = sorted({round(index * last / (_CURVE_ROWS - 1)) for index in range(_CURVE_ROWS)})
    return ["step", *keys], [[str(logs[i]["step"]), *(_number(logs[i].get(key)) for key in keys)] for i in picked]


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _plotted(logs: list[dict[str, float]], path: Path, name: str) -> bool:
    """Plot the curves; say whether there is a picture of these steps to show."""
    done = False
    with warned_if_failing("The picture of the curves"):
        plot_curves(logs, path, name=name)
        done = True
    return done


def _trackers() -> list[tuple[str, str]]:
    urls = [
        ("Weights & Biases", wandb.run.url if is_wandb_available() and wandb.run is not None else None),
        ("Trackio", get_trackio_space_url()),
        ("Comet", get_comet_experiment_url()),
    ]
    return [(name, url) for name, url in urls if url]


def _versions(model: Any) -> dict[str, str]:
    # From attributes, because a source tree that is not installed has no metadata of a distribution.
    modules = [trl, transformers, torch, datasets, tokenizers]
    if is_peft_model(model):
        import peft

        modules.append(peft)
    return {"rest-trl": __version__} | {module.__name__: module.__version__ for module in modules}
