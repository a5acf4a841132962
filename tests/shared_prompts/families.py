"""Tiny random models of many families, and micro-batches whose rows share what they may."""

import random

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head


SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2}
# By name: model type, implementation of attention, and further settings.
FAMILIES = {
    "qwen3": ("qwen3", "sdpa", {}),
    "qwen3 eager": ("qwen3", "eager", {}),
    "llama": ("llama", "sdpa", {}),
    "mistral": ("mistral", "sdpa", {"sliding_window": None}),
    "mistral with a window": ("mistral", "sdpa", {"sliding_window": 7}),
    "gemma": ("gemma", "sdpa", {}),
    "gemma2 with caps and windows": ("gemma2", "eager", {"sliding_window": 9}),
    "gemma3 with windows": ("gemma3_text", "sdpa", {"sliding_window": 9}),
    "gpt-oss": ("gpt_oss", "eager", {"sliding_window": 9, "num_local_experts": 4, "rope_parameters": None, **EXPERTS}),
    "qwen3 moe": ("qwen3_moe", "sdpa", {"num_experts": 4, "moe_intermediate_size": 16, **EXPERTS}),
}


def make_model(family, **settings):
    model_type, implementation, own = FAMILIES[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | own | settings))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)  # attention that matters
    add_fused_lm_head(model, 0.7, outputs=("log_probs", "entropy"))
    return model.train()


def micro_batch(prompts, completions, pad_prompt=0, pad_completion=0, pad=0):
    """Ids and mask of rows, as TRL pads them, and the columns of completions."""
    width = max(map(len, prompts)) + pad_prompt
    kept = max(1, *map(len, completions)) + pad_completion
    rows = list(zip(prompts, completions, strict=True))
    ids = [[pad] * (width - len(p)) + p + c + [pad] * (kept - len(c)) for p, c in rows]
    mask = [[0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (kept - len(c)) for p, c in rows]
    return torch.tensor(ids), torch.tensor(mask), kept


def random_rows(seed):
    """Groups of random sizes: shared system prompts, repeated prompts, branches, empty and equal completions."""
    rng = random.Random(seed)
    low = rng.choice([3, 90])  # few different tokens: rows share starts by chance

    def tokens(least, most):
        return [rng.randrange(low, 97) for _ in range(rng.randint(least, most))]

    system = tokens(0, 30)
    prompts, completions = [], []
    for _ in range(rng.randint(1, 4)):
        prompt = rng.choice(prompts) if prompts and rng.random() < 0.25 else system + tokens(1, 40)
        reasoning = tokens(0, 30)
        for _ in range(rng.randint(1, 6)):
            kind = rng.random()
            completion = [] if kind < 0.1 else tokens(1, 1) if kind < 0.2 else tokens(1, 12)
            if rng.random() < 0.5:
                completion = reasoning + completion
            if completions and rng.random() < 0.1:
                completion = completions[-1]
            prompts.append(prompt)
            completions.append(completion)
    order = rng.sample(range(len(prompts)), len(prompts))
    rows = [prompts[i] for i in order], [completions[i] for i in order]
    return micro_batch(*rows, pad_prompt=rng.randint(0, 3), pad_completion=rng.randint(0, 3), pad=rng.choice([0, 95]))
