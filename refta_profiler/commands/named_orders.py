"""The names of a method's orders: which mean the same, what an automatic one takes, what `--order` and `--against` mean. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from refta import cost, registry
from refta.errors import SettingError
from refta.operands import AUTOMATIC
from refta.shapes import StackShape
from refta_profiler.commands import built_shapes
from refta_profiler.errors import ScenarioError
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form

if TYPE_CHECKING:
    from refta_profiler.commands.check_runs import Question


def distinct_orders(method: str, settings: dict[str, Any], stacks: Sequence[StackShape] | None) -> list[str]:
    """The orders of a method, none of them twice under another name and without `auto`; [] where it has none."""
    return list(dict.fromkeys(order_names(method, settings, stacks).values()))


def order_names(method: str, settings: dict[str, Any], stacks: Sequence[StackShape] | None) -> dict[str, str]:
    """Every name of an order with the order that it means, `auto` and its like left out; {} where the method has none."""
    if not registry.orders(method):
        return {}
    aliases: dict[str, str] = {}
    for shape in stacks or [StackShape("query", "query", 24, 1024, 1024)]:
        try:
            network = registry.method(method).network(registry.settings(method, settings), shape)
        except SettingError:
            continue
        aliases = network.aliases if network else {}
    return {name: aliases.get(name, name) for name in registry.orders(method) if name not in AUTOMATIC}


def meanings(
    question: Question, names: Mapping[str, str], points: Sequence[Point], stacks: Sequence[StackShape] | None
) -> tuple[str | None, str]:
    """The order that `--order` means, and the label that `--against` means; None and 'best' where they are left out.

    ScenarioError where the two mean the same, or an automatic order is not one order.
    """
    own = [point for point in points if point.method == question.method]
    order = None if question.order is None else _meant("--order", question.order, names, own[0], stacks)
    name = question.against
    if name is None:
        return order, "best"
    if name not in registry.orders(question.method):
        return order, next(point.label for point in points if point.method == name)
    against = _meant("--against", name, names, own[0], stacks)
    if against == (order or own[0].order):
        others = ", ".join(one for one in names if names[one] != against)
        raise ScenarioError(f"--against {name}: `{against}` is the order that is judged; judge another by --order, or name one of {others}")
    return order, next(point.label for point in own if point.order == against)


def _meant(option: str, name: str, names: Mapping[str, str], point: Point, stacks: Sequence[StackShape] | None) -> str:
    """The order of that name; for an automatic one what it takes at the point's tokens, ScenarioError where that is not one order."""
    if name in names:
        return names[name]
    if point.tokens is None:
        raise ScenarioError(f"{option} {name}: the tokens of an example of {point.model} are not known, so neither is what it takes")
    taken = [(shape.role, _taken(name, point, shape)) for shape in stacks or built_shapes.of(point)]
    if len({order for _, order in taken}) > 1:
        words = ", ".join(f"{order} for {role}" for role, order in taken)
        raise ScenarioError(f"{option} {name}: it takes {words} at {point.tokens:,} tokens; name one of {', '.join(names)}")
    return taken[0][1]


def _taken(name: str, point: Point, shape: StackShape) -> str:
    """The order that an automatic one takes for a stack, as the adapter itself chooses it."""
    network = registry.method(point.method).network(registry.settings(point.method, point.settings), shape)
    sizes = {"itemsize": closed_form.ITEMSIZE[point.adapter_dtype], "base_itemsize": closed_form.base_itemsize_of(point.precision)}
    given = {"aim": AUTOMATIC[name], "inputs_without_gradient": shape.inputs_without_gradient, **sizes}
    return cost.best_order(network, point.tokens or 0, shape.layers, **given)
