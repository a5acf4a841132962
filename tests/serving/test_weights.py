from types import SimpleNamespace

import pytest
import torch


pytest.importorskip("bitsandbytes")

from accelerate.utils import DistributedType
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from engines.packed_layout import never_pack, pack, pretend_packing
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.serving import weights
from rest_trl.serving.packing import is_packed
from rest_trl.serving.weights import (
    check_dequantization,
    check_sendable,
    dequantized_metadata,
    is_quantized,
    iter_dequantized_params,
)


NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
DOUBLE = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage="bfloat16"
)
INT8 = BitsAndBytesConfig(load_in_8bit=True)


@pytest.fixture(autouse=True)
def layout(monkeypatch, request):
    """All CPUs are alike: 4-bit weights stay as they are, or lie packed after the first forward pass in eval mode."""
    name = getattr(request, "param", "plain")
    pretend_packing(monkeypatch) if name == "packed" else never_pack(monkeypatch)
    return name


def load(quantization=None, untied=False, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(
        TINY_MODEL_DIR, dtype=dtype, quantization_config=quantization, tie_word_embeddings=not untied
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


def snapshot(model):
    return {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def same_bits(tensor, other):
    """Codes that are stored as floats may be NaN, which equals nothing."""
    return tensor.dtype == other.dtype and torch.equal(*(t.contiguous().view(torch.uint8) for t in (tensor, other)))


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
    @pytest.mark.parametrize("layout", ["plain", "packed"], indirect=True)
    @pytest.mark.parametrize("quantization", [NF4, DOUBLE], ids=["nf4", "double"])
    @pytest.mark.parametrize(
        "arguments",
        [{}, {"bias": "all"}, {"modules_to_save": ["norm"]}, {"names": ("a", "b")}],
        ids=["lora", "biases", "modules_to_save", "two_adapters"],
    )
    def test_equals_what_the_policy_computes_with(self, layout, quantization, arguments):
        policy = with_lora(load(quantization), **arguments)
        if "modules_to_save" in arguments:
            torch.nn.init.uniform_(policy.get_base_model().model.norm.modules_to_save["default"].weight, 0.5, 2.0)
        if "names" in arguments:
            policy.base_model.set_adapter(["a", "b"])
        expected, base = log_probabilities(policy), log_probabilities(load(quantization))
        packed = [
            is_packed(module.weight.quant_state) for module in policy.modules() if isinstance(module, Linear4bit)
        ]
        assert len(packed) == 14 and all(value is (layout == "packed") for value in packed)
        tensors = dict(iter_dequantized_params(policy, torch.float32))
        found = log_probabilities(dense_model(tensors))
        assert (found - expected).abs().max() < 1e-4
        assert (base - expected).abs().max() > 0.5

    @pytest.mark.parametrize("quantization", [NF4, DOUBLE], ids=["nf4", "double"])
    def test_equals_what_the_policy_computes_with_on_this_cpu(self, monkeypatch, quantization):
        monkeypatch.undo()
        policy = with_lora(load(quantization))
        expected = log_probabilities(policy)
        tensors = dict(iter_dequantized_params(policy, torch.float32))
        # A CPU with AVX512-BF16 multiplies packed weights in bfloat16; weights read wrongly are 16 nats off.
        assert (log_probabilities(dense_model(tensors)) - expected).abs().max() < 0.5

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

    @pytest.mark.parametrize(
        ("quantization", "layout"),
        [(NF4, "plain"), (NF4, "packed"), (DOUBLE, "packed"), (INT8, "plain")],
        ids=["nf4", "nf4_packed", "double_packed", "int8"],
        indirect=["layout"],
    )
    def test_leaves_the_policy_bit_for_bit_even_if_abandoned(self, layout, quantization):
        policy = with_lora(load(quantization))
        expected, before = log_probabilities(policy), snapshot(policy)
        list(iter_dequantized_params(policy, torch.float32))
        abandoned = iter_dequantized_params(policy, torch.float32)
        for _ in range(9):
            next(abandoned)
        abandoned.close()
        check_dequantization(policy)
        after = snapshot(policy)
        assert before.keys() == after.keys()
        assert all(same_bits(before[name], after[name]) for name in before)
        assert torch.equal(log_probabilities(policy), expected)


class TestDequantizedMetadata:
    @pytest.mark.parametrize("quantization", [NF4, DOUBLE, INT8], ids=["nf4", "double", "int8"])
    def test_announces_what_is_sent(self, quantization):
        policy = with_lora(load(quantization))
        sent = [
            (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
            for name, tensor in iter_dequantized_params(policy, torch.bfloat16)
        ]
        assert dequantized_metadata(policy, torch.bfloat16) == sent
        assert [name for name, *_ in sent] == [name for name, _ in load().named_parameters()]


class TestCheckDequantization:
    @pytest.mark.parametrize("mode", ["train", "eval"])
    @pytest.mark.parametrize(
        ("quantization", "layout", "dtype"),
        [
            (NF4, "plain", torch.float32),
            (NF4, "plain", torch.bfloat16),
            (DOUBLE, "plain", torch.float32),
            (NF4, "packed", torch.float32),
            (DOUBLE, "packed", torch.float32),
            (INT8, "plain", torch.bfloat16),
        ],
        ids=["nf4", "nf4_bfloat16", "double", "nf4_packed", "double_packed", "int8_bfloat16"],
        indirect=["layout"],
    )
    def test_passes_and_changes_nothing(self, quantization, layout, dtype, mode):
        policy = with_lora(load(quantization, dtype=dtype), lora_dropout=0.5)
        if layout == "packed":
            pack(policy)
        policy.train(mode == "train")
        before, modes = snapshot(policy), [module.training for module in policy.modules()]
        states = [vars(m.weight.quant_state).copy() for m in policy.modules() if isinstance(m, Linear4bit)]
        random_state = torch.get_rng_state()
        check_dequantization(policy)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert [module.training for module in policy.modules()] == modes
        assert all(same_bits(before[name], value) for name, value in snapshot(policy).items())
        after = [vars(m.weight.quant_state) for m in policy.modules() if isinstance(m, Linear4bit)]
        assert all(old[key] is new[key] for old, new in zip(states, after, strict=True) for key in old)

    @pytest.mark.parametrize("layout", ["packed"], indirect=True)
    def test_does_not_pack(self, layout):
        policy = with_lora(load(NF4)).eval()
        check_dequantization(policy)
        assert not any(is_packed(m.weight.quant_state) for m in policy.modules() if isinstance(m, Linear4bit))

    @pytest.mark.parametrize("quantization", [NF4, DOUBLE], ids=["nf4", "double"])
    @pytest.mark.parametrize("layout", ["packed"], indirect=True)
    def test_refuses_packed_weights_that_are_read_as_they_are(self, monkeypatch, quantization):
        policy = with_lora(load(quantization))
        pack(policy)
        check_dequantization(policy)
        monkeypatch.setattr(weights, "unpacked", lambda data, state: (data, state))
        with pytest.raises(
            ValueError, match=r"^model\.layers\.0\.self_attn\.q_proj\.weight as it would be sent"
        ) as error:
            check_dequantization(policy)
        assert "\n" not in str(error.value) and "load the policy without quantisation" in str(error.value)

    @pytest.mark.parametrize(
        ("function", "quantization"),
        [("dequantize_4bit", NF4), ("int8_vectorwise_dequant", INT8)],
        ids=["4bit", "8bit"],
    )
    @pytest.mark.parametrize(
        "corrupt",
        [
            lambda dense: dense.flip(0),
            lambda dense: dense * 1.1,
            lambda dense: dense.roll(1, 1),
            lambda dense: dense.fill_(float("nan")),
        ],
        ids=["rows", "scale", "columns", "nan"],
    )
    def test_refuses_a_corrupted_dequantisation(self, monkeypatch, function, quantization, corrupt):
        policy = with_lora(load(quantization))
        dequantize = getattr(weights, function)
        monkeypatch.setattr(weights, function, lambda *arguments: corrupt(dequantize(*arguments)))
        with pytest.raises(ValueError, match="differs from what the policy multiplies by"):
            check_dequantization(policy)

    def test_refuses_a_forgotten_adapter(self, monkeypatch):
        policy = with_lora(load(NF4))
        layer = policy.get_base_model().model.layers[0].self_attn.q_proj
        monkeypatch.setattr(layer, "get_delta_weight", lambda adapter: torch.zeros(()))
        with pytest.raises(ValueError, match="differs from what the policy multiplies by"):
            check_dequantization(policy)

    def test_knows_policies_without_adapters(self):
        check_dequantization(load(NF4))


class TestCheckSendable:
    def check(self, model, distributed_type=DistributedType.NO):
        check_sendable(model, SimpleNamespace(distributed_type=distributed_type))

    @pytest.mark.parametrize("quantization", [NF4, INT8], ids=["nf4", "int8"])
    def test_plain_lora_can_be_sent(self, quantization):
        self.check(with_lora(load(quantization)))

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
            self.check(with_lora(model, **arguments))

    def test_refuses_other_adapters(self):
        config = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
        with pytest.raises(ValueError, match="use plain LoRA"):
            self.check(get_peft_model(load(NF4), config))

    def test_refuses_sharded_policies(self):
        with pytest.raises(ValueError, match="use DDP"):
            self.check(with_lora(load(NF4)), DistributedType.FSDP)


class TestIsQuantized:
    def test_knows_layers_of_4_and_8_bit(self):
        assert any(isinstance(module, Linear4bit) for module in load(NF4).modules())
        assert any(isinstance(module, Linear8bitLt) for module in load(INT8).modules())
        assert is_quantized(with_lora(load(NF4))) and is_quantized(load(INT8))
        assert not is_quantized(with_lora(load()))
