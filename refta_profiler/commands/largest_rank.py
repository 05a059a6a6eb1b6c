"""The largest rank that a method takes on a model's layers. No torch where the shapes are data."""

from __future__ import annotations

from collections.abc import Sequence

from refta import registry
from refta.errors import SettingError
from refta.shapes import StackShape
from refta_profiler.commands import built_shapes
from refta_profiler.errors import ScenarioError
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form


def of(point: Point) -> tuple[int, str]:
    """The largest rank that the method takes on these layers, and what it is; 0 where it has none."""
    if "rank" not in registry.setting_names(point.method):
        return 0, f"{point.method} has no rank"
    try:
        stacks = closed_form.shapes(point.model, closed_form.sites(point.model, point.method, point.targets))
        stacks = built_shapes.of(point) if stacks is None else stacks
    except (ScenarioError, SettingError) as error:
        return 0, f"cannot be predicted: {error}"
    smallest = min(min(one.rows, one.columns) for one in stacks)
    most = max(one.layers * min(one.rows, one.columns + one.bias) for one in stacks)
    if _takes(point, stacks, most + 1):
        return smallest, f"full rank, {smallest:,}"
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _takes(point, stacks, middle) else (low, middle)
    return low, f"the largest rank of {point.method}, {low:,}"


def _takes(point: Point, stacks: Sequence[StackShape], rank: int) -> bool:
    try:
        chosen = registry.settings(point.method, {**point.settings, "rank": rank})
        for shape in stacks:
            registry.method(point.method).network(chosen, shape)
    except SettingError:
        return False
    return True
