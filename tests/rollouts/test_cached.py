import logging

import pytest
import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.regions.token_bytes import TokenBytes
from rest_trl.rollouts.cached import branched_generate
from rest_trl.rollouts.reasoning import ReasoningEnd
from rest_trl.tool_calls import get_syntax


SIZE = 3


@pytest.fixture(scope="module")
def tiny_tokenizer():
    return AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left")


@pytest.fixture(scope="module")
def prompts(tiny_tokenizer):
    """Three prompts of different lengths, each twice for two branches."""
    rows = [row for row in load_tiny_dataset(size=3)["prompt"] for _ in range(2 * SIZE)]
    return tiny_tokenizer(rows, return_tensors="pt", padding=True)


def tiny_model(lora=False, **config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, **config)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model.eval()


class Watched:
    """A model whose forward passes are recorded."""

    def __init__(self, model):
        self.model, self.logits, self.fed = model, [], 0
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        inner.register_forward_hook(self.record, with_kwargs=True)

    def record(self, module, args, kwargs, output):
        self.fed += kwargs["input_ids"].numel()
        self.logits.append(output.logits[:, -1])


def branched(model, tokenizer, prompts, seed=0, limit=96, **settings):
    settings = {"do_sample": True, "top_k": 0, "temperature": 1.5} | settings
    config = GenerationConfig(
        max_new_tokens=limit,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id],
        disable_compile=True,
        **settings,
    )
    syntax = get_syntax("hermes")
    reasoning_end = ReasoningEnd(TokenBytes(tokenizer, syntax.markers), syntax)
    torch.manual_seed(seed)
    with torch.no_grad():
        found = branched_generate(
            model.generate,
            prompts["input_ids"],
            prompts["attention_mask"],
            config,
            reasoning_end,
            SIZE,
            [tokenizer.eos_token_id],
        )
    return *found, config


def completions_of(ids, prompts, tokenizer):
    """Completions up to their first end-of-sequence token."""
    rows = ids[:, prompts["input_ids"].size(1) :].tolist()
    eos = tokenizer.eos_token_id
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


class TestBranchedGenerate:
    def test_shares_the_reasoning_and_nothing_else(self, tiny_tokenizer, prompts):
        completions, lengths, _ = branched(tiny_model(), tiny_tokenizer, prompts)
        assert len(completions) == len(lengths) == len(prompts["input_ids"])
        close = tiny_tokenizer.convert_tokens_to_ids("</think>")
        tails = []
        for start in range(0, len(completions), SIZE):
            of_branch, (length, *others) = completions[start : start + SIZE], lengths[start : start + SIZE]
            assert others == [length] * (SIZE - 1)
            assert all(ids[:length] == of_branch[0][:length] for ids in of_branch)
            if of_branch[0][length - 1] == close:
                tails.append({tuple(ids[length:]) for ids in of_branch})
        assert len(tails) >= 3 and max(map(len, tails)) > 1

    @pytest.mark.parametrize("lora", [False, True])
    @pytest.mark.parametrize("limit", [96, 30])
    def test_greedy_is_the_greedy_completion(self, lora, limit, tiny_tokenizer, prompts):
        model = tiny_model(lora)
        found, lengths, config = branched(model, tiny_tokenizer, prompts, limit=limit, do_sample=False)
        with torch.no_grad():
            whole = model.generate(**prompts, generation_config=config)
        assert found == completions_of(whole, prompts, tiny_tokenizer)
        assert min(map(len, found)) > max(min(lengths), 10)

    @pytest.mark.parametrize("lora", [False, True])
    def test_samples_from_the_distribution_of_a_full_forward(self, lora, tiny_tokenizer, prompts):
        watched = Watched(tiny_model(lora).double())
        completions, lengths, _ = branched(watched.model, tiny_tokenizer, prompts)
        passes = list(watched.logits)
        second = next(step for step, logits in enumerate(passes) if len(logits) == len(completions))
        checked = 0
        for row, ids in enumerate(completions):
            prompt = prompts["input_ids"][row][prompts["attention_mask"][row].bool()].tolist()
            with torch.no_grad():
                logits = watched.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :]
            for place in range(len(ids)):
                shared = place < lengths[row]
                found = passes[place][row // SIZE] if shared else passes[second + place - lengths[row]][row]
                torch.testing.assert_close(found.log_softmax(0), logits[place].log_softmax(0), atol=1e-9, rtol=0)
                checked += not shared
        assert checked > 50

    def test_computes_prompt_and_reasoning_once(self, tiny_tokenizer, prompts):
        watched = Watched(tiny_model())
        branched(watched.model, tiny_tokenizer, prompts)
        rows, width = prompts["input_ids"].shape
        first = rows // SIZE * width
        steps = sum(len(logits) for logits in watched.logits) - rows // SIZE
        assert watched.fed == first + steps  # after the prompts, one token per row and pass

    def test_leaves_a_completion_whole_that_does_not_close_its_reasoning(self, tiny_tokenizer, prompts):
        completions, lengths, _ = branched(tiny_model(), tiny_tokenizer, prompts, limit=6)
        assert lengths == [6] * len(completions)
        for start in range(0, len(completions), SIZE):
            assert completions[start : start + SIZE] == [completions[start]] * SIZE

    def test_ends_all_completions_at_the_limit(self, tiny_tokenizer, prompts):
        completions, lengths, _ = branched(tiny_model(), tiny_tokenizer, prompts, limit=24)
        eos = tiny_tokenizer.eos_token_id
        assert max(map(len, completions)) == 24 and len(set(lengths)) > 1
        assert all(len(ids) == 24 or ids[-1] == eos for ids in completions)

    @pytest.mark.parametrize("layer", ["sliding_attention", "static"])
    def test_computes_again_what_a_cache_cannot_give(self, layer, tiny_tokenizer, prompts, caplog):
        PartialState()
        logger = logging.getLogger("rest_trl.rollouts.cached")
        logger.addHandler(caplog.handler)
        if layer == "static":
            model, settings = tiny_model(), {"cache_implementation": "static"}
        else:
            config = Qwen3Config.from_pretrained(TINY_MODEL_DIR).to_dict()
            layers = [layer] * config["num_hidden_layers"]
            config |= {"layer_types": layers, "use_sliding_window": True, "sliding_window": 16}
            torch.manual_seed(0)
            model, settings = Qwen3ForCausalLM(Qwen3Config(**config)).eval(), {}
        found, lengths, config = branched(
            model, tiny_tokenizer, prompts, limit=24, do_sample=False, temperature=1.0, **settings
        )
        logger.removeHandler(caplog.handler)
        with torch.no_grad():
            whole = model.generate(**prompts, generation_config=config)
        assert found == completions_of(whole, prompts, tiny_tokenizer)
        assert min(lengths) < 24
        assert "cannot be copied to branches" in caplog.text
