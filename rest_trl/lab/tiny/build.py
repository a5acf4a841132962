"""
Rebuilds the tiny checkpoint of the world, of tasks or of the help desk, on one CPU core and without a network:

    export OMP_NUM_THREADS=1
    python -m rest_trl.lab.tiny.build --output_dir rest_trl/lab/tiny/checkpoints/world
    python -m rest_trl.lab.tiny.build --demonstrations decides --gold_steps 1600 \
        --output_dir rest_trl/lab/tiny/checkpoints/decides
    python -m rest_trl.lab.tiny.build --demonstrations copies --gold_steps 2400 --faulty_steps 80 \
        --output_dir rest_trl/lab/tiny/checkpoints/copies
    python -m rest_trl.lab.tiny.build --demonstrations agents --gold_steps 2000 --faulty_steps 500 \
        --output_dir rest_trl/lab/tiny/checkpoints/agents

The warm start first learns gold demonstrations and ends on partly faulty ones (`rest_trl.lab.tiny.faults`,
`rest_trl.lab.tiny.agents.dialogues`). The completions that such a model samples are
well-formed but often wrong, and reinforcement learning can correct them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import GenerationConfig, HfArgumentParser, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.hf_argparser import DataClassType

from .agents import generate_agent_steps
from .agents.dialogues import sample_faulty_dialogue
from .faults import corrupt_task, corrupt_world
from .tasks import generate_task
from .tokenization import MAX_LENGTH, RESPONSE_TEMPLATE, build_tokenizer, render_prompt
from .world import Step, generate


CORPUS_SIZE = 4000  # gold steps that the tokenizer is trained on
WARMUP_STEPS = 100
POOL_BATCHES = 16  # size of the pool that batches are cut from, sorted by length to save padding
# The tasks that each checkpoint learns in turn. The checkpoint `decides` does not master the other two tasks: they
# take longer to learn, and have a checkpoint of their own.
TASK_CYCLES = {"decides": ("decides", "calls", "decides", "arguments"), "copies": ("calls", "arguments")}


@dataclass
class BuildArguments:
    """Arguments of the build."""

    output_dir: str = field(metadata={"help": "Where the checkpoint is written."})
    demonstrations: str = field(
        default="world",
        metadata={
            "help": "What is learned: the world, the task decides, calls and arguments, or the help desk of agents.",
            "choices": ["world", *TASK_CYCLES, "agents"],
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, demonstrations and faults."})
    gold_steps: int = field(default=3000, metadata={"help": "Optimiser steps on gold demonstrations."})
    faulty_steps: int = field(default=200, metadata={"help": "Optimiser steps on partly faulty demonstrations."})
    faulty_share: float = field(
        default=0.55, metadata={"help": "Share of faulty demonstrations in the second phase, of the world."}
    )
    batch_size: int = field(default=16, metadata={"help": "Demonstrations per optimiser step."})
    learning_rate: float = field(default=4e-3, metadata={"help": "Peak learning rate."})


def generate_gold(args: BuildArguments, seed: int) -> Iterator[Step]:
    """Endless gold steps for training, from the world, from the help desk, or from tasks in turn."""
    if args.demonstrations == "world":
        return generate("train", seed=seed)
    if args.demonstrations == "agents":
        return generate_agent_steps("train", seed)
    tasks = TASK_CYCLES[args.demonstrations]
    streams = {task: generate_task(task, "train", seed=seed) for task in set(tasks)}
    return (next(streams[task]) for task in cycle(tasks))


def generate_faulty(args: BuildArguments, seed: int, rng: Random) -> Iterator[Step]:
    """Endless steps for training, some of which are faulty."""
    if args.demonstrations == "agents":
        return generate("train", seed, sample_faulty_dialogue)
    gold = generate_gold(args, seed)
    if args.demonstrations == "world":
        return (corrupt_world(step, rng) if rng.random() < args.faulty_share else step for step in gold)
    return (corrupt_task(step, rng) for step in gold)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of half a million parameters with random weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.08,  # about 1 / sqrt(hidden_size): the default of 0.02 learns slowly at this width
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def demonstration_batches(
    steps: Iterator[Step], tokenizer: PreTrainedTokenizerFast, batch_size: int, rng: Random
) -> Iterator[dict[str, torch.Tensor]]:
    """
    Batches of demonstrations, padded right, until `steps` ends; a last batch that is not full is dropped.

    `input_ids` and `attention_mask` have the shape `(batch_size, T)`, and `loss_mask` has `(batch_size, T - 1)`: true
    where the next token belongs to the completion or ends its turn.
    """
    while pool := [encode(step, tokenizer) for step in islice(steps, POOL_BATCHES * batch_size)]:
        pool.sort(key=lambda row: len(row[0]))
        starts = list(range(0, len(pool) - batch_size + 1, batch_size))
        rng.shuffle(starts)
        for start in starts:
            rows, prompt_lengths = zip(*pool[start : start + batch_size], strict=True)
            lengths = torch.tensor([len(ids) for ids in rows])[:, None]
            input_ids = pad_sequence([torch.tensor(ids) for ids in rows], batch_first=True)
            positions = torch.arange(input_ids.shape[1])
            yield {
                "input_ids": input_ids,
                "attention_mask": (positions < lengths).long(),
                "loss_mask": (positions[1:] >= torch.tensor(prompt_lengths)[:, None]) & (positions[1:] < lengths),
            }


def encode(step: Step, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], int]:
    """Token ids of prompt, solution and end of turn, and the length of the prompt."""
    prompt_ids = tokenizer(render_prompt(step, tokenizer)).input_ids
    return prompt_ids + tokenizer(step.solution + tokenizer.eos_token).input_ids, len(prompt_ids)


def demonstration_loss(model: Qwen3ForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood of the completion tokens; logits are computed for these alone."""
    hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][batch["loss_mask"]])
    return torch.nn.functional.cross_entropy(logits, batch["input_ids"][:, 1:][batch["loss_mask"]])


def train(
    model: Qwen3ForCausalLM,
    batches: Iterator[dict[str, torch.Tensor]],
    num_steps: int,
    learning_rate: Callable[[int], float],
    description: str,
) -> list[float]:
    """Supervised fine-tuning on `num_steps` batches, with a learning rate by step. Returns the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    losses = []
    model.train()
    progress = tqdm(islice(batches, num_steps), total=num_steps, desc=description, unit="step")
    for batch in progress:
        loss = demonstration_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def train_on_gold(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, args: BuildArguments) -> list[float]:
    """First phase, on gold demonstrations: the learning rate warms up and then falls linearly to a tenth."""
    steps = generate_gold(args, args.seed)
    batches = demonstration_batches(steps, tokenizer, args.batch_size, Random(args.seed))

    def learning_rate(step: int) -> float:
        return args.learning_rate * min((step + 1) / WARMUP_STEPS, 1 - 0.9 * step / args.gold_steps)

    return train(model, batches, args.gold_steps, learning_rate, "gold demonstrations")


def train_on_faulty(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, args: BuildArguments) -> list[float]:
    """Second phase, on partly faulty demonstrations, at the learning rate with which the first phase ended."""
    rng = Random(args.seed + 1)
    steps = generate_faulty(args, args.seed + 1, rng)
    batches = demonstration_batches(steps, tokenizer, args.batch_size, rng)
    return train(model, batches, args.faulty_steps, lambda step: 0.1 * args.learning_rate, "faulty demonstrations")


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, output_dir: Path) -> None:
    """Writes the checkpoint; each file appears whole or not at all."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output_dir) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for file in Path(temporary).iterdir():
            file.chmod(0o644)
            file.replace(output_dir / file.name)


def main() -> None:
    """Trains tokenizer and model and writes the checkpoint."""
    (args,) = HfArgumentParser(DataClassType(BuildArguments)).parse_args_into_dataclasses()
    torch.manual_seed(args.seed)
    # Only for its chat template, which renders the corpus that the real tokenizer is trained on.
    untrained = build_tokenizer([])
    corpus = islice(generate_gold(args, args.seed), CORPUS_SIZE)
    tokenizer = build_tokenizer(render_prompt(step, untrained) + step.solution for step in corpus)
    if args.demonstrations == "agents":
        tokenizer.response_template = RESPONSE_TEMPLATE
    model = build_model(tokenizer)
    train_on_gold(model, tokenizer, args)
    train_on_faulty(model, tokenizer, args)
    save(model, tokenizer, Path(args.output_dir))


if __name__ == "__main__":
    main()
