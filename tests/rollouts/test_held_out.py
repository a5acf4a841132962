import sys
from functools import partial

import pytest
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rest_trl.rollouts.held_out import count_exact, sample
from rest_trl.tiny import TINY_MODEL_DIR, load_tiny_dataset


@pytest.fixture
def tiny():
    return (
        AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, dtype=torch.float32),
        AutoTokenizer.from_pretrained(TINY_MODEL_DIR),
    )


class TestSample:
    def test_depends_on_the_seed_alone(self, tiny):
        prompts = load_tiny_dataset("test", size=4)["prompt"]
        torch.manual_seed(1)
        first = sample(*tiny, prompts, max_new_tokens=8, seed=0)
        state = torch.get_rng_state()
        assert torch.equal(first, sample(*tiny, prompts, max_new_tokens=8, seed=0))
        assert torch.equal(state, torch.get_rng_state())
        assert not torch.equal(first, sample(*tiny, prompts, max_new_tokens=8, seed=1))

    def test_a_bar_counts_tokens_and_changes_nothing(self, tiny, monkeypatch, capsys):
        prompts = load_tiny_dataset("test", size=2)["prompt"]
        plain = sample(*tiny, prompts, max_new_tokens=8, seed=0)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("rest_trl.rollouts.held_out.tqdm", partial(tqdm, mininterval=0))
        assert torch.equal(plain, sample(*tiny, prompts, max_new_tokens=8, seed=0, bar="2 prompts"))
        shown = capsys.readouterr().err
        assert "2 prompts: 100%" in shown and "8/8" in shown


class TestCountExact:
    def test_counts_gold_completions_and_no_others(self, tiny):
        _, tokenizer = tiny
        solutions = list(load_tiny_dataset("test", size=32)["solution"])
        ids = tokenizer(solutions, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
        assert count_exact(ids, solutions, tokenizer, "hermes") == 32
        assert count_exact(ids[1:], solutions[:-1], tokenizer, "hermes") < 8

    def test_reads_markers_that_are_special_tokens(self, tiny):
        _, tokenizer = tiny
        tokenizer.add_special_tokens({"extra_special_tokens": ["<tool_call>", "</tool_call>"]})
        solution = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
        ids = tokenizer([solution + "<|im_end|>"], return_tensors="pt")["input_ids"]
        assert "<tool_call>" not in tokenizer.decode(ids[0], skip_special_tokens=True)
        assert count_exact(ids, [solution], tokenizer, "hermes") == 1
