"""What the tests of refta share: small models of numbered layers, stacks of several kinds of spectrum, and relative errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import refta

DATA = Path(__file__).parents[1] / "data"
REFTA_ORDERS = ("shared", "slices", "reconstruct", "reconstruct_recompute", "reconstruct_stack", "fused", "fused_fold")
TRANSFORMS = ("dct", "dft_real", "hosvd", "identity", "lsm")


class Layer(nn.Module):
    """One layer with one linear, `query`."""

    def __init__(self, rows: int, columns: int, *, bias: bool = True):
        super().__init__()
        self.query = nn.Linear(columns, rows, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.query(x)


class Parallel(nn.Module):
    """K layers that each read an input of their own (or all the same one); the outputs stacked (K, ..., n)."""

    def __init__(self, layers: int, rows: int, columns: int, *, bias: bool = True):
        super().__init__()
        self.layers = nn.ModuleList(Layer(rows, columns, bias=bias) for _ in range(layers))

    def forward(self, x: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        inputs = x if isinstance(x, list) else [x] * len(self.layers)
        return torch.stack([layer(one) for layer, one in zip(self.layers, inputs, strict=True)])


def parallel(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """The model of a stack: weight (K, n, d), bias (K, n) or None."""
    model: Any = Parallel(*weight.shape, bias=bias is not None).to(weight.dtype)
    with torch.no_grad():
        for k, layer in enumerate(model.layers):
            layer.query.weight.copy_(weight[k])
            if bias is not None:
                layer.query.bias.copy_(bias[k])
    return model


def stack_of(
    kind: str, *, layers: int = 4, rows: int = 9, columns: int = 7, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """A stack's weight and bias: `random`, `tied` (all layers equal), `zero`, or `deficient` (rank 2 in all, biases too)."""
    generator = torch.Generator().manual_seed(7)
    both = torch.randn(layers, rows, columns + 1, generator=generator, dtype=torch.float64)
    if kind == "tied":
        both = both[:1].expand(layers, -1, -1).clone()
    if kind == "zero":
        both = torch.zeros_like(both)
    if kind == "deficient":
        left, right = both[0, :, :2], both[1, :2, :]
        both = torch.stack([(left * (k + 1)) @ right for k in range(layers)])
    both = both.to(dtype)
    return both[:, :, :columns].contiguous(), both[:, :, columns].contiguous()


def adapted_stack(kind: str = "random", *, rank: int = 5, bias: bool = True, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A ReFTA-adapted `Parallel` of a kind of stack."""
    weight, biases = stack_of(kind, dtype=dtype)
    model = parallel(weight, biases if bias else None)
    return refta.adapt(model, "refta", targets=["query"], rank=rank, train_head=False, **settings)


def moved(model: nn.Module) -> None:
    """Move every trained parameter off its initial value, the same way for the same names."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of the trained parameters, by name."""
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖ in float64; the plain norm where wanted is zero."""
    difference = float((found.double() - wanted.double()).norm())
    norm = float(wanted.double().norm())
    return difference / norm if norm else difference


def vit(layers: int = 2, width: int = 32, *, seed: int = 0, **changes: Any) -> Any:
    """A small ViT classifier."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 2 * width}
    settings: dict[str, Any] = {"image_size": 32, "patch_size": 16, "num_labels": 3, **changes}
    return ViTForImageClassification(ViTConfig(**sizes, **settings))


def llama(layers: int = 2, *, seed: int = 0) -> Any:
    """A small Llama with grouped-query attention: query 32 → 32, key and value 32 → 16, no biases."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=32, use_cache=False, **sizes))


def gpt2(layers: int = 2, *, seed: int = 0) -> Any:
    """A small GPT-2, whose linears are Conv1D."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes: dict[str, Any] = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": layers, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, use_cache=False, **sizes, **dropout))
    model.loss_type = "ForCausalLM"
    return model


def pixels(batch: int = 2) -> torch.Tensor:
    """A batch of images for `vit`."""
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def tokens(batch: int = 2, length: int = 6) -> torch.Tensor:
    """A batch of token numbers for `llama` and `gpt2`."""
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(3))
