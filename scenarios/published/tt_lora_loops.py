"""TT-LoRA as the published core-count study ran it, for the peaks in tests/data/published: plain loops over the cores.

Written after the description in tests/data/published/README.md, not taken from the study. `refta`'s own tt_lora computes the same and makes
fewer temporaries; where a remainder of a block is too small to be split off, that is seen in a peak, by a few MiB.

Used with --allow-code, as `call: "scenarios.published.tt_lora_loops:attach"`, from the repository's root.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn


class LoopedLayer(nn.Module):
    """A GPT-2 layer (Conv1D, in to out) with an update of TT cores (r_{i-1}, k_i, r_i): input factors, then output factors in reverse.

    form: "contraction" sends x through one core at a time; "reconstruction" makes the dense update first and adds it to the weight.
    """

    def __init__(self, original: nn.Module, form: str, inputs: Sequence[int], outputs: Sequence[int], rank: int, alpha: float) -> None:
        super().__init__()
        self.original, self.form, self.alpha = original, form, alpha
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        modes = (*self.inputs, *reversed(self.outputs))
        ranks = (1, *[rank] * (len(modes) - 1), 1)
        self.cores = nn.ParameterList(
            nn.Parameter(torch.randn(left, mode, right) / math.sqrt(left * mode))
            for left, mode, right in zip(ranks[:-1], modes, ranks[1:], strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, tokens, in) to (batch, tokens, out)."""
        if self.form == "contraction":
            update = contracted(x, self.cores, self.inputs, self.outputs)
            return self.original(x) + update * self.alpha
        update = dense(self.cores, self.inputs, self.outputs)
        weight = self.original.weight + self.alpha * update.transpose(0, 1)
        flat = x.reshape(-1, x.shape[-1])
        found = torch.addmm(self.original.bias, flat, weight)
        return found.view(*x.shape[:-1], weight.shape[1])


def contracted(x: torch.Tensor, cores: Iterable[torch.Tensor], inputs: Sequence[int], outputs: Sequence[int]) -> torch.Tensor:
    """The update of x (batch, tokens, in), one core at a time."""
    batch, tokens, _ = x.shape
    state = x.contiguous().view(batch, tokens, *reversed(inputs)).unsqueeze(1)  # (batch, r, tokens, …, k)
    for index, core in enumerate(cores):
        state = torch.einsum("br...k,rks->bs..." if index < len(inputs) else "br...,rks->bs...k", state, core)
    return state.view(batch, tokens, math.prod(outputs))


def dense(cores: Iterable[torch.Tensor], inputs: Sequence[int], outputs: Sequence[int]) -> torch.Tensor:
    """The update as a matrix (out, in)."""
    whole = chained(cores)
    count = len(inputs)
    ordered = whole.permute(*range(count, whole.dim()), *reversed(range(count)))
    return ordered.reshape(math.prod(outputs), math.prod(inputs))


def chained(cores: Iterable[torch.Tensor]) -> torch.Tensor:
    """All cores contracted to one tensor of their modes."""
    first, *others = cores
    found = first
    for core in others:
        found = torch.tensordot(found, core, dims=([-1], [0]))
    return found.squeeze(0).squeeze(-1)


def attach(model: nn.Module, form: str, inputs: Sequence[int], outputs: Sequence[int], rank: int = 6, alpha: float = 8) -> None:
    """Put it on c_attn of every layer of a GPT-2 from transformers."""
    for block in model.transformer.h:
        block.attn.c_attn = LoopedLayer(block.attn.c_attn, form, inputs, outputs, rank, alpha)
