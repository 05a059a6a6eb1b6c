"""The numbers that the ReFTA paper and an article on it print, as data (refta.md, "Numbers in print")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Model:
    """What a count needs of a model: layers of equal width, a feed-forward of four times that."""

    name: str
    layers: int
    width: int
    head_size: int


VIT_L = Model("vit-large", 24, 1024, 64)
VIT_H = Model("vit-huge", 32, 1280, 80)
ROBERTA_L = Model("roberta-large", 24, 1024, 64)


@dataclass(frozen=True)
class PrintedCount:
    """A printed number of trained parameters; `settings` as the method's file takes them."""

    model: Model
    method: str
    settings: dict[str, Any]
    text: str
    least: int  # the printed number in full, its unseen digits 0
    step: int  # one of its last printed digit
    roles: tuple[str, ...] = ("query", "value")
    words: str = ""


COUNTS = (
    PrintedCount(VIT_L, "refta", {"rank": 15}, "61K", 61_000, 1_000),
    PrintedCount(VIT_H, "refta", {"rank": 15}, "76K", 76_000, 1_000),
    PrintedCount(VIT_H, "refta", {"rank": 5}, "25K", 25_000, 1_000),
    PrintedCount(ROBERTA_L, "refta", {"rank": 5}, "0.020M", 20_000, 1_000),
    PrintedCount(VIT_L, "lora", {"rank": 16}, "1.57M", 1_570_000, 10_000),
    PrintedCount(VIT_H, "lora", {"rank": 8}, "1392K", 1_392_000, 1_000),
    PrintedCount(VIT_L, "pissa", {"rank": 8}, "835K", 835_000, 1_000),
    PrintedCount(VIT_L, "loretta_adp", {"bottleneck": 64, "tensor_rank": 5}, "132K", 132_000, 1_000, ("output", "down")),
    PrintedCount(VIT_H, "loretta_adp", {"bottleneck": 64, "tensor_rank": 5}, "194K", 194_000, 1_000, ("output", "down")),
)


@dataclass(frozen=True)
class PrintedAccuracy:
    """A row of the printed table of image classification: the average accuracy over five data sets, in per cent."""

    model: Model
    method: str
    rank: int | None
    accuracy: float


ACCURACIES = (
    PrintedAccuracy(VIT_L, "lora", 16, 79.99),
    PrintedAccuracy(VIT_L, "pissa", 8, 85.09),
    PrintedAccuracy(VIT_L, "loretta_adp", None, 78.51),
    PrintedAccuracy(VIT_L, "refta", 15, 85.67),
    PrintedAccuracy(VIT_H, "lora", 8, 75.23),
    PrintedAccuracy(VIT_H, "loretta_adp", None, 72.13),
    PrintedAccuracy(VIT_H, "refta", 15, 76.32),
)


@dataclass(frozen=True)
class PrintedSaving:
    """A printed claim of fewer parameters: ReFTA's count against another's, as a percentage."""

    text: str
    percent: float
    model: Model
    rank: int
    against: str
    against_settings: dict[str, Any] = field(default_factory=dict)
    where: str = "abstract"


SAVINGS = (
    PrintedSaving("86.4% fewer than LoRA r=1", 86.4, ROBERTA_L, 5, "lora", {"rank": 1}),
    PrintedSaving("97.5% fewer than PiSSA", 97.5, ROBERTA_L, 5, "pissa", {"rank": 8}),
    PrintedSaving("about 96% fewer than LoRA", 96.1, VIT_L, 15, "lora", {"rank": 16}, "article"),
)
MEMORY = 0.30  # "peak GPU memory over 30% lower than tensor-based baselines on RTE" (abstract)
