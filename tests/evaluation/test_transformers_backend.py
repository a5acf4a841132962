"""What the backend of transformers does with models of several kinds, all of them tiny and untrained."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from rest_trl.lab.evaluation.generation import GenerationSettings
from rest_trl.lab.evaluation.local_backends import TransformersGenerator


@pytest.fixture
def make(tokenizer, tmp_path):
    def make(model, tokens):
        model.save_pretrained(tmp_path)
        return TransformersGenerator(str(tmp_path), tokenizer, GenerationSettings(tokens), dtype=torch.float32)

    return make


class TestGenerate:
    @pytest.mark.parametrize("kind", ["bloom", "mamba"])
    def test_has_no_limit_where_the_model_states_none(self, make, tokenizer, kind):
        vocab = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        if kind == "bloom":
            model = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, **vocab))
        else:
            model = MambaForCausalLM(MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, **vocab))
        completions = {completion.id: completion for completion in make(model, 3).generate({"a": "x", "b": "y" * 99})}
        assert completions.keys() == {"a", "b"}
        assert all(1 <= len(completion.completion_ids) <= 3 for completion in completions.values())

    def test_keeps_to_a_limit_that_has_another_name(self, make, tokenizer):
        size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **size))
        prompts = {"short": "x", "long": "y" * 99}
        (completion,) = make(model, 99).generate(prompts)
        length = len(tokenizer(prompts["short"])["input_ids"])
        assert completion.id == "short" and len(completion.completion_ids) <= 8 - length

    def test_trials_of_a_run_that_goes_on_are_new_ones(self, tokenizer, tmp_path):
        size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=0, **size)).save_pretrained(tmp_path)
        settings = GenerationSettings(8, temperature=1.0)
        generator = TransformersGenerator(str(tmp_path), tokenizer, settings, batch_size=2, dtype=torch.float32)
        begun, gone_on = (
            [tuple(completion.completion_ids) for completion in generator.generate(dict.fromkeys(trials, "x"))]
            for trials in (["0", "1"], ["2", "3"])
        )
        assert len({*begun, *gone_on}) == 4
