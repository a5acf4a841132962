"""The model card of a run: what was trained, on what, how, and how to load and serve it."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import is_peft_model
from huggingface_hub import ModelCard
from transformers import is_wandb_available
from trl.trainer.utils import get_comet_experiment_url, get_trackio_space_url

from ..tool_calls import Region
from .arguments import changed_arguments, is_hub_id, last_component, without_directories
from .curves import plot_curves


if is_wandb_available():
    import wandb

_TEMPLATE = Path(__file__).with_name("model_card.md")
_CURVE_ROWS = 6
_NOT_IN_VLLM = "rlla"
# By `config.model_type`, for models whose chat template thinks (vLLM 0.31).
_REASONING_PARSERS = {
    "glm4_moe": "glm45",
    "gpt_oss": "openai_gptoss",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3",
    "qwen3_5_moe": "qwen3",
    "qwen3_moe": "qwen3",
}
_LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)  # what vLLM 0.31 takes; 16 is its default


def write_model_card(trainer: Any, model_name: str | None, dataset_name: str | None) -> None:
    """
    Put our text under the metadata of TRL's card, and the curves beside it if matplotlib is installed.

    Args:
        trainer ([`ResTGRPOTrainer`]):
            The trainer, whose `output_dir` holds TRL's card as `README.md`.
        model_name (`str`, *optional*):
            Name of the model. By default that of `output_dir`.
        dataset_name (`str`, *optional*):
            Data set: a Hub id, or a path, of which only the last component is shown.
    """
    output_dir = Path(trainer.args.output_dir)
    model_name = model_name or output_dir.name
    recipe = changed_arguments(trainer.args) if trainer.recipe is None else trainer.recipe
    name_or_path = recipe.get("model_name_or_path", trainer.model.config._name_or_path)
    adapter = is_peft_model(trainer.model)
    base_on_hub = is_hub_id(name_or_path)
    data = ModelCard.load(output_dir / "README.md").data
    data.base_model = name_or_path if base_on_hub else None
    data.datasets = dataset_name if is_hub_id(dataset_name) else None
    data.model_name = model_name
    data.library_name = "peft" if adapter else "transformers"
    data.pipeline_tag = "text-generation"
    data.tags = sorted({*(data.tags or []), *(["lora"] if adapter else [])})
    data.pop("licence")  # TRL's placeholder: the licence follows from the base model's, which only the user knows
    logs = [log for log in trainer.state.log_history if "rest/progress" in log]
    plotted = bool(logs) and find_spec("matplotlib") is not None
    if plotted:
        plot_curves(logs, output_dir / "curves.png")
    columns, rows = _curve(logs)
    regions_step, regions = _regions(trainer.region_statistics, logs)
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        model_name=model_name,
        hub_model_id=trainer.hub_model_id or model_name,
        adapter=adapter,
        base_model=_link(name_or_path, ""),
        base_on_hub=base_on_hub,
        dataset=_link(dataset_name, "datasets/") if dataset_name else None,
        method=_method(trainer),
        tool_call_syntax=trainer.tool_call_syntax,
        quantization=_quantization(trainer.model),
        max_completion_length=trainer.args.max_completion_length,
        serve=serve_command(
            trainer, trainer.hub_model_id or model_name, name_or_path if base_on_hub else "BASE_MODEL"
        ),
        vllm_parser=trainer.tool_call_syntax != _NOT_IN_VLLM,
        step=trainer.state.global_step,
        max_steps=trainer.state.max_steps,
        curriculum=trainer.args.curriculum and trainer.args.coefficients == "entropy",
        progress=trainer.progress,
        trackers=_trackers(),
        coefficients=trainer.args.coefficients,
        regions=regions,
        regions_step=regions_step,
        plotted=plotted,
        curve_columns=columns,
        curve=rows,
        from_program=trainer.recipe is not None,
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        versions={
            name: version(name)
            for name in ("rest-trl", "trl", "transformers", "torch", "datasets", "tokenizers")
            + (("peft",) if adapter else ())
        },
        citation=trainer._paper["citation"],
    )
    temporary = output_dir / "README.tmp"
    card.save(temporary)
    os.replace(temporary, output_dir / "README.md")


def serve_command(trainer: Any, hub_model_id: str, base_model: str) -> str:
    """
    The command that serves the model with vLLM, tool calls parsed.

    Args:
        trainer ([`ResTGRPOTrainer`]):
            The trainer.
        hub_model_id (`str`):
            What is served.
        base_model (`str`):
            What an adapter belongs on.

    Returns:
        `str`
    """
    lines = [f"vllm serve {hub_model_id}"]
    if is_peft_model(trainer.model):
        rank = trainer.model.peft_config["default"].r
        served = next((size for size in _LORA_RANKS if size >= rank), rank)
        name = hub_model_id.split("/")[-1]
        lines = [f"vllm serve {base_model}", f"--enable-lora --lora-modules {name}={hub_model_id}"]
        lines += [f"--max-lora-rank {served}"] if served > _LORA_RANKS[0] else []
    if trainer.tool_call_syntax != _NOT_IN_VLLM:
        lines.append(f"--enable-auto-tool-choice --tool-call-parser {trainer.tool_call_syntax}")
        reasoning = _REASONING_PARSERS.get(trainer.model.config.model_type)
        if reasoning and "think" in (trainer.processing_class.chat_template or ""):
            lines.append(f"--reasoning-parser {reasoning}")
    return " \\\n  ".join(lines)


def _link(name: str, prefix: str) -> str:
    if is_hub_id(name):
        return f"[{name}](https://huggingface.co/{prefix}{name})"
    return f"`{last_component(without_directories(name))}`" if name else "a model made in memory"


def _method(trainer: Any) -> str:
    paper = f"[{trainer._paper['title']}](https://huggingface.co/papers/{trainer._paper['id']})"
    if trainer.args.coefficients == "uniform":
        return f"GRPO (`coefficients: uniform`, the baseline of {paper})"
    return paper


def _quantization(model: Any) -> str | None:
    config = model.config.to_dict().get("quantization_config")
    if config is None:
        return None
    return f"`{config['quant_method']}`" + (
        f", 4 bits ({config['bnb_4bit_quant_type']})" if config.get("load_in_4bit") else ""
    )


def _trackers() -> list[tuple[str, str]]:
    urls = [
        ("Weights & Biases", wandb.run.url if is_wandb_available() and wandb.run is not None else None),
        ("Trackio", get_trackio_space_url()),
        ("Comet", get_comet_experiment_url()),
    ]
    return [(name, url) for name, url in urls if url]


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _regions(statistics: Any, logs: Sequence[dict[str, float]]) -> tuple[int | None, list[list[str]]]:
    if sum(statistics.shares) == 0:
        return None, []
    rows = []
    for region in list(Region)[1:]:
        name = region.name.lower()
        key = f"rest/coefficient/{name}"
        coefficient = next((log[key] for log in reversed(logs) if key in log), None)
        rows.append([name, *map(_number, (statistics.entropies[region], statistics.shares[region], coefficient))])
    return int(logs[-1]["step"]) if logs else None, rows


def _curve(logs: Sequence[dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    if not logs:
        return [], []
    parts = sorted(key for key in logs[-1] if key.startswith("rewards/") and key.endswith("/mean"))
    keys = ["reward", *parts, *(["rest/reward/exact"] if "rest/reward/exact" in logs[-1] else [])]
    last = len(logs) - 1
    picked = sorted({round(index * last / (_CURVE_ROWS - 1)) for index in range(_CURVE_ROWS)})
    return ["step", *keys], [[str(logs[i]["step"]), *(_number(logs[i].get(key)) for key in keys)] for i in picked]
