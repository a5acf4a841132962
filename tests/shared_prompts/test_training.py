import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer


PROMPT = "What is the weather in Paris? Call the tool that tells it, with all its arguments, or say that none fits. "
DATASET = Dataset.from_dict({"prompt": [PROMPT * (2 + i % 3) + word for i, word in enumerate(["sun", "rain"] * 8)]})


def length_reward(completions, **kwargs):
    return [float(len(completion) % 11) for completion in completions]


def train(cls, model, tokenizer, path, peft=None, **arguments):
    defaults = {
        "loss_type": "grpo",
        "beta": 0.0,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 20,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    config_class = ResTGRPOConfig if cls is ResTGRPOTrainer else GRPOConfig
    args = config_class(str(path), **(defaults | arguments))
    trainer = cls(
        copy.deepcopy(model),
        length_reward,
        args,
        train_dataset=DATASET,
        processing_class=tokenizer,
        peft_config=peft,
    )
    trainer.train()
    return trainer


def logged(trainer, name):
    return torch.tensor([entry[name] for entry in trainer.state.log_history if name in entry])


LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize(
    ("peft", "arguments"),
    [
        (None, {}),
        (LORA, {"max_steps": 4}),
        (LORA, {"max_steps": 4, "beta": 0.1}),
        (None, {"max_steps": 4, "beta": 0.1}),
        (None, {"max_steps": 4, "gradient_checkpointing": True}),
        (None, {"max_steps": 4, "num_iterations": 2}),
        (None, {"max_steps": 4, "top_entropy_quantile": 0.5}),
        (None, {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    ],
    ids=["full", "lora", "lora with kl", "kl", "checkpointing", "iterations", "quantile", "accumulation"],
)
def test_a_training_is_the_same_with_shared_prompts(peft, arguments, model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "policy")
    model.config._name_or_path = str(tmp_path / "policy")  # from where TRL loads the reference
    expected = train(GRPOTrainer, model, tokenizer, tmp_path, peft, **arguments)
    shared = {"share_prompts": "true", "coefficients": "uniform"}
    actual = train(ResTGRPOTrainer, model, tokenizer, tmp_path, peft, **shared, **arguments)
    passes = arguments.get("num_iterations", 1)
    assert logged(actual, "rest/tokens_computed").sum() < 0.5 * passes * logged(actual, "num_tokens")[-1]
    assert len(logged(actual, "loss")) == arguments.get("max_steps", 20)
    assert torch.equal(logged(actual, "completions/mean_length"), logged(expected, "completions/mean_length"))
    for name in ("loss", "entropy", "grad_norm", *(["kl"] if arguments.get("beta") else [])):
        difference = (logged(actual, name) - logged(expected, name)).abs()
        assert difference.max() <= 2e-4 * max(1.0, logged(expected, name).abs().max()), name
