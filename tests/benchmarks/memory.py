"""
Peak memory that ResT adds to GRPO, on a CPU: `make bench-memory`.

PyTorch's profiler gets an event from the CPU allocator for every tensor that is allocated or freed, temporaries inside
operators included. Their running sum is the number of bytes held by tensors; its maximum over the making of the model
and whole optimiser steps (rollout, scoring, loss, backward pass, AdamW) is the peak. It counts bytes that were asked
for, not pages of the process, so it is the same in every run, whatever else the machine does.

Both trainers get the same fixed completions. All prompts have one length and all completions another: then the
attention needs no mask of shape (B, 1, T, T), which would only make the share of ResT smaller.
"""

import argparse
import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from peft import LoraConfig
from torch._C._profiler import _EventType, _ProfilerEvent
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, PreTrainedModel, PrinterCallback, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset

from .regions import completions


TARGET = 1.005
ARMS = {
    "GRPO": (GRPOTrainer, GRPOConfig),
    "ResT": (ResTGRPOTrainer, ResTGRPOConfig),
    "region credit": (ResTGRPOTrainer, partial(ResTGRPOConfig, credit="region")),
}
COMPLETIONS = 2
PROMPT_TOKENS = 64
VOCABULARY = 32_768


@dataclass
class Case:
    """What is trained, and how: for two steps, each of 2 completions in 2 micro-batches."""

    name: str
    length: int = 1024
    vocabulary: int = VOCABULARY
    dtype: torch.dtype = torch.float32
    lora: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    hidden: int = 128
    layers: int = 2


CASES = [
    Case("full"),
    Case("LoRA", lora=True),
    Case("gradient checkpointing", arguments={"gradient_checkpointing": True}),
    Case("bf16 autocast", arguments={"bf16": True}),
    Case("bf16 weights", dtype=torch.bfloat16, arguments={"bf16": True}),
    Case(
        "bf16 weights, LoRA, gradient checkpointing",
        dtype=torch.bfloat16,
        lora=True,
        arguments={"bf16": True, "gradient_checkpointing": True},
    ),
    Case("num_iterations=2", arguments={"num_iterations": 2, "max_steps": 4}),
    Case("4,096 tokens", length=4096),
    Case("4,096 tokens, gradient checkpointing", length=4096, arguments={"gradient_checkpointing": True}),
]


def smallest(case: Case) -> Case:
    """The case with a model so small that what ResT adds weighs the most."""
    return replace(case, name=f"{case.name}; hidden 64", vocabulary=1024, hidden=64)


def peak_bytes(function: Callable[[], object]) -> int:
    """
    The most bytes that tensors allocated since the call of `function` held at a time.

    Args:
        function (`Callable`):
            Takes no arguments.

    Returns:
        `int`: bytes.
    """
    gc.collect()
    # Cyclic garbage is freed at moments that depend on what else the process did: here it stays, in both arms.
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
            function()
    finally:
        gc.enable()
    held, total, peak = {}, 0, 0
    for _, address, size in sorted(_allocations(profiler.profiler.kineto_results.experimental_event_tree())):
        if size > 0:
            held[address] = size
            total += size
        else:
            # The allocator also reports the end of some tensors that were made before the call, and which of them it
            # reports depends on the addresses that earlier profiles saw.
            total -= held.pop(address, 0)
        peak = max(peak, total)
    return peak


def _allocations(events: list[_ProfilerEvent]) -> Iterator[tuple[int, int, int]]:
    """Time in nanoseconds, address and bytes of each allocation in the trees of events; frees have negative bytes."""
    pending = list(events)
    while pending:
        event = pending.pop()
        pending += event.children
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.typed[1].ptr, event.typed[1].alloc_size


def make_model(case: Case) -> PreTrainedModel:
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    set_seed(0)
    config = Qwen3Config(
        vocab_size=max(case.vocabulary, len(tokenizer)),
        hidden_size=case.hidden,
        intermediate_size=3 * case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=case.hidden // 4,
        max_position_embeddings=case.length + PROMPT_TOKENS,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config).to(case.dtype)


def length_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [float(sum(ids) % 11) for ids in completion_ids]


def make_trainer(arm: str, case: Case, path: str) -> GRPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    trainer_class, config_class = ARMS[arm]
    defaults = {
        "loss_type": "grpo",
        "beta": 0.0,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": COMPLETIONS,
        "num_generations": COMPLETIONS,
        "max_completion_length": case.length,
        "max_steps": 2,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    prompt_ids = tokenizer("".join(load_tiny_dataset(size=8)["prompt"]))["input_ids"][:PROMPT_TOKENS]
    trainer = trainer_class(
        make_model(case),
        length_reward,
        config_class(path, **(defaults | case.arguments)),
        train_dataset=Dataset.from_dict({"prompt": ["the ids are fixed"] * 8}),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear") if case.lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    sampled = completions(case.length)[:COMPLETIONS].tolist()
    trainer._tokenize_prompts = lambda prompts: ([prompt_ids] * len(prompts), None, {})
    trainer._generate_single_turn = lambda *args, **kwargs: ([list(ids) for ids in sampled], None)
    return trainer


def measure(arm: str, case: Case) -> tuple[int, int]:
    """
    Make the model, train it for the steps of the case and see what is held.

    Args:
        arm (`str`):
            One of `ARMS`.
        case (`Case`):
            What is trained.

    Returns:
        `tuple[int, int]`: peak, and the rollouts' buffer at the end, in bytes.
    """
    trainers = []
    with tempfile.TemporaryDirectory() as path:

        def train() -> None:
            trainers.append(make_trainer(arm, case, path))
            trainers[0].train()

        peak = peak_bytes(train)
    tensors = [value for inputs in trainers[0]._buffered_inputs for value in inputs.values()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return peak, sum(storages.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--case", help="only the cases whose name contains this")
    selected = parser.parse_args().case
    worst = 0.0
    print("| case | peak of GRPO, MB | ResT adds at the peak, kB | ratio | buffer, bytes per token: GRPO | ResT |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in [*CASES, *map(smallest, CASES)]:
        if selected is not None and selected not in case.name:
            continue
        (grpo, grpo_buffer), (rest, rest_buffer) = (measure(arm, case) for arm in ARMS)
        tokens = COMPLETIONS * case.length
        worst = max(worst, rest / grpo)
        print(
            f"| {case.name} | {grpo / 1e6:.1f} | {(rest - grpo) / 1e3:.1f} | {rest / grpo:.5f} "
            f"| {grpo_buffer / tokens:.2f} | {rest_buffer / tokens:.2f} |",
            flush=True,
        )
    print(f"peak_memory_ratio {worst:.5f} target<={TARGET}")


if __name__ == "__main__":
    main()
