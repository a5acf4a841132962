import pytest
import torch
from shared_prompts.families import make_model, micro_batch

from rest_trl.shared_prompts.prefill import prefilled, prefilled_generation


class TestPrefilledGeneration:
    def prompts(self):
        prompts = [list(range(3, 30)), list(range(40, 50)), list(range(3, 30)), [5, 6]]
        ids, mask, _ = micro_batch(prompts, [[]] * 4)
        return {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1]}

    @pytest.mark.parametrize("family", ["qwen3", "gemma3 with windows", "gpt-oss"])
    def test_samples_the_same(self, family):
        model = make_model(family).eval()
        arguments = self.prompts() | {"max_new_tokens": 12, "do_sample": True, "top_k": 0}
        torch.manual_seed(0)
        expected = model.generate(**arguments)
        torch.manual_seed(0)
        with prefilled_generation(model):
            actual = model.generate(**arguments)
        assert torch.equal(actual, expected)
        assert "generate" not in vars(model)

    def test_computes_equal_prompts_once(self):
        model = make_model("qwen3").eval()
        cache = prefilled(model, **self.prompts())
        assert cache.get_seq_length() == 26
        assert cache.layers[0].keys.size(0) == 4
        sizes = []
        model.model.register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        with prefilled_generation(model):
            model.generate(**self.prompts(), max_new_tokens=2)
        assert sizes == [(3, 26), (4, 1), (4, 1)]
