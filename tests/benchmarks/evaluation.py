"""
Seconds that API-Bank's 597 prompts take at one vLLM server, as `rest-trl evaluate` sends them and one at a time:

    python -m tests.benchmarks.evaluation --data ../shared/data/api_bank

It needs vLLM and starts a server with the tiny model. The two ways take turns.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tqdm.auto import tqdm
from transformers import AutoTokenizer

from rest_trl.lab.evaluation.api_bank import load_samples
from rest_trl.lab.evaluation.generation import GenerationSettings
from rest_trl.lab.evaluation.server_backend import ServerGenerator
from rest_trl.lab.tiny import TINY_MODEL_DIR


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engines.vllm_server import VLLMServer


def seconds(server, tokenizer, prompts, settings, concurrency):
    generator = ServerGenerator(server.url, str(TINY_MODEL_DIR), tokenizer, settings, concurrency=concurrency)
    # Prefixes that are still cached would favour whoever comes second.
    generator.client.post("/reset_prefix_cache", {}).raise_for_status()
    start = time.perf_counter()
    completions = list(tqdm(generator.generate(prompts), total=len(prompts), desc=f"{concurrency} at a time"))
    taken = time.perf_counter() - start
    assert len(completions) == len(prompts)
    return taken, sum(len(completion.completion_ids) for completion in completions)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with API-Bank's three files")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take one prompt in so many")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    samples = load_samples(arguments.data, tokenizer)[:: arguments.every]
    prompts = {sample.id: sample.prompt for sample in samples}
    settings = GenerationSettings(arguments.max_new_tokens)
    with (
        TemporaryDirectory() as folder,
        VLLMServer(TINY_MODEL_DIR, Path(folder) / "log", max_model_len=8192, weight_transfer=False) as server,
    ):
        print(f"server up in {server.start_seconds:.0f} s; {len(prompts)} prompts, load {os.getloadavg()[0]:.1f}")
        first = dict(list(prompts.items())[:8])
        seconds(server, tokenizer, first, settings, 1)
        ratios = []
        for repeat in range(arguments.repeats):
            ours, tokens = seconds(server, tokenizer, prompts, settings, arguments.concurrency)
            one, same = seconds(server, tokenizer, prompts, settings, 1)
            ratios.append(one / ours)
            print(
                f"repeat {repeat}: {arguments.concurrency} at a time {ours:.1f} s ({tokens} tokens), one at a time "
                f"{one:.1f} s ({same} tokens): {one / ours:.1f} times, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    print(f"median {median(ratios):.1f} times")


if __name__ == "__main__":
    main()
