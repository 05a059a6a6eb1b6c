"""FedTT (arXiv 2410.13097): LoRETTA-adp's serial adapters run core by core, nothing rebuilt (inferred); FedTT+ freezes some cores."""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network
from refta.registry import number_list, share, whole_number
from refta.serial_adapter import serial_network
from refta.shapes import StackShape

SUMMARY = "serial bottleneck adapters as tensor trains, core by core (2410.13097)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")
TARGETS = (("output", "down"),)
NOTE = "fedtt adapts the outputs of attention and MLP, always; targets are ignored"


@dataclass(frozen=True)
class Settings:
    """`bottleneck` b; `tensor_rank` of the trains; `tensor_shape` of Down's d · b (Up's mirrors it; found where left out).

    `frozen` numbers the cores of either train that stay as they start (FedTT+).
    """

    bottleneck: int = 64
    tensor_rank: int = 5
    tensor_shape: list[int] | None = None
    frozen: list[int] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("bottleneck", self.bottleneck)
        whole_number("tensor_rank", self.tensor_rank)
        number_list("tensor_shape", self.tensor_shape)
        for one in self.frozen or []:
            whole_number("frozen", one, least=0)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The serial adapter after one layer (see refta/serial_adapter.py)."""
    return serial_network(
        shape,
        bottleneck=settings.bottleneck,
        tensor_rank=settings.tensor_rank,
        tensor_shape=settings.tensor_shape,
        published="features",
        frozen=settings.frozen or (),
    )
