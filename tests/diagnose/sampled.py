"""Rollouts with given completions, for tests of diagnoses."""

import torch
from datasets import Dataset
from test_trainer import make_trainer
from trl import GRPOTrainer

from rest_trl import ResTGRPOTrainer


def text(days, city="Oslo", reasoning="need it"):
    call = f'{{"name": "f", "arguments": {{"city": "{city}", "days": {days}}}}}'
    return f"<think>\n{reasoning}\n</think>\n\n<tool_call>\n{call}\n</tool_call>"


DATASET = Dataset.from_dict({"prompt": ["call the tool", "Paris?"] * 2, "solution": [text(3)] * 4})
COMPLETIONS = [
    *[text(3), text(4), text(3, "Rome"), "plain"],
    *[text(3), text(3, reasoning="no"), "<think> no </think> I cannot.", text(1, "Bern")],
    *[text(5), text(3), text(3, "Lima"), text(2, "Lima", "call it now")],
    *[text(3, "Paris"), "sunny", text(3), text(3)[:-14]],
]


def diagnosed_trainer(model, tokenizer, path, **arguments):
    defaults = {
        "reward_funcs": None,
        "dataset": DATASET,
        "per_device_train_batch_size": 16,
        "coefficients": "uniform",
        "reward_schedule": "static",
        "diagnose_steps": 1,
    }
    return make_trainer(ResTGRPOTrainer, model, tokenizer, path, **(defaults | arguments))


def sample_given(monkeypatch, tokenizer, completions=COMPLETIONS):
    """Let every rollout be the given completions."""
    ids = [tokenizer(completion + "<|im_end|>")["input_ids"] for completion in completions]
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda *_: (ids, None))


def roll_out(trainer, tokenizer, monkeypatch):
    """The batch of the loss; the groups are then in `trainer.diagnosis.groups`."""
    sample_given(monkeypatch, tokenizer)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer.roll_out([dict(row) for row in DATASET for _ in range(4)])


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
