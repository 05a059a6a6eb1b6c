"""Full fine-tuning: every parameter of the model trained."""

from __future__ import annotations

from dataclasses import dataclass

from refta.shapes import StackShape

SUMMARY = "full fine-tuning: every parameter trained"
ORDERS = ()


@dataclass(frozen=True)
class Settings:
    """None."""


def network(settings: Settings, shape: StackShape) -> None:
    """None: no adapter, no closed form."""


def attach(model, stacks, settings: Settings, run):
    """Every parameter of the model."""
    from refta.stacking import Attached

    return Attached(list(model.parameters()), [], lambda model: None)
