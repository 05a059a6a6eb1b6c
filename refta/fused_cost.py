"""What the orders with a hand-written backward cost: the products that fused.py runs, one by one. No torch."""

from __future__ import annotations

from refta.counting import Cost, Counter
from refta.lines import Line
from refta.operands import Order


def fused_layer(counter: Counter, order: Order) -> Cost:
    """One layer of `fused` or of `fused_fold`."""
    return _folded_forward(counter) if order.mode == "fused_fold" else _features(counter)


def _features(counter: Counter) -> Cost:
    """2tR(n + d) forward; 4tnR + 6tdR backward, of which 2tdR are the features again and 2tdR are for ∂L/∂x; nothing kept.

    R = 3, n = 5, d = 7: 72t forward, 120t + 126t backward. Where the dtypes differ, x and ∂L/∂y stand in the adapter's for a while.
    """
    inner, outer = _products(counter)
    backward = outer * 2 + inner * (2 + counter.x_needs_gradient)
    thin = Line(0, counter.network.elements("r"))
    return Cost(inner + outer, backward, thin * (3 + _trains_u(counter)), counter.gathered(), (_factors_bytes(counter),))


def _folded_forward(counter: Counter) -> Cost:
    """2Rnd forward; 4tR(n + d) backward, and 2Rnd where the weight is folded again for ∂L/∂x; nothing kept.

    R = 3, n = 5, d = 7: 210 forward, 210 + 144t backward. With n = d it needs fewer FLOPs than `shared` from t = d on.
    """
    inner, outer = _products(counter)
    network = counter.network
    fold = Line(2 * network.elements("nrd"))
    work = Line(network.elements("nr") + network.elements("nd"))  # A ∘ u, and the sum with W
    again = int(counter.x_needs_gradient)
    thin = Line(0, network.elements("r"))
    elementwise = work * (1 + again) + thin * (2 + _trains_u(counter))
    temporaries = (counter.rounded("nd"), _factors_bytes(counter))
    return Cost(fold, fold * again + (inner + outer) * 2, elementwise, counter.gathered(), temporaries)


def _products(counter: Counter) -> tuple[Line, Line]:
    """A product with B and one with A."""
    return Line(0, 2 * counter.network.elements("rd")), Line(0, 2 * counter.network.elements("nr"))


def _factors_bytes(counter: Counter) -> Line:
    """What the factors' gradients take: the features and their gradient, t × R each (their product too where u is trained), and casts.

    R = 3, n = 5, d = 7 in float32: 24t; on a base in bfloat16 24t + 48t.
    """
    return counter.bytes("tr") * (2 + _trains_u(counter)) + counter.cast("td") + counter.cast("tn")


def _trains_u(counter: Counter) -> int:
    return int(counter.network.operand("u").trainable)
