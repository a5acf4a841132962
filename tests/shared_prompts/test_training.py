import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from test_native_tools import TestToolLoop, roll_out
from test_native_tools import make_trainer as native_trainer
from test_trainer import make_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset


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
    # In a micro-batch of two rows a prompt is shared by two: even without completions half of the tokens are left.
    bound = 0.6 if arguments.get("per_device_train_batch_size") == 2 else 0.5
    assert logged(actual, "rest/tokens_computed").sum() < bound * passes * logged(actual, "num_tokens")[-1]
    assert len(logged(actual, "loss")) == arguments.get("max_steps", 20)
    assert torch.equal(logged(actual, "completions/mean_length"), logged(expected, "completions/mean_length"))
    for name in ("loss", "entropy", "grad_norm", *(["kl"] if arguments.get("beta") else [])):
        difference = (logged(actual, name) - logged(expected, name)).abs()
        assert difference.max() <= 2e-4 * max(1.0, logged(expected, name).abs().max()), name


def both_ways(trainer, output):
    """Log-probabilities, entropies, gradient of their sum and tokens computed, without and with sharing."""
    ids, mask = (torch.cat([output[f"prompt_{name}"], output[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    shared, results = trainer.shared_prompts, []
    trainer.shared_prompts.take_num_tokens()
    for shared.is_on in (False, True):
        inputs = trainer.model, ids, mask, output["completion_ids"].size(1)
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(*inputs, compute_entropy=True)
        (logps + entropies).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).float()
        trainer.model.zero_grad()
        results.append((logps.detach(), entropies.detach(), gradient, trainer.shared_prompts.take_num_tokens()))
    assert shared.is_checked
    return results


def assert_exact(separate, shared, gradient_bound=1e-4):
    for actual, expected in zip(shared[:2], separate[:2], strict=True):
        assert (actual - expected).abs().max() <= 1e-4
    assert (shared[2] - separate[2]).norm() <= gradient_bound * separate[2].norm()


class TestRollout:
    @pytest.mark.parametrize(("mode", "prefills"), [("true", [2]), ("false", [])])
    def test_computes_the_prompts_of_a_sampling_once(self, mode, prefills, model, tokenizer, tmp_path):
        trainer = train(ResTGRPOTrainer, model, tokenizer, tmp_path, max_steps=1, share_prompts=mode)
        shapes = []
        trainer.model.model.register_forward_pre_hook(
            lambda _, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        trainer.roll_out([dict(trainer.train_dataset[i]) for i in range(2) for _ in range(4)])
        assert [rows for rows, columns in shapes if columns > 1 and rows < 8] == prefills
        assert all(columns == 1 for rows, columns in shapes[len(prefills) :] if mode == "true")

    def test_of_branches_computes_each_reasoning_once(self, tmp_path):
        dataset = load_tiny_dataset(size=32).filter(lambda row: "<tool_call>" in row["solution"])
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left")
        arguments = {"branch_size": 4, "coefficients": "uniform", "reward_funcs": None, "dataset": dataset}
        sizes = {"per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 64}
        model = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR)
        trainer = make_trainer(ResTGRPOTrainer, model, tokenizer, tmp_path, share_prompts="true", **arguments, **sizes)
        trainer.model.train()
        output = trainer.roll_out([dict(trainer.train_dataset[i]) for i in range(2) for _ in range(8)])
        separate, shared = both_ways(trainer, output)
        assert_exact(separate, shared)
        prompts, completions = (output[f"{part}_mask"].sum().item() for part in ("prompt", "completion"))
        reasonings = sum(trainer.rollout.prefix_lengths)
        assert reasonings > 16
        # Some reasonings of a prompt begin alike as well.
        assert shared[3] <= prompts / 8 + reasonings / 4 + (completions - reasonings) + 16

    def test_of_several_turns_is_exact(self, tmp_path):
        trainer = native_trainer(tmp_path, TestToolLoop.SCRIPT, {"share_prompts": "true"})
        output = roll_out(trainer, len(TestToolLoop.SCRIPT))
        assert not output["tool_mask"].all()
        separate, shared = both_ways(trainer, output)
        assert_exact(separate, shared)
        assert shared[3] < 0.75 * separate[3]

    def test_of_a_quantised_policy_is_exact(self, model, tokenizer, tmp_path):
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
        model.save_pretrained(tmp_path / "policy")
        # The head stays as it is: its width is not a multiple of the block of 64 weights.
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["lm_head"])
        policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", quantization_config=nf4)
        arguments = {"max_steps": 1, "share_prompts": "true", "gradient_checkpointing": True}
        trainer = train(ResTGRPOTrainer, policy, tokenizer, tmp_path, LORA, **arguments)
        separate, shared = both_ways(trainer, trainer._buffered_inputs[0])
        assert_exact(separate, shared, gradient_bound=5e-3)  # that of the adapters is in bfloat16
        assert shared[3] < 0.5 * separate[3]

    def test_under_autocast_differs_by_rounding_only(self, model, tokenizer, tmp_path):
        trainer = train(ResTGRPOTrainer, model, tokenizer, tmp_path, max_steps=1, bf16=True, share_prompts="true")
        separate, shared = both_ways(trainer, trainer._buffered_inputs[0])
        assert (shared[0] - separate[0]).abs().mean() <= 0.01
        assert (shared[2] - separate[2]).norm() <= 0.05 * separate[2].norm()
