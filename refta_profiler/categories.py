"""What the bytes of a step are for: the categories, and the one rule by which prediction and measurement sort blocks into them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from refta import registry
from refta.cost import rebuilt_axes
from refta.operands import AUTOMATIC

if TYPE_CHECKING:
    from refta_profiler.workload import Workload

CATEGORIES = ("weights", "adapter", "gradients", "optimizer", "activations", "reconstructed", "temporary", "workspace", "batch")
Shape = tuple[int, ...]


def rebuilt_shapes(work: Workload) -> set[Shape]:
    """Shapes that a rebuilt weight or update (or its gradient) can have, where the point's order rebuilds; empty for features."""
    found: set[Shape] = set()
    order = work.point.order
    for shape in work.adapted.shapes():
        network = registry.method(work.point.method).network(work.adapted.settings, shape)
        axes = "" if network is None or order in (None, *AUTOMATIC) else rebuilt_axes(network, order)
        if network is None or not axes:
            continue
        found |= {(shape.rows, shape.columns), (shape.columns, shape.rows)}
        leading = axes.removesuffix(network.fold_axes)
        counts = tuple(shape.layers if axis == "k" else network.sizes[axis] for axis in leading)
        dense = tuple(network.sizes[axis] for axis in network.fold_axes)
        for matrix in {(shape.rows, shape.columns), dense}:
            found |= {matrix, (*counts, *matrix), (math.prod(counts) * matrix[0], *matrix[1:])}
    return found


def category_of(shape: Shape | None, phases: tuple[str, str | None], rebuilt: set[Shape], *, is_held: bool = False) -> str:
    """The category of a block that a step allocated and that is no gradient.

    shape: what it was first seen as. phases: the one it was allocated in and the one it was freed in (None where it outlives the step).
    is_held: of outputs that the loop keeps, which a later forward frees.
    """
    if is_held:
        return "activations"
    if shape in rebuilt:
        return "reconstructed"
    born, died = phases
    return "activations" if born == "forward" and died != "forward" else "temporary"
