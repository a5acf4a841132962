"""
What a step costs with each prompt computed once, against TRL's own `GRPOTrainer`: `make bench-prompts`.

Steps reuse fixed completions (scoring, loss, backward pass; no sampling), and the two trainers take turns with the
same weights. Processor time of one thread: other work on the machine does not count. Peak memory is that of tensors
allocated in one step, as in `memory.py`. Sampling is measured for itself, of as many tokens in both arms. A completion
is a reasoning of random tokens and a call; with gold calls, another one follows each reasoning (`gold_weight: 1`).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR

from .memory import length_reward, peak_bytes


COMPLETIONS = 8
VOCABULARY = 8192
# Tokens of a prompt and of a completion. With the last, nothing is gained.
SIZES = [(64, 64), (256, 64), (512, 64), (1024, 128), (2048, 128), (4, 256)]
# Bounds of the time over the share of tokens, from prompts of `LONG` tokens on, and of the time without any gain.
LONG, BOUND, MOONSHOT, BOUND_OF_NOTHING = 512, 1.4, 1.15, 1.02
# What follows the reasoning: the call of all completions, and the gold one.
SAMPLED, GOLD = (
    '<tool_call>\n{"name": "find_train", "arguments": {"origin": "Rome", "destination": "Paris", "person": "David", '
    f'"day": "{day}"}}}}\n</tool_call>'
    for day in ("Monday", "Friday")
)
ROW = {"prompt": "the ids are fixed", "solution": f"<think>\n</think>\n{GOLD}"}


def rollout(tokenizer: PreTrainedTokenizerBase, sizes: tuple[int, int]) -> tuple[list[int], list[list[int]]]:
    """The ids of a prompt, and of completions that have the length of the second size if a call fits into it."""
    start, end = (tokenizer(text).input_ids for text in ("<think>\n", f"\n</think>\n{SAMPLED}{tokenizer.eos_token}"))
    words = max(1, sizes[1] - len(start) - len(end))
    generator = torch.Generator().manual_seed(0)
    reasonings = torch.randint(300, len(tokenizer) - 100, (COMPLETIONS, words), generator=generator).tolist()
    prompt = torch.randint(300, VOCABULARY, (sizes[0],), generator=generator).tolist()
    return prompt, [[*start, *reasoning, *end] for reasoning in reasonings]


def make_trainer(
    trainer_class: type[GRPOTrainer], config_class: Callable[..., GRPOConfig], path: str, sizes: tuple[int, int]
) -> GRPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    set_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=sum(sizes),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    args = config_class(
        path,
        loss_type="grpo",
        beta=0.0,
        per_device_train_batch_size=COMPLETIONS,
        num_generations=COMPLETIONS,
        max_completion_length=sizes[1],
        generation_kwargs={"min_new_tokens": sizes[1]},
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = trainer_class(
        Qwen3ForCausalLM(config),
        length_reward,
        args,
        train_dataset=Dataset.from_dict({name: [text] * COMPLETIONS for name, text in ROW.items()}),
        processing_class=tokenizer,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._num_sampled = 0  # as at the start of a rollout
    return trainer


def step(trainer: GRPOTrainer, prompt: list[int], completions: list[list[int]]) -> None:
    trainer._tokenize_prompts = lambda prompts: ([prompt] * len(prompts), None, {})
    trainer._generate_single_turn = lambda *args, **kwargs: ([list(ids) for ids in completions], None)
    trainer.training_step(trainer.model, list(trainer.train_dataset), None)
    trainer.model.zero_grad()


def paired(functions: dict[str, Callable[[], object]], rounds: int) -> tuple[float, float]:
    """Median of the ratio of the two functions' times, and of the time of the second one, in seconds."""
    names, ratios, seconds = list(functions), [], []
    for index in range(-1, rounds):
        times = {}
        for name in names if index % 2 else reversed(names):
            start = time.process_time()
            functions[name]()
            times[name] = time.process_time() - start
        if index >= 0:
            ratios.append(times[names[0]] / times[names[1]])
            seconds.append(times[names[1]])
    return statistics.median(ratios), statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", default=["/".join(map(str, sizes)) for sizes in SIZES])
    parser.add_argument("--no_memory", action="store_true", help="leave out the peaks, which take longest")
    options = parser.parse_args()
    print(f"{options.rounds} rounds, {torch.get_num_threads()} thread(s)", flush=True)
    print(
        "| prompt/completion | tokens | time of a step | over tokens | GRPO, s | peak memory | time of sampling "
        "| time with gold calls | peak memory with them |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    worst, worst_of_nothing = 0.0, 0.0
    for sizes in (tuple(map(int, size.split("/"))) for size in options.sizes):
        with tempfile.TemporaryDirectory() as path:
            ours = make_trainer(ResTGRPOTrainer, partial(ResTGRPOConfig, tool_call_syntax="hermes"), path, sizes)
            gold_config = partial(ResTGRPOConfig, tool_call_syntax="hermes", gold_weight=1.0)
            gold = make_trainer(ResTGRPOTrainer, gold_config, path, sizes)
            trl = make_trainer(GRPOTrainer, GRPOConfig, path, sizes)
            prompt, completions = rollout(trl.processing_class, sizes)
            prompts = [prompt] * COMPLETIONS
            samplings = {t: partial(t._generate_single_turn, prompts, None, {}, COMPLETIONS) for t in (ours, trl)}
            sampling, _ = paired(samplings, options.rounds)
            steps = {t: partial(step, t, prompt, completions) for t in (ours, gold, trl)}
            ratio, seconds = paired({t: steps[t] for t in (ours, trl)}, options.rounds)
            ratio_of_gold, _ = paired({t: steps[t] for t in (gold, trl)}, options.rounds)
            peaks = [0, 0, 1] if options.no_memory else [peak_bytes(function) for function in steps.values()]
        # The prompt but for its last token once, and that token and a completion but for its last per completion.
        share = min(1.0, (sizes[0] - 1 + COMPLETIONS * sizes[1]) / (COMPLETIONS * sum(sizes)))
        gains = share < 0.9
        if gains and sizes[0] >= LONG:
            worst = max(worst, ratio / share)
        if not gains:
            worst_of_nothing = max(worst_of_nothing, ratio)
        print(
            f"| {'/'.join(map(str, sizes))} | {share:.3f} | {ratio:.3f} | {ratio / share:.2f} | {seconds:.2f} "
            f"| {peaks[0] / peaks[2]:.3f} | {sampling:.3f} | {ratio_of_gold:.3f} | {peaks[1] / peaks[2]:.3f} |",
            flush=True,
        )
    print(f"shared_prompts_time_over_tokens {worst:.3f} target<={BOUND} moonshot<={MOONSHOT}")
    print(f"shared_prompts_where_nothing_is_gained {worst_of_nothing:.3f} target<={BOUND_OF_NOTHING}")


if __name__ == "__main__":
    main()
