"""The recipe for a card of 24 GB, run for real on a CPU with the tiny model, as its launch command starts it."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import get_quantization_config

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.serving.packing import keep_unpacked
from rest_trl.train import make_parser, make_trainer


peft = pytest.importorskip("peft")
bitsandbytes = pytest.importorskip("bitsandbytes")

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "recipes/qwen3_1.7b_qlora_24gb.yaml"
LEARNING_RATE = 1e-3
# What the machine and the tiny model need otherwise. All that makes the run QLoRA is the recipe's.
OVERRIDES = {
    "model_name_or_path": "tiny",
    "dataset_name": "tiny",
    "tool_call_syntax": "hermes",
    "use_cpu": True,
    "bf16": False,  # bfloat16 is slow on most CPUs
    "dtype": "float32",
    "generation_batch_size": 8,
    "gradient_accumulation_steps": 8,
    "max_completion_length": 48,
    "learning_rate": LEARNING_RATE,  # two steps of 1e-5 would not be seen
    "max_steps": 2,
    "save_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


def arguments(output_dir):
    settings = OVERRIDES | {"output_dir": str(output_dir)}
    return [
        "--config",
        str(ROOT / RECIPE),
        *(text for name, value in settings.items() for text in (f"--{name}", str(value))),
    ]


def launch(fork_server, output_dir):
    """Runs the launch command of the recipe's header with the overrides, in forks."""
    command = (ROOT / RECIPE).read_text().splitlines()[0].removeprefix("# ")
    module = re.search(r"accelerate launch (.*) --config", command)[1].split()
    fork_server.run("-m", "accelerate.commands.launch", *module, *arguments(output_dir), timeout=600)


def make(output_dir):
    """The trainer of the same run, in this process."""
    return make_trainer(*make_parser().parse_args_and_config(arguments(output_dir)))


def base_state(trainer):
    state = {name: value for name, value in trainer.model.state_dict().items() if ".lora_" not in name}
    return {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}


@pytest.fixture(scope="module")
def run(tmp_path_factory, fork_server):
    """Two updates, each with a checkpoint."""
    output_dir = tmp_path_factory.mktemp("qlora") / "whole"
    launch(fork_server, output_dir)
    return output_dir


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """
    A trainer that has gone on from the first checkpoint of the run, in this process, and the base before: packed
    weights, their constants, embeddings, norms.
    """
    trainer = make(tmp_path_factory.mktemp("resumed"))
    before = base_state(trainer)
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-1"))
    trainer.save_model()
    trainer.save_state()
    return trainer, before


@pytest.fixture(scope="module")
def resumed(trained):
    """The directory of that trainer."""
    trainer, _ = trained
    return Path(trainer.args.output_dir)


def logs(output_dir):
    state = json.loads((output_dir / "trainer_state.json").read_text())
    return [log for log in state["log_history"] if "loss" in log]


class TestRecipeOnACpu:
    def test_takes_two_updates(self, run):
        assert [log["step"] for log in logs(run)] == [1, 2]
        assert all(math.isfinite(log["grad_norm"]) and log["grad_norm"] > 0 for log in logs(run))
        assert all("rest/entropy/tool_name" in log for log in logs(run))

    def test_checkpoint_holds_the_adapter_alone(self, run):
        for directory in (run, run / "checkpoint-1", run / "checkpoint-2"):
            assert not list(directory.glob("model*.safetensors"))
            adapter = load_file(directory / "adapter_model.safetensors")
            assert all(".lora_A." in name or ".lora_B." in name for name in adapter)
        config = json.loads((run / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (32, 32, str(TINY_MODEL_DIR))

    def test_adapters_of_all_linear_layers_change(self, run):
        first, last = (load_file(run / f"checkpoint-{step}" / "adapter_model.safetensors") for step in (1, 2))
        layers = [
            name
            for name, module in AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR).named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        ]
        assert len(layers) == 2 * 7
        assert set(first) == {f"base_model.model.{name}.lora_{m}.weight" for name in layers for m in "AB"}
        assert all(first[name].any() for name in first)
        assert all((first[name] != last[name]).any() for name in first if ".lora_B." in name)


class TestResume:
    def test_takes_the_second_update_with_the_same_rollouts(self, run, resumed):
        whole, found = logs(run), logs(resumed)
        assert [log["step"] for log in found] == [1, 2]
        for name in ("num_tokens", "reward", "completions/mean_length", "rest/progress", "rest/coefficient/format"):
            assert found[1][name] == pytest.approx(whole[1][name], rel=1e-4), name

    def test_moves_the_adapter_from_where_it_was(self, run, resumed):
        start, end = (load_file(path / "adapter_model.safetensors") for path in (run / "checkpoint-1", resumed))
        for name in start:
            moved = (end[name].float() - start[name].float()).abs().max()
            assert 0 < moved < 2 * LEARNING_RATE  # Adam's steps are at most about the rate

    def test_ends_with_the_adapter_of_a_run_never_interrupted(self, run, resumed):
        expected, found = (load_file(path / "adapter_model.safetensors") for path in (run, resumed))
        assert all(torch.equal(expected[name], found[name]) for name in expected)


class TestBase:
    def test_linear_layers_are_packed_nf4_and_the_adapters_alone_are_trained(self, trained):
        trainer, _ = trained
        packed = [module for module in trainer.model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
        assert len(packed) == 2 * 7
        for module in packed:
            assert module.weight.dtype == torch.uint8
            assert module.weight.numel() * 2 == module.in_features * module.out_features
            assert (module.weight.quant_state.quant_type, module.weight.quant_state.nested) == ("nf4", True)
        adapters = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert all(".lora_" in name for name in adapters)
        assert {p.dtype for p in adapters.values()} == {torch.bfloat16}  # the recipe's header says what follows

    def test_is_unchanged_bit_for_bit_by_training(self, trained):
        trainer, before = trained
        after = base_state(trainer)
        assert sum("absmax" in name for name in before) >= 2 * 7
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(p.any() for name, p in trainer.model.named_parameters() if ".lora_B." in name)

    def test_saved_adapter_on_a_base_quantised_again_gives_the_trained_model(self, trained):
        trainer, _ = trained
        model_args = make_parser().parse_args_and_config(arguments("unused"))[2]
        base = AutoModelForCausalLM.from_pretrained(
            TINY_MODEL_DIR, dtype=torch.float32, quantization_config=get_quantization_config(model_args)
        )
        for model in (base, trainer.model):  # some CPUs would repack the one and not the other
            keep_unpacked(model)
        loaded = peft.PeftModel.from_pretrained(base, trainer.args.output_dir).eval()
        for name, parameter in loaded.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(torch.bfloat16)  # as in training
        input_ids = torch.arange(40).unsqueeze(0)
        with torch.no_grad():
            expected = trainer.model.eval()(input_ids=input_ids).logits
            assert torch.equal(loaded(input_ids=input_ids).logits, expected)
            with loaded.disable_adapter():
                assert not torch.equal(loaded(input_ids=input_ids).logits, expected)
