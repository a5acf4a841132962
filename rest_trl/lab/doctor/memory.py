"""What a LoRA or QLoRA run takes of a GPU at least: what can be counted without a GPU, and nothing that is guessed."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ...runs.listing import read_head
from .finding import Finding
from .model_and_data import load_options


GIB = 2**30
# [ours] GiB that a card of so many nominal GB offers: one of 24 GB has 22.5 to 24, one of 80 GB has 79.
OFFERED = {24: 22.5, 80: 79.0}
# [QLoRA] Bytes per weight: 4 bits, an 8-bit scale for each 64 weights, a 32-bit scale for each 256 scales.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
_ASSUMED = "counted are LoRA and QLoRA of GRPO, on all linear layers"


def count(config: Any, rank: int, **options: Any) -> tuple[int, int, int]:
    """Count the weights of a model, those of its linear layers but the head, and those of adapters on these."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, **options)
    head = model.get_output_embeddings()
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]
    return (
        sum(weight.numel() for weight in model.parameters()),
        sum(layer.weight.numel() for layer in linear),
        sum(rank * (layer.in_features + layer.out_features) for layer in linear),
    )


def memory_findings(path: Path, run: dict[str, Any], is_rl: bool, learned: dict[str, Any]) -> Iterator[Finding]:
    """
    Yield a finding on whether what is always in memory fits a card; the activations of an update come on top.

    Where there is no GPU, the card that the head of the recipe names is assumed. `run` has the defaults filled in.
    """
    sharded = learned.get("launch_config", {}).get("distributed_type") in ("FSDP", "DEEPSPEED")
    meant = re.search(r"one card of (\d+) GB", read_head(path, path.stem).hardware)
    cards = [gpu["memory"] / GIB for gpu in learned.get("gpus", [])]
    if run.get("use_cpu") or sharded or not (cards or meant):
        return
    is_lora = run.get("use_peft") and run.get("lora_target_modules") == "all-linear"
    if not (is_lora and is_rl) or run.get("load_in_8bit"):
        yield Finding("Recipe: memory", "ok", f"not counted: {_ASSUMED}")
        return
    try:
        from transformers import AutoConfig

        source, options = load_options(run, cache_only="hub_error" in learned)
        config = AutoConfig.from_pretrained(source, **options)
        weights, linear, adapters = count(config, run["lora_r"], trust_remote_code=options["trust_remote_code"])
        width = 2 if _dtype(run, config) in ("bfloat16", "float16") else 4
    except Exception:  # other findings report a model that cannot be read, and arguments that are malformed
        return
    card = min(cards) if cards else OFFERED.get(int(meant[1]), float(meant[1])) if meant else 0.0
    quantized = linear if run.get("load_in_4bit") else 0
    parts = {
        "weights": (quantized * _NF4 + (weights - quantized) * width) / GIB,
        # TRL keeps the adapters of a quantised model in bfloat16, PEFT those of another in float32.
        "adapters with gradients and moments": adapters * 4 * (2 if quantized else 4) / GIB,
    }
    share = 0.0
    if run["use_vllm"] and run["vllm_mode"] == "colocate":
        parts["vLLM"] = share = run["vllm_gpu_memory_utilization"] * card
    least = sum(parts.values())
    told = ", ".join(f"{name} {size:.1f}" for name, size in parts.items())
    found = f"at least {least:.1f} GiB, and {'the card has' if cards else 'such a card offers'} {card:.1f} ({told})"
    cure = "lower vllm_gpu_memory_utilization, or set dtype: bfloat16 or load_in_4bit"
    if share and share < weights * 2 / GIB:  # vLLM loads the weights once more, in 16 bits
        cure = "raise vllm_gpu_memory_utilization: vLLM's share does not hold the weights"
    elif least <= card:
        yield Finding("Recipe: memory", "ok", f"{found}; {_on_top(run)} come on top")
        return
    yield Finding("Recipe: memory", "problem", found, cure)


def _on_top(run: dict[str, Any]) -> str:
    """What an update takes, by the most tokens that it computes at a time."""
    told, limit = "the activations of an update", run.get("max_prompt_length")
    if not limit:
        return told
    rows, group, completion = (
        run[name] for name in ("per_device_train_batch_size", "num_generations", "max_completion_length")
    )
    told = f"{told}, of up to {rows * (limit + completion):,} tokens"
    prompts = math.ceil((rows + group - math.gcd(rows, group)) / group)  # of as many groups are its rows
    if str(run["share_prompts"]).lower() == "false" or prompts == rows:
        return told
    return f"{told}, or {prompts * limit + rows * completion:,} with each prompt computed once,"


def _dtype(run: dict[str, Any], config: Any) -> str:
    """The type in which TRL loads the weights; `model_init_kwargs` override the recipe, and `auto` is the model's."""
    given = run.get("model_init_kwargs") or {}
    given = yaml.safe_load(given) if isinstance(given, str) else given  # TRL reads a string as JSON
    dtype: str | None = given.get("dtype", run["dtype"])
    return str(config.dtype).removeprefix("torch.") if dtype in (None, "auto") else str(dtype)
