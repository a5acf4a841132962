"""
What ResT adds to a step over long trajectories of several turns, on the tiny model: `make bench-trajectories`.

Each trajectory is a dialogue of many turns: the policy reasons and calls a tool, and a result comes back, until the
given number of tokens is there. It is handed to the trainers by a `rollout_func`, so their steps are scoring, loss,
backward pass and AdamW. The sampling that a real step has besides is measured over a few tokens with an empty cache,
and taken for as fast over all of them, which it is not: the share of a whole step is an upper bound.

What is added is all that is there at once: regions and coefficients turn by turn, a reward per turn and the reward of
the calls against a gold of all calls, and credit from both. *Time*: processor time inside of these, calculation of all
rewards by TRL included. *Memory*: the peak over that of GRPO with one trivial reward,
counted as in `memory.py`.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.rewards import ToolCallReward

from .memory import COMPLETIONS, Case, make_model, peak_bytes, smallest


LENGTHS = (8192, 16_384, 32_768)
TARGET = 0.01
PROMPT_TOKENS = 64
SAMPLED_TOKENS = 128


def trajectories(length: int) -> tuple[list[list[int]], list[list[int]], list[int], str]:
    """
    Dialogues of exactly `length` tokens.

    Args:
        length (`int`):
            Tokens of a dialogue.

    Returns:
        `tuple`: for each of [`COMPLETIONS`] dialogues its token ids, 1 where a token is the policy's, and its number
        of turns; and the calls of the first, one after the other, as the gold of all.
    """
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    solutions = [text for text in load_tiny_dataset(size=512)["solution"] if "<tool_call>" in text]
    glue = "<|im_end|>\n<|im_start|>user\n<tool_response>\ndone\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    world = tokenizer(glue)["input_ids"]
    random_state = random.Random(0)
    rows, masks, counts, golds = [], [], [], []
    for _ in range(COMPLETIONS):
        ids: list[int] = []
        mask: list[int] = []
        count, gold = 0, ""
        while len(ids) < length:
            solution = random_state.choice(solutions)
            turn = tokenizer(solution)["input_ids"]
            ids += turn + world
            mask += [1] * len(turn) + [0] * len(world)
            count, gold = count + 1, gold + solution.partition("</think>")[2]
        mask = mask[:length]
        # A dialogue that is cut within the world's tokens has no turn after them.
        rows.append(ids[:length])
        masks.append(mask)
        counts.append(count)
        golds.append(gold)
    return rows, masks, counts, golds[0]


def make_trainer(arm: str, length: int, path: str) -> GRPOTrainer:
    rows, masks, counts, gold = trajectories(length)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    prompt_ids = tokenizer("".join(load_tiny_dataset(size=8)["prompt"]))["input_ids"][:PROMPT_TOKENS]

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        ids = [list(row) for row in rows], [list(mask) for mask in masks]
        return {
            "prompt_ids": [prompt_ids] * len(prompts),
            "completion_ids": ids[0],
            "logprobs": None,
            "env_mask": ids[1],
        }

    def outcome(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(index) for index in range(len(completions))]

    def paid(completions: list[Any], **kwargs: Any) -> list[list[float]]:
        return [[float((turn + row) % 3) for turn in range(count)] for row, count in enumerate(counts)]

    ours = arm == "ResT"
    config = (
        partial(ResTGRPOConfig, credit="region", coefficients={"rule": "entropy", "scope": "turn"})
        if ours
        else GRPOConfig
    )
    args = config(
        path,
        loss_type="grpo",
        beta=0.0,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=COMPLETIONS,
        num_generations=COMPLETIONS,
        max_completion_length=length,
        max_steps=1,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    set_seed(0)
    trainer = (ResTGRPOTrainer if ours else GRPOTrainer)(
        make_model(smallest(Case(arm, length=length))),
        [paid, ToolCallReward()] if ours else outcome,
        args,
        train_dataset=Dataset.from_dict({"prompt": ["the ids are fixed"] * 8, "solution": [gold] * 8}),
        processing_class=tokenizer,
        rollout_func=rollout,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def added_seconds(length: int) -> tuple[float, float]:
    """
    Train a step, and see where the time goes.

    Args:
        length (`int`):
            Tokens of a dialogue.

    Returns:
        `tuple[float, float]`: seconds of the second step, and of what is added in it.
    """
    added = 0.0
    is_inside = False

    def watch(owner: Any, method: str) -> None:
        function: Callable[..., Any] = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal added, is_inside
            if is_inside:
                return function(*args, **kwargs)
            is_inside, start = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                is_inside, added = False, added + time.process_time() - start

        setattr(owner, method, watched)

    with tempfile.TemporaryDirectory() as path:
        trainer = make_trainer("ResT", length, path)
        watch(trainer._rollout, "read")
        watch(trainer._rollout, "part_ids")
        watch(trainer, "_calculate_rewards")
        watch(trainer._credit, "advantages")
        watch(trainer, "_coefficients")
        watch(trainer, "_observe")
        for _ in range(2):  # the first step also reads the gold and loads operators
            added, start = 0.0, time.process_time()
            trainer.train()
        return time.process_time() - start, added


def sampling_seconds(length: int) -> float:
    """Seconds in which the model samples so many tokens of all dialogues, if a longer cache took no longer."""
    model = make_model(smallest(Case("sampling", length=length)))
    prompt_ids = torch.zeros(COMPLETIONS, 1, dtype=torch.long)
    lengths = {"min_new_tokens": SAMPLED_TOKENS, "max_new_tokens": SAMPLED_TOKENS}
    times = []
    for _ in range(3):
        start = time.process_time()
        model.generate(prompt_ids, attention_mask=torch.ones_like(prompt_ids), do_sample=True, **lengths)
        times.append(time.process_time() - start)
    return min(times) / SAMPLED_TOKENS * length


def peak(arm: str, length: int) -> int:
    """Bytes at the peak of making the trainer and of a step."""
    with tempfile.TemporaryDirectory() as path:
        return peak_bytes(lambda: make_trainer(arm, length, path).train())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens per dialogue")
    parser.add_argument("--time_only", action="store_true", help="leave out the memory, which takes most of the time")
    arguments = parser.parse_args()
    print("| tokens | turns | added, ms | us per token | share without sampling | share of a whole step | memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    worst = 0.0
    for length in arguments.lengths:
        step, added = added_seconds(length)
        whole = step + sampling_seconds(length)
        memory = "not measured"
        if not arguments.time_only:
            added_bytes = peak("ResT", length) - peak("GRPO", length)
            memory = f"{added_bytes / (COMPLETIONS * length):.2f} bytes per token"
        num_turns = sum(trajectories(length)[2])
        worst = max(worst, added / whole)
        print(
            f"| {COMPLETIONS} x {length:,} | {num_turns} | {added * 1e3:.0f} "
            f"| {added / length / COMPLETIONS * 1e6:.2f} | {added / step:.4f} of {step:.1f} s "
            f"| {added / whole:.4f} of {whole:.1f} s | {memory} |",
            flush=True,
        )
    print(f"trajectory_share {worst:.4f} target<={TARGET}")


if __name__ == "__main__":
    main()
