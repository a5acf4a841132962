"""
What branched rollouts save, on the tiny model: `make bench-branch`.

Sixteen completions of each prompt, whole or as reasonings with continuations. The lengths are forced, so that all
sample completions of the same form: 300 tokens of reasoning and 40 after it. Processor time of the one thread: other
work on the machine does not count.
"""

import argparse
import time
from functools import partial

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessor, LogitsProcessorList

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions.token_bytes import TokenBytes
from rest_trl.rollouts.cached import branched_generate
from rest_trl.rollouts.reasoning import ReasoningEnd
from rest_trl.tool_calls import get_syntax


REASONING, BEHIND = 300, 40
REPEATS = 3


class ForcedLengths(LogitsProcessor):
    """Closes the reasoning and ends the completion at fixed places, and nowhere else."""

    def __init__(self, tokenizer, prompt_length: int) -> None:
        self.prompt_length = prompt_length
        self.close = tokenizer.convert_tokens_to_ids("</think>")
        self.eos = tokenizer.eos_token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.size(1) - self.prompt_length + 1
        forced = {REASONING: self.close, REASONING + BEHIND: self.eos}.get(place)
        if forced is None:
            scores[:, [self.close, self.eos]] = -torch.inf
        else:
            scores[:] = -torch.inf
            scores[:, forced] = 0.0
        return scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompt_length", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=8)
    args = parser.parse_args()
    prompt_length, rows = args.prompt_length, 16 * args.prompts
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR).eval()
    syntax = get_syntax("hermes")
    reasoning_end = ReasoningEnd(TokenBytes(tokenizer, syntax.markers), syntax)
    words = tokenizer("hello " * prompt_length)["input_ids"][: prompt_length - 1]
    prompt = torch.tensor([[*words, tokenizer.convert_tokens_to_ids("<think>")]]).expand(rows, -1)
    config = GenerationConfig(
        max_new_tokens=REASONING + BEHIND,
        do_sample=True,
        top_k=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        disable_compile=True,
    )
    inputs = {
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
        "generation_config": config,
        "logits_processor": LogitsProcessorList([ForcedLengths(tokenizer, prompt_length)]),
    }
    print(
        f"{args.prompts} prompts of {prompt_length} tokens, {REASONING} + {BEHIND} per completion; median of {REPEATS}"
    )
    print("| completions | generated tokens | of whole | seconds | of whole |")
    print("| --- | --- | --- | --- | --- |")
    whole, generate = None, partial(model.generate, logits_processor=inputs["logits_processor"])
    for name, size in (("16 whole", 1), ("8 x 2", 2), ("4 x 4", 4), ("2 x 8", 8)):
        ends = reasoning_end, size, [tokenizer.eos_token_id]
        prompts = inputs["input_ids"], inputs["attention_mask"], inputs["generation_config"]
        seconds = []
        for _ in range(REPEATS):
            begin = time.process_time()
            with torch.no_grad():
                if size > 1:
                    completions, prefix_lengths = branched_generate(generate, *prompts, *ends)
                else:
                    completions = model.generate(**inputs)[:, prompt_length:].tolist()
            seconds.append(time.process_time() - begin)
        assert list(map(len, completions)) == [REASONING + BEHIND] * rows
        assert size == 1 or prefix_lengths == [REASONING] * rows
        row = rows // size * REASONING + rows * BEHIND, sorted(seconds)[REPEATS // 2]
        whole = whole or row
        print(f"| {name} | {row[0]} | {row[0] / whole[0]:.2f} | {row[1]:.2f} | {row[1] / whole[1]:.2f} |")


if __name__ == "__main__":
    main()
