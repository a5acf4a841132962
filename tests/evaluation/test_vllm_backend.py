"""What the backend of vLLM in this process asks for, with a fake engine; `tests/serving` has the real one."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from rest_trl.lab.evaluation.generation import GenerationSettings
from rest_trl.lab.evaluation.local_backends import VLLMGenerator


class Engine:
    """Ends every completion at once, and keeps the settings that it was given."""

    def __init__(self, model, **kwargs):
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=256))
        self.sampling = []

    def generate(self, prompts, sampling, **kwargs):
        self.sampling += sampling
        choice = SimpleNamespace(token_ids=[5], finish_reason="length", stop_reason=None)
        return [SimpleNamespace(outputs=[choice]) for _ in prompts]


@pytest.fixture
def make(monkeypatch, tokenizer):
    for name in ("vllm", "vllm.lora", "vllm.lora.request"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm"].LLM = Engine
    sys.modules["vllm"].SamplingParams = SimpleNamespace
    sys.modules["vllm.lora.request"].LoRARequest = SimpleNamespace
    return lambda settings: VLLMGenerator("model", tokenizer, settings)


class TestGenerate:
    def test_equal_prompts_have_seeds_of_their_own_which_stay_when_a_run_goes_on(self, make):
        def seeds(prompts, seed=0):
            generator = make(GenerationSettings(2, temperature=1.0, seed=seed))
            assert [completion.id for completion in generator.generate(prompts)] == list(prompts)
            return [params.seed for params in generator.engine.sampling]

        trials = {f"task/{trial}.0": "prompt" for trial in range(4)}
        first = seeds(trials)
        assert len(set(first)) == 4
        assert seeds({"task/2.0": "prompt"}) == first[2:3]
        assert not set(seeds(trials, seed=1)) & set(first)
