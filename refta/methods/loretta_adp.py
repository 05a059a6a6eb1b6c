"""LoRETTA-adp (arXiv 2402.11417): z + Up(relu(Down z)) after the outputs of attention and of the MLP.

Down and Up are each a tensor train and a bias. The published code rebuilds Down (d × b) and Up (b × d) at every step. Both start random.
"""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network
from refta.registry import number_list, share, whole_number
from refta.serial_adapter import serial_network
from refta.shapes import StackShape

SUMMARY = "serial bottleneck adapters as tensor trains, rebuilt every step (2402.11417)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")
TARGETS = (("output", "down"),)
NOTE = "loretta_adp adapts the outputs of attention and MLP, always; targets are ignored"


@dataclass(frozen=True)
class Settings:
    """`bottleneck` b; `tensor_rank` of the trains; `tensor_shape` of Down's d · b (Up's mirrors it; found where left out)."""

    bottleneck: int = 64
    tensor_rank: int = 5
    tensor_shape: list[int] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("bottleneck", self.bottleneck)
        whole_number("tensor_rank", self.tensor_rank)
        number_list("tensor_shape", self.tensor_shape)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The serial adapter after one layer (see refta/serial_adapter.py)."""
    return serial_network(
        shape,
        bottleneck=settings.bottleneck,
        tensor_rank=settings.tensor_rank,
        tensor_shape=settings.tensor_shape,
        published="reconstruct",
    )
