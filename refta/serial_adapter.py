"""The serial bottleneck adapters of LoRETTA-adp and FedTT as one network: z + Up(relu(Down z)), Down and Up tensor trains. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refta.matrix_train import checked_shape, matched_shape, two_trains
from refta.network import AXES, RELU, Network, Operand, Order
from refta.shapes import StackShape
from refta.tensor_train import chain


def serial_network(
    shape: StackShape, *, bottleneck: int, tensor_rank: int, tensor_shape: Sequence[int] | None, published: str, frozen: Sequence[int] = ()
) -> Network:
    """The update of one layer's output z, read from z itself: Down's cores and bias, relu, Up's cores and bias, all the layer's own.

    `features` goes core by core, `reconstruct` rebuilds Down (d × b) and Up (b × d); `frozen` numbers cores that stay as they start.
    """
    width = shape.rows
    first = checked_shape("tensor_shape", tensor_shape, width, bottleneck)
    second = matched_shape("tensor_shape", None, first, bottleneck, width)
    down, up, sizes = two_trains(first, second, tensor_rank, outer=width, inner=bottleneck, names=("down", "up"), letters=iter(AXES))
    biases = (
        Operand("down_bias", down.right, shared=False, added=True, shape=(bottleneck,), init="zeros"),
        Operand("up_bias", up.right, shared=False, added=True, shape=(width,), init="zeros"),
    )
    cores = [replace(one, trainable=place not in frozen) for train in (down, up) for place, one in enumerate(train.operands)]
    thin_down, thin_up = chain(down.names[0], down.names[1:]), chain(up.names[0], up.names[1:])
    rebuilt = ((((("x", thin_down), "down_bias"), RELU), thin_up), "up_bias")
    orders = {
        "features": Order((chain(((chain("x", down.names), "down_bias"), RELU), up.names), "up_bias")),
        "reconstruct": Order(rebuilt),
        "reconstruct_recompute": Order(rebuilt, mode="recompute"),
    }
    operands = (*cores, *biases)
    return Network(
        {**shape.sizes, **sizes}, operands, orders, {"published": published}, inputs=down.left[::-1], outputs=up.right, serial=True
    )
