import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rest_trl.serving.weights import iter_dequantized_params, send_dequantized_weights
from rest_trl.tiny import TINY_MODEL_DIR


NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
DOUBLE = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage="bfloat16"
)
INT8 = BitsAndBytesConfig(load_in_8bit=True)


def load(quantization=None, untied=False):
    model = AutoModelForCausalLM.from_pretrained(
        TINY_MODEL_DIR, dtype=torch.float32, quantization_config=quantization, tie_word_embeddings=not untied
    )
    return model.eval()


def with_lora(model, names=("default",), **arguments):
    """LoRA with weights unlike zero in all its adapters."""
    arguments = {"r": 4, "lora_alpha": 12, "use_rslora": True, "target_modules": "all-linear"} | arguments
    model = get_peft_model(model, LoraConfig(**arguments), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, LoraConfig(**arguments))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def generation(model, dtype="torch.float32", distributed_type=DistributedType.NO):
    """What the function takes of TRL's `VLLMGeneration`, without a server."""
    client = SimpleNamespace(get_server_info=lambda: {"model_config": {"dtype": dtype}})
    accelerator = SimpleNamespace(is_main_process=Accelerator().is_main_process, distributed_type=distributed_type)
    return SimpleNamespace(model=model, accelerator=accelerator, vllm_client=client)


def snapshot(model):
    return {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def dense_model(tensors):
    """The unquantised model with the tensors that a server would get."""
    model = load(untied="lm_head.weight" in tensors)
    assert list(tensors) == [name for name, _ in model.named_parameters()]
    assert {name: t.shape for name, t in tensors.items()} == {name: p.shape for name, p in model.named_parameters()}
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    return model


def log_probabilities(model):
    ids = torch.arange(3, 67).view(2, 32)
    with torch.no_grad():
        return model(input_ids=ids).logits.log_softmax(-1)


class TestIterDequantizedParams:
    @pytest.mark.parametrize("quantization", [NF4, DOUBLE], ids=["nf4", "double"])
    @pytest.mark.parametrize(
        "arguments",
        [{}, {"bias": "all"}, {"modules_to_save": ["norm"]}, {"names": ("a", "b")}],
        ids=["lora", "biases", "modules_to_save", "two_adapters"],
    )
    def test_equals_what_the_policy_computes_with(self, quantization, arguments):
        policy = with_lora(load(quantization), **arguments)
        if "modules_to_save" in arguments:
            torch.nn.init.uniform_(policy.get_base_model().model.norm.modules_to_save["default"].weight, 0.5, 2.0)
        if "names" in arguments:
            policy.base_model.set_adapter(["a", "b"])
        expected, base = log_probabilities(policy), log_probabilities(load(quantization))
        tensors = dict(iter_dequantized_params(policy, torch.float32))
        found = log_probabilities(dense_model(tensors))
        assert (found - expected).abs().max() < 1e-4
        assert (base - expected).abs().max() > 0.5

    def test_adds_scaled_deltas_to_dequantised_weights(self):
        policy = with_lora(load(NF4))
        tensors = dict(iter_dequantized_params(policy, torch.float32))
        layer = policy.get_base_model().model.layers[0].self_attn.q_proj
        base = dict(iter_dequantized_params(load(NF4), torch.float32))["model.layers.0.self_attn.q_proj.weight"]
        delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 12 / 4**0.5
        assert torch.allclose(tensors["model.layers.0.self_attn.q_proj.weight"], base + delta, atol=1e-6)
        assert not torch.equal(base, dict(load().named_parameters())["model.layers.0.self_attn.q_proj.weight"])

    def test_only_the_active_adapter_counts(self):
        policy = with_lora(load(NF4), names=("a", "b"))
        policy.set_adapter("b")
        expected = log_probabilities(policy)
        found = log_probabilities(dense_model(dict(iter_dequantized_params(policy, torch.float32))))
        assert (found - expected).abs().max() < 1e-4

    def test_disabled_adapters_do_not_count(self):
        policy = with_lora(load(NF4), modules_to_save=["norm"])
        with policy.disable_adapter():
            tensors = dict(iter_dequantized_params(policy, torch.float32))
        base = dict(iter_dequantized_params(load(NF4), torch.float32))
        assert all(torch.equal(tensors[name], base[name]) for name in base)

    def test_adapted_embeddings_of_an_untied_model(self):
        policy = with_lora(load(NF4, untied=True), target_modules=["embed_tokens", "q_proj"])
        expected = log_probabilities(policy)
        tensors = dict(iter_dequantized_params(policy, torch.float32))
        assert "lm_head.weight" in tensors
        assert (log_probabilities(dense_model(tensors)) - expected).abs().max() < 1e-4

    def test_eight_bit_weights(self):
        policy = with_lora(load(INT8))
        before = dict(iter_dequantized_params(policy, torch.float32))
        log_probabilities(policy)  # moves the scales
        after = dict(iter_dequantized_params(policy, torch.float32))
        dense = dict(load().named_parameters())
        for name, tensor in after.items():
            assert torch.equal(tensor, before[name])
        base = dict(iter_dequantized_params(load(INT8), torch.float32))
        for name, tensor in base.items():  # less than one step, 1/127 of the row's largest
            assert ((tensor - dense[name]).abs() <= dense[name].abs().amax(-1, keepdim=True) / 127).all(), name
        assert any(not torch.equal(after[name], base[name]) for name in base)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_has_the_given_dtype(self, dtype):
        assert {tensor.dtype for _, tensor in iter_dequantized_params(with_lora(load(NF4)), dtype)} == {dtype}

    @pytest.mark.parametrize("quantization", [NF4, INT8], ids=["nf4", "int8"])
    def test_leaves_the_policy_bit_for_bit_even_if_abandoned(self, quantization):
        policy = with_lora(load(quantization))
        expected, before = log_probabilities(policy), snapshot(policy)
        list(iter_dequantized_params(policy, torch.float32))
        abandoned = iter_dequantized_params(policy, torch.float32)
        for _ in range(9):
            next(abandoned)
        abandoned.close()
        after = snapshot(policy)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(log_probabilities(policy), expected)


class TestSendDequantizedWeights:
    @pytest.mark.parametrize("policy", [load, lambda: with_lora(load())], ids=["full", "lora"])
    def test_leaves_unquantised_policies_to_trl(self, policy):
        vllm_generation = generation(policy())
        send_dequantized_weights(vllm_generation)
        assert not hasattr(vllm_generation, "_iter_named_params")

    @pytest.mark.parametrize("quantization", [NF4, INT8], ids=["nf4", "int8"])
    def test_sends_in_the_dtype_of_the_server(self, quantization):
        vllm_generation = generation(with_lora(load(quantization)), dtype="torch.bfloat16")
        send_dequantized_weights(vllm_generation)
        names = [name for name, _ in load().named_parameters()]
        sent = list(vllm_generation._iter_named_params())
        assert [name for name, _ in sent] == names
        assert {tensor.dtype for _, tensor in sent} == {torch.bfloat16}

    @pytest.mark.parametrize(
        ("arguments", "cause"),
        [
            ({"use_dora": True}, "DoRA"),
            ({"lora_bias": True}, "lora_bias"),
            ({"trainable_token_indices": [5]}, "TrainableTokensWrapper"),
            ({"target_modules": ["embed_tokens", "q_proj"]}, "tied"),
            ({"modules_to_save": ["lm_head"]}, "tied"),
        ],
    )
    def test_refuses_adapters_that_it_cannot_add(self, arguments, cause):
        model = load(NF4)
        if "lora_bias" in arguments:  # PEFT wants a bias to add it to
            for module in model.modules():
                if isinstance(module, Linear4bit):
                    module.bias = torch.nn.Parameter(torch.zeros(module.out_features))
        with pytest.raises(ValueError, match=cause):
            send_dequantized_weights(generation(with_lora(model, **arguments)))

    def test_refuses_other_adapters(self):
        config = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
        with pytest.raises(ValueError, match="use plain LoRA"):
            send_dequantized_weights(generation(get_peft_model(load(NF4), config)))

    def test_refuses_sharded_policies(self):
        with pytest.raises(ValueError, match="use DDP"):
            send_dequantized_weights(generation(with_lora(load(NF4)), distributed_type=DistributedType.FSDP))

    def test_the_policies_of_these_tests_are_quantised(self):
        assert any(isinstance(module, Linear4bit) for module in load(NF4).modules())
        assert any(isinstance(module, Linear8bitLt) for module in load(INT8).modules())
        assert copy.copy(NF4).load_in_4bit
