"""The closed form's rows and lines for a point: what its adapters cost beyond the frozen base. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from refta import cost, registry
from refta.cost import Line
from refta.network import Network, count_trainable
from refta.operands import AUTOMATIC, HAND_WRITTEN
from refta.shapes import StackShape, layer_inputs, mark_first_inputs
from refta_profiler import models, own_code
from refta_profiler.model_families import LayerGroup
from refta_profiler.plan import Point

ITEMSIZE = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class StackCost:
    """The closed form of one stack in one order: lines in the token count, over all its layers."""

    shape: StackShape
    order: str
    rank: int | None
    network: Network
    cost: cost.Cost


def shapes(model: str, targets: Sequence[str]) -> list[StackShape] | None:
    """The stacks that the targets name, from data alone; None for an architecture whose shapes are not described as data."""
    groups = models.layers(model, list(targets))
    if groups is None:
        return None
    size = models.head_size(model)
    return mark_first_inputs([_shape(one, stacks=len(groups), head_size=size) for one in groups])


def _shape(group: LayerGroup, *, stacks: int, head_size: int | None) -> StackShape:
    sizes = (group.layers, group.n, group.d, group.bias)
    return StackShape(group.role, group.role, *sizes, stacks=stacks, head_size=head_size, reads=layer_inputs(group.role, group.numbers))


def sites(model: str, method: str, targets: Sequence[str]) -> list[str]:
    """The roles a method adapts: those of the targets, or its own where it has fixed sites (the first alternative that the model has)."""
    own = None if method == own_code.NAME else getattr(registry.method(method), "TARGETS", None)
    if own is None:
        return list(targets)
    there = models.roles(model) or []
    return list(next((one for one in own if set(one) <= set(there)), own[0]))


def trainable_parameters(stacks: Sequence[StackCost]) -> int:
    """Numbers trained for all stacks; what several stacks share counts once."""
    return count_trainable([(one.network, one.shape.layers) for one in stacks])


def stack_costs(
    method: str, settings: dict, order: str | None, stacks: Sequence[StackShape], *, itemsize: int = 4
) -> list[StackCost] | None:
    """The closed form of every stack; None where the method has no network, as the user's own code has none."""
    if method == own_code.NAME:
        return None
    module = registry.method(method)
    found = []
    for shape in stacks:
        network: Network | None = module.network(registry.settings(method, settings), shape)
        if network is None:
            return None
        name = order or next(iter(network.orders))
        if name in AUTOMATIC:
            return None
        total = cost.stack_cost(network, name, shape.layers, inputs_without_gradient=shape.inputs_without_gradient, itemsize=itemsize)
        found.append(StackCost(shape, name, settings.get("rank"), network, total))
    return found


def inputs_kept(stacks: Sequence[StackShape], *, itemsize: int, shared: bool) -> Line:
    """Bytes of x that autograd keeps for the adapters: once per layer input where dtypes allow (`shared`), else once per role.

    ViT-L, query and value in float32: 24 inputs of 1024 numbers a token, 98,304 bytes a token.
    """
    widths = {read: one.columns for one in stacks for read in one.inputs}
    numbers = sum(widths.values()) if shared else sum(one.layers * one.columns for one in stacks)
    return Line(0, numbers * itemsize)


def _reading_x(stacks: Sequence[StackShape], found: Sequence[StackCost] | None) -> Sequence[StackShape]:
    """The stacks whose adapters read the layer's input: a serial one reads its output, which counts among the bytes that it keeps."""
    return stacks if found is None else [stack for stack, one in zip(stacks, found, strict=True) if not one.network.serial]


def itemsize_of(order: str | None, precision: str, adapter_dtype: str = "float32") -> int:
    """Bytes of a number that the adapters compute with: autocast's, which a backward written by hand does without, or their own."""
    return 2 if precision == "amp-bf16" and order not in HAND_WRITTEN else ITEMSIZE[adapter_dtype]


def base_itemsize_of(precision: str) -> int:
    """Bytes of a number of the frozen base."""
    return 2 if precision == "bf16" else 4


def point_costs(point: Point, stacks: Sequence[StackShape]) -> tuple[list[StackCost] | None, Line, str]:
    """The closed form of a point's stacks, the x that is kept, and a note on what is assumed."""
    if point.order in HAND_WRITTEN:
        return _hand_written_costs(point, stacks)
    size = itemsize_of(point.order, point.precision, point.adapter_dtype)
    uniform = point.precision == "fp32" and point.adapter_dtype == "float32"
    found = stack_costs(point.method, point.settings, point.order, stacks, itemsize=size)
    note = "the adapters alone, beyond the frozen base"
    if not uniform:
        note += f"; every role keeps a copy of x in {'bfloat16' if size == 2 else point.adapter_dtype}, casts of weights are not counted"
    return found, inputs_kept(_reading_x(stacks, found), itemsize=size, shared=uniform), note


def _hand_written_costs(point: Point, stacks: Sequence[StackShape]) -> tuple[list[StackCost] | None, Line, str]:
    """The same for the orders that keep x as it comes, once, whatever the dtypes of base and adapter."""
    size = itemsize_of(point.order, point.precision, point.adapter_dtype)
    found = stack_costs(point.method, point.settings, point.order, stacks, itemsize=size)
    kept = inputs_kept(stacks, itemsize=base_itemsize_of(point.precision), shared=True)
    return found, kept, "the adapters alone, beyond the frozen base; x is kept as it comes, once for all roles that read it"


def without_gradient_marks(stacks: Sequence[StackShape]) -> list[StackShape]:
    """The same stacks as a single inner layer sees them: every x needs a gradient."""
    return [replace(one, inputs_without_gradient=0) for one in stacks]
