"""
The layout into which bitsandbytes repacks 4-bit weights on a CPU with AVX512-BF16, on every CPU.

The packing itself is bitsandbytes' own function, which runs anywhere. Its kernel that multiplies by packed weights
does not, so a product in float32 by the weights that were packed takes its place.
"""

import copy

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, modules


def never_pack(monkeypatch):
    """Let this CPU be one without AVX512-BF16 for models that are loaded from now on."""
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)


def pretend_packing(monkeypatch):
    """Let this CPU be one with AVX512-BF16 for models that are loaded from now on."""
    convert = functional._convert_weight_packed_for_cpu

    def remember(data, state):
        dense = functional.dequantize_4bit(data, with_rounded_scales(state))
        data, state = convert(data, state)
        state.dense = dense
        return data, state

    def multiply(A, B, out=None, state=None, **kwargs):
        return (A.detach().float() @ state.dense.float().T).to(A.dtype)

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(modules, "_convert_weight_packed_for_cpu", remember)
    monkeypatch.setattr(functional, "gemv_4bit", multiply)


def with_rounded_scales(state):
    """A copy of the state of a weight with what the packing leaves of its scales: bfloat16, not nested."""
    state = copy.copy(state)
    if state.nested:
        state.absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        state.nested = False
    state.absmax = state.absmax.bfloat16().float()
    return state


@torch.no_grad()
def pack(model):
    """Pack all layers of a model, as its first forward pass in eval mode would."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            weight = module.weight
            weight.data, weight.quant_state = modules._convert_weight_packed_for_cpu(weight.data, weight.quant_state)
