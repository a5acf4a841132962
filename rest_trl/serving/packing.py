"""
The layout into which bitsandbytes repacks 4-bit weights on CPUs, and the way back.

On a CPU with AVX512-BF16 the first forward pass in eval mode replaces the weights of a `Linear4bit` layer by a copy
whose codes lie in another order and whose scales are transposed and rounded to bfloat16. `dequantize_4bit` does not
know that layout: it returns garbage without an error. The layer also passes no gradient to its input in that layout,
and its `state_dict` takes the weights back with scales that are wrong.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers.utils import is_bitsandbytes_available


if is_bitsandbytes_available():
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit


def is_packed(quant_state: "QuantState") -> bool:
    """Whether a 4-bit weight lies in the layout for CPUs. The attribute exists only after a weight was packed."""
    return getattr(quant_state, "packing_format_for_cpu", False)


def unpacked(data: torch.Tensor, quant_state: "QuantState") -> tuple[torch.Tensor, "QuantState"]:
    """
    Return a 4-bit weight in the layout that `dequantize_4bit` reads.

    A weight in the layout for CPUs is copied and neither argument changes. Any other weight is returned as it is.
    """
    if not is_packed(quant_state):
        return data, quant_state
    # Only packed weights need the private function, so another version of bitsandbytes can fail nowhere else.
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

    state: Any = copy.copy(quant_state)
    # The inverse restores the codes. It would quantise scales that were nested a second time, and leave others
    # transposed, so the scales are restored here.
    state.original_nested = False
    data, state = _convert_weight_packed_for_cpu_inverse(data, state)
    state.absmax = quant_state.absmax.T.float().reshape(-1)
    return data, state


def keep_unpacked(model: nn.Module) -> None:
    """
    Keep the 4-bit layers of a policy out of the layout for CPUs, which has no gradient and cannot be saved.

    Without this, an evaluation on a CPU with AVX512-BF16 makes all later updates wrong. A layer that is packed already
    is unpacked in place. A policy without such layers is left as it is.
    """
    if not is_bitsandbytes_available():
        return
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            weight: Any = module.weight
            weight.data, weight.quant_state = unpacked(weight.data, weight.quant_state)
            module.quant_state = weight.quant_state
