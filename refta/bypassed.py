"""Linears whose owner computes with their weight instead of calling them: an adapter in their place would silently do nothing."""

from __future__ import annotations

from torch import nn

_KERNELS = ("out_proj",)  # handed to a fused kernel of state-space layers where that is installed; peft refuses these too
_SCAN = ("x_proj", "dt_proj", "out_proj")

# Class of the owner, after the library that it is from → the names of such linears. Read in torch 2.13 and transformers 5.24.
_OWNERS = {
    "torch.MultiheadAttention": ("out_proj",),
    "torch.TransformerEncoderLayer": ("linear1", "linear2"),  # its fast path, in evaluation
    "transformers.WavLMAttention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "transformers.MambaMixer": _SCAN,
    "transformers.FalconMambaMixer": _SCAN,
    "transformers.JambaMambaMixer": ("dt_proj",),
    "transformers.Mamba2Mixer": _KERNELS,
    "transformers.BambaMixer": _KERNELS,
    "transformers.FalconH1Mixer": _KERNELS,
    "transformers.GraniteMoeHybridMambaLayer": _KERNELS,
    "transformers.NemotronHMamba2Mixer": _KERNELS,
    "transformers.Zamba2MambaMixer": _KERNELS,
}


def is_bypassed(owner: nn.Module, name: str) -> bool:
    """Whether the owner reads the weight of its linear of that name itself."""
    classes = (f"{one.__module__.partition('.')[0]}.{one.__name__}" for one in type(owner).__mro__)
    return any(name in _OWNERS.get(one, ()) for one in classes)
