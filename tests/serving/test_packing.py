import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.serving.packing import is_packed, keep_unpacked, unpacked


pytest.importorskip("bitsandbytes")

from bitsandbytes.functional import _convert_weight_packed_for_cpu, dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from engines.packed_layout import pack, pretend_packing, with_rounded_scales


def quantized(**settings):
    torch.manual_seed(0)
    settings = {"blocksize": 64, "quant_type": "nf4", "compress_statistics": False} | settings
    return quantize_4bit(torch.randn(96, 256), **settings)


def contents(state):
    return {name: value.clone() if torch.is_tensor(value) else value for name, value in vars(state).items()}


class TestUnpacked:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"quant_type": "fp4"},
            {"blocksize": 32},
            {"blocksize": 256},
            {"compress_statistics": True},
            {"quant_storage": torch.bfloat16},
            {"compress_statistics": True, "quant_storage": torch.float32},
        ],
        ids=["nf4", "fp4", "blocks_of_32", "blocks_of_256", "double", "bfloat16_storage", "double_float32_storage"],
    )
    def test_undoes_the_packing_but_for_the_rounding_of_the_scales(self, settings):
        data, state = quantized(**settings)
        expected = dequantize_4bit(data, with_rounded_scales(state))
        plain = dequantize_4bit(data, state)
        packed, packed_state = _convert_weight_packed_for_cpu(data.clone(), copy.copy(state))
        assert is_packed(packed_state)
        before = packed.clone(), contents(packed_state)
        found_data, found_state = unpacked(packed, packed_state)
        assert torch.equal(found_data.view(torch.uint8).flatten(), data.view(torch.uint8).flatten())
        assert found_data.dtype == data.dtype
        found = dequantize_4bit(found_data, found_state)
        assert torch.equal(found, expected) and found.dtype == plain.dtype
        assert ((found - plain).abs() <= plain.abs() * 2**-8).all()
        after = contents(packed_state)
        assert torch.equal(packed, before[0]) and after.keys() == before[1].keys()
        assert all(
            torch.equal(value, after[name]) if torch.is_tensor(value) else value == after[name]
            for name, value in before[1].items()
        )

    def test_packed_weights_cannot_be_read_as_they_are(self):
        data, state = quantized()
        plain = dequantize_4bit(data, state)
        packed, packed_state = _convert_weight_packed_for_cpu(data.clone(), copy.copy(state))
        garbage = dequantize_4bit(packed, packed_state).float()
        assert (garbage - plain).norm() > plain.norm()

    def test_leaves_other_weights_alone(self):
        data, state = quantized()
        assert unpacked(data, state) == (data, state)


@pytest.fixture
def policy(monkeypatch, request):
    """A policy on a CPU that packs, whatever this one does."""
    pretend_packing(monkeypatch)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=request.param
    )
    return AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, dtype=torch.float32, quantization_config=settings)


def layers(model):
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def evaluate(model):
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 35).view(1, 32)).logits
    model.train()
    return logits


def gradient(model):
    """Of the embeddings, which gradients reach only through all layers."""
    model.train().zero_grad()
    ids = torch.arange(3, 35).view(1, 32)
    model(input_ids=ids, labels=ids).loss.backward()
    return model.get_input_embeddings().weight.grad.clone()


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}


@pytest.mark.parametrize("policy", [False, True], ids=["nf4", "double"], indirect=True)
class TestKeepUnpacked:
    def test_an_evaluation_changes_neither_gradients_nor_checkpoints(self, policy):
        keep_unpacked(policy)
        expected, before = gradient(policy), tensors(policy)
        evaluate(policy)
        after = tensors(policy)
        assert not any(is_packed(layer.weight.quant_state) for layer in layers(policy))
        assert torch.equal(gradient(policy), expected)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)

    def test_without_it_they_change(self, policy):
        expected = gradient(policy)
        evaluate(policy)
        assert all(is_packed(layer.weight.quant_state) for layer in layers(policy))
        assert (gradient(policy) - expected).norm() > 0.1 * expected.norm()

    def test_unpacks_a_policy_that_was_evaluated(self, policy):
        expected = gradient(policy)
        pack(policy)
        keep_unpacked(policy)
        assert not any(is_packed(layer.weight.quant_state) for layer in layers(policy))
        found = gradient(policy)
        assert (found - expected).norm() < 0.05 * expected.norm()  # the scales stay rounded to bfloat16
        tensors(policy)
        assert torch.equal(gradient(policy), found)


def test_other_policies_are_left_alone():
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR)
    before = tensors(model)
    keep_unpacked(model)
    assert all(torch.equal(before[name], value) for name, value in tensors(model).items())
