"""
What ResT adds to GRPO for a model of the size of Qwen3-1.7B, on a GPU: `make bench-gpu`.

The model is random: time and memory do not depend on the values of its weights. Completions are fixed: sampling, the
same for both and most of a real step, would only make the ratio smaller. A step is scoring, loss and backward pass of
all micro-batches, and AdamW with a learning rate of 0, so that every step does the same work. GRPO and ResT share
model and optimizer and take turns (ABBA); the ratio of each pair counts. Peak memory is taken of each alone.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed, tqdm
from transformers import AutoTokenizer, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset

from .regions import completions
from .rewards import rule_rewards


# What shared prompts save would hide what ResT adds; `prompts.py` measures it.
ARMS = {"GRPO": (GRPOTrainer, GRPOConfig), "ResT": (ResTGRPOTrainer, partial(ResTGRPOConfig, share_prompts="false"))}
TARGETS = {"time": 1.003, "memory": 1.005}
NUM_GENERATIONS = 8
WARMUP = 2  # pairs
# Qwen/Qwen3-1.7B, config.json
FULL = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
}
TINY = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def make_model(arguments: dict[str, Any], device: torch.device) -> PreTrainedModel:
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    config = Qwen3Config(
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **arguments,
    )
    set_seed(0)
    with device:
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


class Arm:
    """One of the two trainers, and a step of it on fixed completions."""

    def __init__(
        self, name: str, model: PreTrainedModel, optimizer: torch.optim.Optimizer, sizes: argparse.Namespace, path: str
    ) -> None:
        trainer_class, config_class = ARMS[name]
        self.device, self.optimizer = model.device, optimizer
        self.micro_batches = sizes.completions // sizes.micro_batch_size
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
        self.trainer: Any = trainer_class(
            model,
            rule_rewards(tokenizer),
            config_class(
                path,
                loss_type="grpo",
                beta=0.0,
                per_device_train_batch_size=sizes.micro_batch_size,
                gradient_accumulation_steps=self.micro_batches,
                num_generations=NUM_GENERATIONS,
                max_completion_length=sizes.length,
                max_steps=1000,
                gradient_checkpointing=True,
                bf16=True,
                use_cpu=model.device.type == "cpu",
                report_to="none",
            ),
            train_dataset=load_tiny_dataset(size=sizes.completions),
            processing_class=tokenizer,
        )
        self.trainer.current_gradient_accumulation_steps = self.micro_batches
        rows = list(self.trainer.train_dataset)[: sizes.completions // NUM_GENERATIONS]
        self.batch = [row for row in rows for _ in range(NUM_GENERATIONS)]
        self.sampled = completions(sizes.length)[: sizes.completions].tolist()
        self.trainer._generate_single_turn = lambda *args, **kwargs: ([list(ids) for ids in self.sampled], None)

    def step(self) -> float:
        """Seconds of an optimiser step, from an idle device to an idle device."""
        set_seed(0)
        synchronize(self.device)
        start = time.perf_counter()
        for index in range(self.micro_batches):
            self.trainer.accelerator.gradient_state._set_sync_gradients(index == self.micro_batches - 1)
            self.trainer.training_step(self.trainer.model, self.batch, None)
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronize(self.device)
        return time.perf_counter() - start

    def partition_time(self, repeats: int = 21) -> float:
        """Seconds that finding the regions of a rollout takes, in the median."""
        ids = torch.tensor(self.sampled, device=self.device)
        mask, times = torch.ones_like(ids), []
        for _ in range(repeats):
            synchronize(self.device)
            start = time.perf_counter()
            self.trainer.partitioner(ids, mask)
            synchronize(self.device)
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_of_step(arm: Arm) -> int:
    """Peak of the allocated bytes over a step, after one step that allocates what stays."""
    arm.step()
    if arm.device.type == "cpu":
        from .memory import peak_bytes  # needs peft, which the GPU machine may lack

        return peak_bytes(arm.step)
    gc.collect()
    torch.cuda.reset_peak_memory_stats(arm.device)
    arm.step()
    return torch.cuda.max_memory_allocated(arm.device)


def median_interval(values: list[float]) -> tuple[float, float]:
    """95% bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(values, (9999, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def run(sizes: argparse.Namespace) -> dict[str, Any]:
    """
    Args:
        sizes (`argparse.Namespace`):
            `device`, `tiny`, `completions`, `length` (tokens), `micro_batch_size`, `pairs`.

    Returns:
        `dict`: figures and what they were measured on; seconds and bytes.
    """
    device = torch.device(sizes.device)
    model = make_model(TINY if sizes.tiny else FULL, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
    peaks = {}
    with tempfile.TemporaryDirectory() as path:
        for name in ARMS:
            arm = Arm(name, model, optimizer, sizes, path)
            peaks[name] = peak_of_step(arm)
            del arm
            gc.collect()
        arms = {name: Arm(name, model, optimizer, sizes, path) for name in ARMS}
        times: dict[str, list[float]] = {name: [] for name in ARMS}
        for index in tqdm(range(-WARMUP, sizes.pairs), desc="pairs of steps"):
            pair = list(arms) if index % 2 else list(reversed(arms))
            for name in pair:
                seconds = arms[name].step()
                if index >= 0:
                    times[name].append(seconds)
        partition = arms["ResT"].partition_time()
    ratios = [rest / grpo for rest, grpo in zip(times["ResT"], times["GRPO"], strict=True)]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "trl", "transformers")},
        "parameters": model.num_parameters(),
        **{name: getattr(sizes, name) for name in ("completions", "length", "micro_batch_size", "pairs")},
        "step_seconds": {name: statistics.median(values) for name, values in times.items()},
        "time_ratio": statistics.median(ratios),
        "time_ratio_interval": median_interval(ratios),
        "peak_bytes": peaks,
        "memory_ratio": peaks["ResT"] / peaks["GRPO"],
        "partition_seconds": partition,
        "partition_share": partition / statistics.median(times["ResT"]),
        "all_step_seconds": times,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    low, high = figures["time_ratio_interval"]
    seconds, peaks = figures["step_seconds"], figures["peak_bytes"]
    rows = [
        ("", "GRPO", "ResT", "ratio", "95% interval", "target"),
        ("---",) * 6,
        (
            "step, s (median)",
            f"{seconds['GRPO']:.3f}",
            f"{seconds['ResT']:.3f}",
            f"{figures['time_ratio']:.5f}",
            f"{low:.5f} to {high:.5f}",
            f"<= {TARGETS['time']}",
        ),
        (
            "peak memory, GB",
            f"{peaks['GRPO'] / 1e9:.4f}",
            f"{peaks['ResT'] / 1e9:.4f}",
            f"{figures['memory_ratio']:.5f}",
            "exact",
            f"<= {TARGETS['memory']}",
        ),
        (
            "regions of the rollout, ms",
            "",
            f"{figures['partition_seconds'] * 1e3:.2f}",
            f"{figures['partition_share']:.3%} of a step",
            "",
            "",
        ),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="a tiny model: shows that the program runs, nothing else")
    parser.add_argument("--completions", type=int, default=64, help="per step, at most 64")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a completion")
    parser.add_argument("--micro_batch_size", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--output", type=Path, help="JSON file for the figures and every step's time")
    sizes = parser.parse_args(arguments)
    if sizes.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU: install a CUDA build of it, or run --device cpu --tiny")
    if sizes.completions % sizes.micro_batch_size or sizes.completions % NUM_GENERATIONS or sizes.completions > 64:
        parser.error(f"--completions must be at most 64 and a multiple of --micro_batch_size and {NUM_GENERATIONS}")
    figures = run(sizes)
    print(
        f"{figures['device']}, {figures['parameters'] / 1e6:.1f}M parameters in bf16, {sizes.completions} completions "
        f"of {sizes.length} tokens in micro-batches of {sizes.micro_batch_size}, {sizes.pairs} pairs\n"
    )
    print(table(figures))
    if sizes.output is not None:
        temporary = sizes.output.with_suffix(".partial")
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
        os.replace(temporary, sizes.output)


if __name__ == "__main__":
    main()
