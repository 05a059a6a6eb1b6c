"""The head alone: the frozen model with its classification head trained; the floor that every adapter stands on."""

from __future__ import annotations

from dataclasses import dataclass

from refta.errors import SettingError
from refta.shapes import StackShape

SUMMARY = "the classification head alone; the floor"
ORDERS = ()


@dataclass(frozen=True)
class Settings:
    """None."""


def network(settings: Settings, shape: StackShape) -> None:
    """None: no adapter, no closed form."""


def attach(model, stacks, settings: Settings, run):
    """Nothing; a causal language model, whose head is tied to the embeddings, is refused."""
    from refta.heads import has_language_head
    from refta.stacking import Attached

    if has_language_head(model):
        raise SettingError(f"head: {type(model).__name__} has no head to train (its head is the language model's)")
    return Attached([], [], lambda model: None)
