import sys
from functools import partial

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rest_trl.lab.sampling import count_exact, end_ids, sample
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset


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
        monkeypatch.setattr("rest_trl.lab.sampling.tqdm", partial(tqdm, mininterval=0))
        assert torch.equal(plain, sample(*tiny, prompts, max_new_tokens=8, seed=0, bar="2 prompts"))
        shown = capsys.readouterr().err
        assert "2 prompts: 100%" in shown and "8/8" in shown

    def test_samples_at_temperature_1_whatever_the_checkpoint_prefers(self, tiny):
        prompts = load_tiny_dataset("test", size=4)["prompt"]
        plain = sample(*tiny, prompts, max_new_tokens=16, seed=0)
        preferred = {"temperature": 0.1, "top_p": 0.1, "top_k": 1, "min_p": 0.9, "repetition_penalty": 9.0}
        for name, value in preferred.items():
            setattr(tiny[0].generation_config, name, value)
        assert torch.equal(plain, sample(*tiny, prompts, max_new_tokens=16, seed=0))

    @pytest.mark.parametrize("add_special_tokens", [False, True])
    def test_reads_prompts_with_or_without_the_first_token_of_a_text(self, tiny, add_special_tokens, monkeypatch):
        model, tokenizer = tiny
        first = "<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{first[0]} $A", special_tokens=[first])
        prompts, read = load_tiny_dataset("test", size=2)["prompt"][:], []
        generate = model.generate
        monkeypatch.setattr(model, "generate", lambda **inputs: read.append(inputs) or generate(**inputs))
        sample(model, tokenizer, prompts, max_new_tokens=2, seed=0, add_special_tokens=add_special_tokens)
        pairs = zip(read[0]["input_ids"], read[0]["attention_mask"], strict=True)
        ids = [ids[mask.bool()].tolist() for ids, mask in pairs]
        trained_on = tokenizer(text=prompts)["input_ids"]  # as TRL tokenizes prompts of text
        assert ids == (trained_on if add_special_tokens else [tokens[1:] for tokens in trained_on])

    def test_leaves_the_model_in_its_mode_even_if_it_fails(self, tiny, monkeypatch):
        model, tokenizer = tiny

        def fail(**inputs):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(model.train(), "generate", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            sample(model, tokenizer, ["a"], max_new_tokens=2, seed=0)
        assert model.training


class TestCountExact:
    def test_counts_gold_completions_and_no_others(self, tiny):
        _, tokenizer = tiny
        solutions = list(load_tiny_dataset("test", size=32)["solution"])
        with_calls = sum("<tool_call>" in text for text in solutions)
        totals = {"golds with calls": with_calls, "golds without": 32 - with_calls}
        ends = end_ids(*tiny)
        texts = [text + "<|im_end|>" for text in solutions]
        ids = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
        exact = count_exact(ids, solutions, tokenizer, "hermes", ends)
        assert exact == {kind: (total, total) for kind, total in totals.items()} and min(totals.values()) > 4
        assert count_exact(ids[1:], solutions[:-1], tokenizer, "hermes", ends)["golds with calls"].right < 8

    def test_any_text_equals_a_gold_without_calls_but_none_that_was_cut_off(self, tiny):
        _, tokenizer = tiny
        golds = ["No tool fits.", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>']
        for text, end, counts in (("x", "<|im_end|>", [1, 0]), ("x", "", [0, 0]), (golds[1], "", [0, 0])):
            ids = tokenizer([text + end] * 2, return_tensors="pt")["input_ids"]
            exact = count_exact(ids, golds, tokenizer, "hermes", end_ids(*tiny))
            assert [exact[kind].right for kind in ("golds without", "golds with calls")] == counts

    def test_reads_markers_that_are_special_tokens(self, tiny):
        _, tokenizer = tiny
        tokenizer.add_special_tokens({"extra_special_tokens": ["<tool_call>", "</tool_call>"]})
        solution = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
        ids = tokenizer([solution + "<|im_end|>"], return_tensors="pt")["input_ids"]
        assert "<tool_call>" not in tokenizer.decode(ids[0], skip_special_tokens=True)
        assert count_exact(ids, [solution], tokenizer, "hermes", end_ids(*tiny)) == {"golds with calls": (1, 1)}
