"""
What ResT adds to a training step of GRPO, and region credit and shared prompts to one of ResT, on the tiny model:
`make bench-step`.

Sampling is most of a step, the same for both, and the noisiest part of it. So the difference is measured on steps that
reuse the sampled completions (scoring, loss, backward pass; the trainers in turn, round by round, the same weights, no
optimiser step) and set against whole steps of GRPO. Processor time of the one thread: other work on the machine does
not count.
"""

import copy
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed, tqdm
from scipy.stats import bootstrap
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset

from .rewards import rule_rewards


ROUNDS = 60
WHOLE_STEPS = 11
WARMUP = 3
COMPLETIONS = 64
# By the names of what is compared: the arm, the arm that it is set against, and the target of their ratio.
COMPARISONS = {
    "step_overhead": ("ResT", "GRPO", 1.01),
    "credit_overhead": ("region credit", "ResT", 1.005),
    "shared_prompts": ("shared prompts", "ResT", 1.02),
}


def make_trainer(
    trainer_class: type[GRPOTrainer], config_class: type[GRPOConfig], path: str, **arguments: Any
) -> GRPOTrainer:
    args = config_class(
        path,
        loss_type="grpo",
        beta=0.0,
        per_device_train_batch_size=COMPLETIONS,
        num_generations=8,
        max_completion_length=128,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **arguments,
    )
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, dtype=torch.float32),
        rule_rewards(tokenizer),
        args,
        train_dataset=load_tiny_dataset(size=COMPLETIONS),
        processing_class=tokenizer,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def step_time(trainer: GRPOTrainer, batch: list[dict[str, Any]]) -> float:
    set_seed(0)
    start = time.process_time()
    trainer.training_step(trainer.model, batch, None)
    elapsed = time.process_time() - start
    trainer.model.zero_grad()
    return elapsed


def reuse_completions(trainer: GRPOTrainer, batch: list[dict[str, Any]]) -> None:
    """Let the trainer sample once more, and from then on take the completions of that time."""
    sample, samples = trainer._generate_single_turn, []

    def record(*args: Any, **kwargs: Any) -> Any:
        samples.append(sample(*args, **kwargs))
        return samples[0]

    trainer._generate_single_turn = record
    step_time(trainer, batch)
    trainer._generate_single_turn = lambda *args, **kwargs: copy.deepcopy(samples[0])


def report(name: str, step: float, times: dict[str, list[float]]) -> None:
    arm, baseline, target = COMPARISONS[name]
    differences = [ours - theirs for ours, theirs in zip(times[arm], times[baseline], strict=True)]
    difference = statistics.median(differences)
    interval = bootstrap((differences,), np.median, random_state=0).confidence_interval
    low, high = 1 + interval.low / step, 1 + interval.high / step
    print(
        f"{arm} - {baseline}: median {difference * 1e3:.2f} ms, {ROUNDS} rounds, {torch.get_num_threads()} thread(s)"
    )
    print(f"95% interval of the overhead, as far as this machine's noise lets it be told: {low:.4f} to {high:.4f}")
    print(f"{name} {1 + difference / step:.4f} target<={target}")


def main() -> None:
    with tempfile.TemporaryDirectory() as path:
        trainers = {
            "GRPO": make_trainer(GRPOTrainer, GRPOConfig, path),
            "ResT": make_trainer(ResTGRPOTrainer, ResTGRPOConfig, path, share_prompts="false"),
            "region credit": make_trainer(
                ResTGRPOTrainer, ResTGRPOConfig, path, share_prompts="false", credit="region"
            ),
            "shared prompts": make_trainer(ResTGRPOTrainer, ResTGRPOConfig, path),
        }
        grpo = trainers["GRPO"]
        batch = [row for row in list(grpo.train_dataset)[: COMPLETIONS // 8] for _ in range(8)]
        whole = [step_time(grpo, batch) for _ in tqdm(range(WHOLE_STEPS), desc="whole steps of GRPO")][1:]
        for trainer in trainers.values():
            reuse_completions(trainer, batch)
        times: dict[str, list[float]] = {name: [] for name in trainers}
        for index in tqdm(range(-WARMUP, ROUNDS), desc="rounds of steps without sampling"):
            names = list(trainers)
            # Each trainer is as often the first of its round as the last.
            for name in names if index % 2 else reversed(names):
                taken = step_time(trainers[name], batch)
                if index >= 0:
                    times[name].append(taken)
    step = statistics.median(whole)
    print(
        f"GRPO: median {step * 1e3:.0f} ms per whole step of {COMPLETIONS} completions, "
        f"{torch.get_num_threads()} thread(s)"
    )
    for name in COMPARISONS:
        report(name, step, times)


if __name__ == "__main__":
    main()
