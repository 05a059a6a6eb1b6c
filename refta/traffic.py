"""Bytes that an order of ReFTA's reads and writes beyond the frozen base, as functions of the token count. No torch.

Every product and elementwise operation reads its inputs and writes its result once, forward and backward; what a cache holds is read
again all the same. Thin products are bound by this and not by their FLOPs, so the order of least time needs both (cost.py).
"""

from __future__ import annotations

from refta.counting import Counter
from refta.lines import Line, total
from refta.network import Network, Order, Step, is_fold, walk


def moved_bytes(network: Network, order: Order, layers: int, *, inputs_without_gradient: int = 0, itemsize: int = 4) -> Line:
    """What a stack of `layers` reads and writes in that order; for `inputs_without_gradient` of them x needs no gradient."""
    free = min(inputs_without_gradient, layers)
    parts = ((layers - free, True), (free, False))
    return total(_layer(Counter(network, itemsize, needed), order) * count for count, needed in parts if count)


def _layer(counter: Counter, order: Order) -> Line:
    if order.mode == "fused":
        return _fused(counter)
    if order.mode == "fused_fold":
        return _fused_fold(counter)
    if order.mode == "slices":
        return _slices(counter, order)
    return _folded(counter, order) if is_fold(order) else _features(counter, order)


def _fused(counter: Counter) -> Line:
    """x once and y twice forward, ∂L/∂y and x twice backward, ∂L/∂x twice; with n = d that is 9·t·d numbers beside factors and features."""
    of_x = counter.bytes("td") * (2 * counter.x_needs_gradient)
    return counter.bytes("td") * 3 + counter.bytes("tn") * 4 + of_x + _factors(counter) * 4 + counter.bytes("tr") * 14


def _fused_fold(counter: Counter) -> Line:
    """W and the folded weight once for each fold, ∂L/∂y and x twice; with n = d 4·t·d + 4·d² numbers beside factors and features."""
    folds = 1 + counter.x_needs_gradient
    thick = counter.bytes("td") + counter.bytes("tn")
    return counter.bytes("nd") * (2 * folds) + thick * 2 + _factors(counter) * (2 + folds) + counter.bytes("tr") * 9


def _factors(counter: Counter) -> Line:
    return counter.bytes("nr") + counter.bytes("rd")


def _features(counter: Counter, order: Order) -> Line:
    """The tree's steps, y = base + update, and the two parts of ∂L/∂x summed."""
    network = counter.network
    steps = walk(network, order.tree, network.output_axes, x_needs_gradient=counter.x_needs_gradient, stacked=False)
    return _forward(counter, steps) * (1 + int(order.mode == "recompute")) + _backward(counter, steps) + _sums(counter)


def _sums(counter: Counter) -> Line:
    network = counter.network
    of_x = counter.bytes(network.input_axes) * 3 if counter.x_needs_gradient and not network.serial else Line()
    return counter.bytes(network.output_axes) * 3 + of_x


def _folded(counter: Counter, order: Order) -> Line:
    """The fold (twice where it is recomputed) and its sum with W, the n × d gradient, and its gradient's way back through the fold."""
    network = counter.network
    assert isinstance(order.tree, tuple)
    steps = walk(network, order.tree[1], network.fold_axes, x_needs_gradient=False, stacked=False)
    dense = counter.bytes(network.fold_axes)
    folds = (_forward(counter, steps) + dense) * (1 + int(order.mode == "recompute"))
    gradient = counter.bytes(network.input_axes) + counter.bytes(network.output_axes) + dense
    apart = dense * 2 if order.mode == "stack" else Line()  # the layers' gradients put together
    return folds + gradient + _backward(counter, steps) + apart


def _slices(counter: Counter, order: Order) -> Line:
    """The steps of each slice; H put together, weighted and summed, and its gradient's way back."""
    network, found = counter.network, Line()
    for size in network.slice_ranks:
        part = Counter(counter.resized(r=size), counter.itemsize, counter.x_needs_gradient)
        steps = walk(part.network, order.tree, network.output_axes, x_needs_gradient=counter.x_needs_gradient, stacked=False)
        found = found + _forward(part, steps) + _backward(part, steps)
    y, groups = counter.bytes(network.output_axes), len(network.slice_ranks)
    return found + y * (5 * groups + 2) + _sums(counter)


def _forward(counter: Counter, steps: list[Step]) -> Line:
    return total(counter.bytes(one.axes) for step in steps for one in (step.left, step.right, step.out))


def _backward(counter: Counter, steps: list[Step]) -> Line:
    """For each input that needs a gradient: the result's gradient and the other input read, its own gradient written."""
    return total(
        counter.bytes(one.axes) + counter.bytes(other.axes) + counter.bytes(step.out.axes)
        for step in steps
        for one, other in ((step.left, step.right), (step.right, step.left))
        if one.needs_gradient
    )
