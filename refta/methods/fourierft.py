"""FourierFT (arXiv 2405.03003), attached by the peft library: ΔW is the inverse DFT of a few trained frequencies, rebuilt every step.

A Fourier transform is no contraction of operands, so there is no closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refta.registry import positive, whole_number
from refta.shapes import StackShape

SUMMARY = "a few trained frequencies of the update, by the peft library (2405.03003)"
ORDERS = ()


@dataclass(frozen=True)
class Settings:
    """`frequencies` trained in each matrix; `scaling` of the update; `options` go to peft's FourierFTConfig."""

    frequencies: int = 1000
    scaling: float = 150.0
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        whole_number("frequencies", self.frequencies)
        positive("scaling", self.scaling)


def network(settings: Settings, shape: StackShape) -> None:
    """None: no closed form (see above)."""


def attach(model, stacks, settings: Settings, run):
    """peft's adapter on every site."""
    from refta.library import attach_library

    config = {"n_frequency": settings.frequencies, "scaling": settings.scaling, **(settings.options or {})}
    return attach_library(model, stacks, "FOURIERFT", config, run)
