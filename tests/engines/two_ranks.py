"""
The program that the ranks of tests/test_distributed.py run, under `torchrun` or `accelerate launch` or as one process.

Completions are fixed, so that any number of ranks trains on the same batch; each rank writes what it has seen to
`{output}/rank{rank}.pt`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR


GENERATIONS = 4
ROWS = 16  # completions of an optimiser step
ACCUMULATION = 2
STEPS = 4

CALLS = [
    "<think>\nParis, then\nlunch\n</think>\n\n<tool_call>\n"
    '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    '<tool_call>\n{"name": "add_event", "arguments": {"title": "lunch", "days": 3}}\n</tool_call>\n<tool_call>\n'
    '{"name": "get_weather", "arguments": {"city": "Rome", "days": 12}}\n</tool_call>',
    '<think> the weather </think><tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>',
    "I cannot help with that.",
]
ANSWERS = ["sunny", "21 degrees", "The weather in Paris is sunny.", "<think> no tool </think> no"]
# Prompts 4k to 4k + 3 are those of step k. Of two ranks the first has the first two, the second the others: in step 0
# no call and far shorter completions, in step 1 only truncated completions, all masked, in step 2 nothing special.
KINDS = ["calls", "calls", "answers", "answers"] + ["calls", "answers", "cut", "cut"] + ["calls", "answers"] * 4
PROMPTS = [f"{i}: {kind}" for i, kind in enumerate(KINDS)]
LONG = "What to answer is said at the end of this prompt, which all completions of a group have. "
SOLUTIONS = [CALLS[0] if kind == "calls" else ANSWERS[0] for kind in KINDS]  # for gold_weight


def completion(prompt: str, index: int, tokenizer: Any) -> list[int]:
    """Ids of the completion `index` of a group; no two of a run are equal."""
    number, kind = prompt.removeprefix(LONG).split(": ")
    texts = CALLS if kind == "calls" else ANSWERS
    ids = tokenizer(f"{texts[index]} {number}")["input_ids"]
    return ids if kind == "cut" else [*ids, tokenizer.eos_token_id]


def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": tokenizer(prompts)["input_ids"],
        "completion_ids": [completion(prompt, i % GENERATIONS, tokenizer) for i, prompt in enumerate(prompts)],
        "logprobs": None,
    }


def reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [float(sum(ids) % 17) for ids in completion_ids]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


class Record(TrainerCallback):
    """What the trainer of one rank has seen: one entry for each optimiser step."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.statistics: list[dict[str, Any]] = []
        # by step and completion ids: the completion's coefficients
        self.coefficients: dict[tuple[int, ...], torch.Tensor] = {}
        # by micro-batch: shape, unmasked tokens and regions
        self.shapes: list[tuple[int, ...]] = []
        self.unmasked: list[int] = []
        self.regions: list[list[int]] = []

    def attach(self, trainer: Any) -> None:
        self.trainer = trainer
        trainer.add_callback(self)
        if not isinstance(trainer, ResTGRPOTrainer):
            return
        inner, pad = trainer.rule, trainer.processing_class.pad_token_id

        def observed(**kwargs: Any) -> torch.Tensor:
            coefficients = inner(**kwargs)
            self.shapes.append(tuple(kwargs["completion_ids"].shape))
            self.unmasked.append(int(kwargs["mask"].sum()))
            self.regions.append(kwargs["region_ids"].unique().tolist())
            for i, ids in enumerate(kwargs["completion_ids"]):
                real = ids != pad
                key = (trainer.state.global_step, *ids[real].tolist())
                self.coefficients[key] = coefficients[i, real].clone()
            return coefficients

        trainer.rule = observed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.distributed_type != DistributedType.DEEPSPEED:
            return
        from deepspeed.utils import safe_get_full_grad

        engine = self.trainer.model_wrapped
        step = engine.step

        def recorded(*args: Any, **kwargs: Any) -> None:  # the engine steps by itself, and frees the gradients
            self.gradients.append(
                {name: safe_get_full_grad(p).clone() for name, p in engine.module.named_parameters()}
            )
            step(*args, **kwargs)

        engine.step = recorded

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.distributed_type != DistributedType.DEEPSPEED:
            model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
            self.gradients.append({name: whole(p.grad) for name, p in model.named_parameters()})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state_dict = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped) or {}  # ZeRO-3: rank 0 only
        self.weights.append({name: whole(tensor) for name, tensor in state_dict.items()})
        if isinstance(self.trainer, ResTGRPOTrainer):
            self.statistics.append(self.trainer.region_statistics.state())

    def result(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "shared": getattr(trainer, "shared_prompts", None) is not None and trainer.shared_prompts.is_checked,
            "num_processes": trainer.accelerator.num_processes,
            "distributed_type": trainer.accelerator.distributed_type.value,
            "wrapper": type(trainer.model_wrapped).__name__,
            "gradients": self.gradients,
            "weights": self.weights,
            "statistics": self.statistics,
            "coefficients": self.coefficients,
            "shapes": self.shapes,
            "unmasked": self.unmasked,
            "regions": self.regions,
            "logs": trainer.state.log_history,
        }


def run(
    options: argparse.Namespace,
    path: Path,
    resume: str | None = None,
    dtype: str = "float64",
    prompts: list[str] = PROMPTS,
    **changes: Any,
) -> dict[str, Any]:
    """Train once, on the number of processes that there are."""
    arguments: dict[str, Any] = {
        "output_dir": str(path),
        "loss_type": "grpo",
        "beta": 0.0,
        "num_generations": GENERATIONS,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": STEPS,
        "max_completion_length": 128,
        "mask_truncated_completions": True,
        "shuffle_dataset": False,
        "optim": "sgd",
        "learning_rate": 3e-4,  # larger updates would magnify the roundings of one step in the next
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,  # no clipping
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "use_cpu": options.sharded is None,
        "ddp_backend": "gloo" if options.sharded else None,
    } | changes
    cls: Any = ResTGRPOTrainer
    if arguments.get("coefficients") == "grpo":
        del arguments["coefficients"]
        cls = GRPOTrainer
    args = (ResTGRPOConfig if cls is ResTGRPOTrainer else GRPOConfig)(
        **arguments, per_device_train_batch_size=ROWS // ACCUMULATION // options.ranks
    )
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    trainer = cls(
        AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, dtype=dtype),
        reward,
        args,
        train_dataset=Dataset.from_dict({"prompt": prompts, "solution": SOLUTIONS}),
        processing_class=tokenizer,
        rollout_func=rollout,
    )
    record = Record()
    record.attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return record.result()


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """
    What `--runs` names: `main`, `resume` (of it), `gold` (with `gold_weight`), `float32` (in single precision),
    `shared` and `separate` (longer prompts, computed once or for each completion), or as `dapo/entropy`.
    """
    results: dict[str, Any] = {}
    path = options.output / "run"
    for name in options.runs:
        if name == "main":
            results[name] = run(options, path / name, save_strategy="steps", save_steps=2)
        elif name == "resume":
            checkpoint = str(path / "main" / "checkpoint-2")
            results[name] = run(options, path / name, checkpoint, save_strategy="steps", save_steps=2)
        elif name == "gold":
            results[name] = run(options, path / name, gold_weight=1.0)
        elif name == "float32":  # as DeepSpeed wants it
            results[name] = run(options, path / name, dtype=name)
        elif name in ("shared", "separate"):
            prompts = [LONG + prompt for prompt in PROMPTS]
            mode = "true" if name == "shared" else "false"
            results[name] = run(options, path / name, prompts=prompts, share_prompts=mode)
        else:
            loss_type, coefficients = name.split("/")
            changes = {"loss_type": loss_type, "coefficients": coefficients, "max_steps": 2}
            if coefficients != "grpo":  # TRL's order of rows, on which the gradient of bnpo depends
                changes["share_prompts"] = "false"
            results[name] = run(options, path / name, **changes)
    return results


def let_cpus_shard() -> None:
    """
    Let accelerate shard on CPUs.

    It shards only on accelerators: with `use_cpu`, FSDP and DeepSpeed silently become DDP. All that is answered here
    is which backend there is; plugins, `fully_shard` and engine are those of accelerate, torch and DeepSpeed. The
    device is named by ACCELERATE_TORCH_DEVICE.
    """
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ranks", type=int, required=True, help="processes that there should be")
    parser.add_argument("--runs", nargs="+", default=["main"])
    parser.add_argument("--sharded", choices=["fsdp", "deepspeed"], help="what the accelerate config asks for")
    options = parser.parse_args()
    if options.sharded is not None:
        let_cpus_shard()
    if options.sharded == "deepspeed":
        # A collective over shared memory that it would compile at each first run; gloo does the same.
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    results = run_all(options)
    torch.save(results, options.output / f"rank{PartialState().process_index}.pt")


if __name__ == "__main__":
    main()
