"""Factors of stacks that were decomposed before, kept in a folder by the hash of the weights that they are of.

The weights are hashed whole, with rank, transform and this file's format, so a file is never of other weights; a hash of ViT-Large's two
stacks takes a fraction of a second where their decomposition takes several.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

FORMAT = "refta-factors-1"  # goes up whenever the decomposition's numbers change
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class FactorCache:
    """A folder of factors; `tell` hears of what is found, and of files that cannot be read, which count as not there."""

    folder: Path
    tell: Callable[[str], None] = lambda words: None

    def path(self, stack: torch.Tensor, rank: int, transform: object) -> Path:
        """Where the factors of a stack (K, n, d or d + 1) are kept."""
        digest = hashlib.sha256(f"{FORMAT} {rank} {_named(transform)} {tuple(stack.shape)} {stack.dtype}".encode())
        for layer in stack:
            digest.update(layer.detach().cpu().flatten().view(torch.uint8).numpy().data)
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def read(self, path: Path, like: torch.Tensor) -> tuple[torch.Tensor, Pairs] | None:
        """Φ (float64) and the factors of every slice on the device of `like`; None where they are not there."""
        if not path.exists():
            return None
        try:
            found = load_file(path, device=str(like.device))
        except (SafetensorError, OSError) as error:
            self.tell(f"{path}: cannot be read and is made again: {error}")
            return None
        ranks = found["slice_ranks"].tolist()
        self.tell(f"factors of the same weights found in {path}")
        return found["phi"], list(zip(found["left"].split(ranks, dim=1), found["right"].split(ranks, dim=0), strict=True))

    def write(self, path: Path, phi: torch.Tensor, factors: Pairs) -> None:
        """Keep them; the file is there whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}.part")
        ranks = torch.tensor([a.shape[1] for a, _ in factors])
        left, right = torch.cat([a for a, _ in factors], dim=1), torch.cat([b for _, b in factors], dim=0)
        save_file({"phi": phi.contiguous(), "left": left.contiguous(), "right": right.contiguous(), "slice_ranks": ranks}, whole)
        whole.replace(path)


def _named(transform: object) -> str:
    """A transform's name, or the hash of a matrix's numbers."""
    if isinstance(transform, str):
        return transform
    return hashlib.sha256(torch.as_tensor(transform).double().cpu().flatten().numpy().data).hexdigest()
