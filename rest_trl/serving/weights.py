"""
Weights of a quantised policy for a vLLM server.

TRL 1.16 sends the tensors of a policy as they lie in memory. Those of bitsandbytes are packed, two weights of 4 bit in
a byte, and the server cannot load them. Here each is dequantised on its way, with the adapters added to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from transformers.utils import is_bitsandbytes_available, is_peft_available


if is_bitsandbytes_available():
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from bitsandbytes.nn import Linear4bit, Linear8bitLt, Params4bit

if is_peft_available():
    from peft import PeftModel
    from peft.tuners import lora
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper


@dataclass
class _Parameter:
    """A parameter of the model under the adapters: its name there, the layer that holds it, and the LoRA on it."""

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

    @torch.no_grad()
    def tensor(self, dtype: torch.dtype) -> torch.Tensor:
        """The values that the forward pass multiplies with, dense."""
        tensor = self.value.data
        if isinstance(self.value, Params4bit) and self.value.quant_state:
            tensor = dequantize_4bit(tensor, self.value.quant_state)
        elif isinstance(self.layer, Linear8bitLt) and tensor.dtype is torch.int8:
            # The first forward pass moves the scales from the parameter to the state of the layer.
            scales = self.layer.state.SCB if self.layer.state.SCB is not None else self.value.SCB
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


def iter_dequantized_params(model: Any, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """
    Parameters of a policy quantised by bitsandbytes as the same model has them without quantisation and adapters.

    One tensor is dense at a time, and the policy is not changed.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy with `Linear4bit` or `Linear8bitLt` layers.
        dtype (`torch.dtype`):
            Of all tensors. Adapters are added in float32.

    Yields:
        `tuple[str, torch.Tensor]`: name in the checkpoint, and value. Tied parameters come once.
    """
    seen: set[int] = set()
    for parameter in _parameters(_base_model(model)):
        if id(parameter.value) not in seen:
            seen.add(id(parameter.value))
            yield parameter.name, parameter.tensor(dtype)


def send_dequantized_weights(vllm_generation: Any) -> None:
    """
    Let a trainer send the weights of a policy quantised by bitsandbytes to a vLLM server; leave others as they are.

    Written for TRL 1.16: it takes the place of the iterator that `VLLMGeneration` sends.

    Args:
        vllm_generation ([`~trl.generation.vllm_generation.VLLMGeneration`]):
            The trainer's, in server mode.

    Raises:
        ValueError: if the weights that the policy computes with cannot be given to the server.
    """
    model, accelerator = vllm_generation.model, vllm_generation.accelerator
    if not is_bitsandbytes_available() or not any(isinstance(m, Linear4bit | Linear8bitLt) for m in model.modules()):
        return
    sharded = accelerator.distributed_type is DistributedType.FSDP or (
        accelerator.distributed_type is DistributedType.DEEPSPEED and accelerator.deepspeed_plugin.zero_stage == 3
    )
    if sharded:
        raise ValueError(
            "a quantised policy that FSDP or DeepSpeed ZeRO-3 shards cannot be sent to a vLLM server: use DDP or "
            "ZeRO-2, or load the policy without quantisation"
        )
    _check_adapters(_base_model(model))
    dtype = torch.float32  # on the other ranks, which send nothing
    if accelerator.is_main_process:
        name = vllm_generation.vllm_client.get_server_info()["model_config"]["dtype"]
        dtype = getattr(torch, name.removeprefix("torch."))
    vllm_generation._iter_named_params = partial(iter_dequantized_params, model, dtype)


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
