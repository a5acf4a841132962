"""
Weights of a quantised policy for a vLLM server.

TRL 1.16 sends the tensors of a policy as they lie in memory. bitsandbytes stores codes of 4 or 8 bits instead of the
weights, and a server cannot load codes. This module dequantises each tensor before it is sent and adds the adapters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers.utils import is_bitsandbytes_available, is_peft_available

from .packing import unpacked


if is_bitsandbytes_available():
    import bitsandbytes
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from bitsandbytes.nn import Linear4bit, Linear8bitLt, Params4bit

if is_peft_available():
    from peft import PeftModel
    from peft.tuners import lora
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper


# [ours] Tolerance of the check, as a multiple of the precision of the dtypes that a product is computed with. Correct
# weights are off by at most 0.4, those in a wrong layout by 1.4 times their norm, 180 times the precision of bfloat16.
_SLACK = 4
# No product is expected to be more precise: GPUs may multiply float32 matrices as TF32, whose mantissa has 10 bits.
_PRECISION = 2.0**-10


@dataclass
class _Parameter:
    """A parameter of the model without adapters: its name there, the layer that holds it, and the LoRA layer on it."""

    name: str
    value: Any
    layer: nn.Module
    adapter_layer: Any = None

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that the forward pass adds to the parameter."""
        layer = self.adapter_layer
        if layer is None or layer.disable_adapters or layer.merged:
            return []
        return [name for name in layer.active_adapters if name in layer.lora_A or name in layer.lora_embedding_A]

    @property
    def is_4bit(self) -> bool:
        return isinstance(self.value, Params4bit) and self.value.quant_state is not None

    @property
    def is_8bit(self) -> bool:
        return isinstance(self.layer, Linear8bitLt) and self.value.dtype is torch.int8

    @property
    def shape(self) -> list[int]:
        """Shape of the dense tensor."""
        return list(self.value.quant_state.shape if self.is_4bit else self.value.shape)

    @torch.no_grad()
    def tensor(self, dtype: torch.dtype) -> torch.Tensor:
        """The dense values that the forward pass multiplies by."""
        tensor = self.value.data
        if self.is_4bit:
            tensor = dequantize_4bit(*unpacked(tensor, self.value.quant_state))
        elif self.is_8bit:
            # The first forward pass moves the scales from the parameter to the state of the layer.
            layer: Any = self.layer
            scales = layer.state.SCB if layer.state.SCB is not None else self.value.SCB
            tensor = int8_vectorwise_dequant(tensor, scales)
        for adapter in self.adapters:
            tensor = tensor.float() + self.adapter_layer.get_delta_weight(adapter).float()
        return tensor.to(dtype)


def _parameters(module: nn.Module, prefix: str = "") -> Iterator[_Parameter]:
    """Parameters in the order and under the names that the model has without adapters."""
    if isinstance(module, lora.LoraLayer):
        layer = module.get_base_layer()
        for name, value in layer.named_parameters(recurse=False):
            yield _Parameter(prefix + name, value, layer, module if name == "weight" else None)
    elif isinstance(module, ModulesToSaveWrapper):
        active = [name for name in module.active_adapters if name in module.modules_to_save]
        trained = active and not module.disable_adapters
        yield from _parameters(module.modules_to_save[active[0]] if trained else module.original_module, prefix)
    else:
        for name, value in module.named_parameters(recurse=False):
            yield _Parameter(prefix + name, value, module)
        for name, child in module.named_children():
            yield from _parameters(child, f"{prefix}{name}.")


def _sent_parameters(model: Any) -> Iterator[_Parameter]:
    seen: set[int] = set()
    for parameter in _parameters(_base_model(model)):
        if id(parameter.value) not in seen:
            seen.add(id(parameter.value))
            yield parameter


def is_quantized(model: nn.Module) -> bool:
    """Whether bitsandbytes has quantised layers of a policy."""
    return is_bitsandbytes_available() and any(isinstance(m, Linear4bit | Linear8bitLt) for m in model.modules())


def dequantized_metadata(model: Any, dtype: torch.dtype) -> list[tuple[str, str, list[int]]]:
    """List what [`iter_dequantized_params`] yields, without computing it."""
    name = str(dtype).removeprefix("torch.")
    return [(parameter.name, name, parameter.shape) for parameter in _sent_parameters(model)]


def iter_dequantized_params(model: Any, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """
    Yield the parameters of a quantised policy as the same model has them without quantisation and adapters.

    One tensor is dense at a time, and the policy is not changed.
    """
    for parameter in _sent_parameters(model):
        yield parameter.name, parameter.tensor(dtype)


@torch.no_grad()
def check_dequantization(model: Any) -> None:
    """
    Compare one dequantised layer with the policy's own product.

    Codes that are read wrongly raise no error by themselves: the server would sample from another policy. A random
    input is therefore multiplied by one quantised layer, with adapters if there are any, and by its dense matrix. The
    values of the policy, its mode and torch's random state do not change.
    """
    quantized = [parameter for parameter in _sent_parameters(model) if parameter.is_4bit or parameter.is_8bit]
    parameter = next((parameter for parameter in quantized if parameter.adapters), quantized[0])
    layer: Any = parameter.layer
    module = layer if parameter.adapter_layer is None else parameter.adapter_layer
    weight = parameter.tensor(torch.float32)
    # Signs are exact in every dtype, in 8 bit too, so the products differ only by rounded weights and sums.
    signs = torch.randint(2, (16, weight.shape[1]), generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = signs.to(weight.device, _base_model(model).get_input_embeddings().weight.dtype)
    dropouts = [
        submodule for submodule in module.modules() if isinstance(submodule, nn.Dropout) and submodule.training
    ]
    for dropout in dropouts:
        dropout.eval()
    try:
        found = module(x.requires_grad_())  # bitsandbytes repacks no weight for an input that wants a gradient
    finally:
        for dropout in dropouts:
            dropout.train()
    expected = nn.functional.linear(x.float(), weight, None if layer.bias is None else layer.bias.float())
    dtypes = {x.dtype, found.dtype, *(p.dtype for p in module.parameters() if p.is_floating_point())}
    dtypes |= {layer.compute_dtype, layer.weight.quant_state.dtype} if parameter.is_4bit else {torch.float16}
    tolerance = _SLACK * max(_PRECISION, *(torch.finfo(dtype).eps for dtype in dtypes if dtype is not None))
    difference = ((found.float() - expected).norm() / expected.norm()).item()
    if not difference <= tolerance:  # written so that NaN is refused, too
        raise ValueError(
            f"{parameter.name} as it would be sent to the vLLM server differs from what the policy multiplies by: by "
            f"{difference:.2g} of its norm, where rounding explains {tolerance:.2g}. rest-trl reads the weights of "
            f"bitsandbytes {bitsandbytes.__version__} wrongly: use another version of it (0.50.2 is tested), or load "
            "the policy without quantisation"
        )


def check_sendable(model: Any, accelerator: Accelerator) -> None:
    """Check that the weights that a quantised policy computes with can be given to a vLLM server."""
    sharded = accelerator.distributed_type is DistributedType.FSDP or (
        accelerator.distributed_type is DistributedType.DEEPSPEED and accelerator.deepspeed_plugin.zero_stage == 3
    )
    if sharded:
        raise ValueError(
            "a quantised policy that FSDP or DeepSpeed ZeRO-3 shards cannot be sent to a vLLM server: use DDP or "
            "ZeRO-2, or load the policy without quantisation"
        )
    _check_adapters(_base_model(model))


def _base_model(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _is_plain_lora(layer: Any) -> bool:
    plain = isinstance(layer, lora.Linear | lora.Embedding | lora.Linear4bit | lora.Linear8bitLt)
    return plain and not layer.lora_variant and not any(layer.lora_bias.values())


def _check_adapters(model: Any) -> None:
    cure = "use plain LoRA, or load the policy without quantisation"
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            if not _is_plain_lora(module):
                raise ValueError(
                    f"the adapter of {name} ({type(module).__name__}, for example DoRA, lora_bias or "
                    f"target_parameters) cannot be added to quantised weights for a vLLM server: {cure}"
                )
        elif isinstance(module, AuxiliaryTrainingWrapper) and not isinstance(module, ModulesToSaveWrapper):
            raise ValueError(
                f"{name} is trained as a {type(module).__name__}, which cannot be sent to a vLLM server with a "
                f"quantised policy: {cure}"
            )
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    if model.config.get_text_config().tie_word_embeddings and None not in embeddings:
        tied = [next(_parameters(module)) for module in embeddings]
        if tied[0].value is not tied[1].value or any(parameter.adapter_layer for parameter in tied):
            raise ValueError(
                "the policy has its embeddings tied to its head and trains one of the two: a vLLM server has one "
                "matrix for both. Leave both out of target_modules and modules_to_save"
            )
