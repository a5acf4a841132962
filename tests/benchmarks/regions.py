"""
What finding regions and coefficients costs per sampled token: `make bench-regions`.

The floor is what no method can do without: joining the bytes of the tokens and decoding them. The authors' approach is
to decode and to tokenise the text again, once for every tag, name and argument span; `tokenise_again` does no more
than that. It is no copy of their code, for which 6.7 us per token was measured on another two-core machine.
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoTokenizer

from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.regions.coefficients import entropy_coefficients
from rest_trl.regions.partition import Partitioner, to_regions
from rest_trl.regions.token_bytes import byte_table
from rest_trl.tool_calls import Part, Region, get_syntax


COMPLETIONS = 64
CALLS = 2  # ToolRL's data has 1.5 calls in 383 tokens
LENGTHS = (512, 8192)
REPEATS = {512: 41, 8192: 11}
TARGET = 0.10  # us per token, in the median at 512 tokens


def completions(length: int) -> torch.Tensor:
    """Completions of exactly `length` tokens: reasoning, then two calls."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    solutions = list(load_tiny_dataset(size=512)["solution"])
    random_state = random.Random(0)
    rows = []
    for _ in range(COMPLETIONS):
        reasoning, calls = [], []
        while len(calls) < CALLS or sum(map(len, reasoning)) + sum(map(len, calls)) + 2 < length:
            thought, _, rest = random_state.choice(solutions).partition("</think>")
            if "<tool_call>" in rest and len(calls) < CALLS:
                calls.append(tokenizer(rest)["input_ids"])
            reasoning.append(tokenizer(thought.removeprefix("<think>"))["input_ids"])
        tail = [tokenizer.convert_tokens_to_ids("</think>"), *(i for call in calls for i in call)]
        thoughts = [i for thought in reasoning for i in thought][: length - 1 - len(tail)]
        rows.append([tokenizer.convert_tokens_to_ids("<think>"), *thoughts, *tail])
    return torch.tensor(rows)


def microseconds(function: Callable[[], object], tokens: int, repeats: int) -> tuple[float, float]:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    # The work is the same each time: the least time is that of the work alone, the median also shows a busy machine.
    return min(times) / tokens * 1e6, statistics.median(times) / tokens * 1e6


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    partitioner = Partitioner(tokenizer, get_syntax("hermes"))
    table = byte_table(tokenizer)
    entropies, shares = torch.linspace(0.1, 0.6, len(Region)), torch.full((len(Region),), 1 / len(Region))
    results, medians = {}, {}
    for length in LENGTHS:
        ids = completions(length)
        mask = torch.ones_like(ids)

        def ours(ids: torch.Tensor = ids, mask: torch.Tensor = mask) -> torch.Tensor:
            part_ids = partitioner(ids, mask)
            return entropy_coefficients(
                mask=mask,
                region_ids=to_regions(part_ids),
                part_ids=part_ids,
                region_entropies=entropies,
                region_shares=shares,
                progress=0.5,
                surrogate="one_minus_exp",
                minimum=0.5,
                maximum=1.5,
                format_slope=0.5,
                parameters_slope=0.6,
                reasoning_slope=0.4,
            )

        rows = ids.tolist()

        def floor(rows: list[list[int]] = rows) -> list[str]:
            return [b"".join(map(table.__getitem__, row)).decode("utf-8", "surrogateescape") for row in rows]

        def tokenise_again(rows: list[list[int]] = rows) -> None:
            for row in rows:
                text = tokenizer.decode(row)
                parts = partitioner.tool_call_syntax.parse(text).parts
                for _ in [part for *_, part in parts if part in (Part.TAG, Part.REASONING, Part.TOOL_NAME)]:
                    tokenizer(text, add_special_tokens=False)

        repeats = REPEATS[length]
        results[length], medians[length] = microseconds(ours, ids.numel(), repeats)
        least, _ = microseconds(floor, ids.numel(), repeats)
        again, _ = microseconds(tokenise_again, ids.numel(), 1)
        share = (to_regions(partitioner(ids, mask)) == Region.REASONING).float().mean()
        print(
            f"{COMPLETIONS} x {length} tokens ({share:.0%} reasoning): {results[length]:.3f} us per token "
            f"(median {medians[length]:.3f}), {results[length] / least:.2f} times the floor of {least:.3f}; "
            f"tokenising again {again:.1f}"
        )
    print(f"regions_length_ratio {results[8192] / results[512]:.3f} target<=1.2")
    print(f"regions_us_per_token {results[512]:.4f} least")
    print(f"regions_us_per_token {medians[512]:.4f} median, target<={TARGET}")


if __name__ == "__main__":
    main()
