"""Any method that is a network, on a model: operands made, sites replaced, folded out again.

A layer's own operands are parameters of its module (`adapter`); shared ones, and tables of which a layer reads its row, stand in one
module at the model's root. Names, order and random draws do not depend on the order that is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

from refta import cost
from refta.base_weights import check_devices, check_values, is_hollow, turned_weight
from refta.errors import SettingError
from refta.initial import fill
from refta.linear import AdaptedLinear, delta_stack, fold_stack
from refta.lines import Regime
from refta.network import PER_STEP, Network, Operand, Order, across_key
from refta.operands import AUTOMATIC
from refta.per_step import BuiltPerStep, Part
from refta.shapes import StackShape
from refta.sites import Site, Stack, head_size, is_conv1d
from refta.stacking import CONTAINER, Attached, Run, merged, put_in, set_module


class SharedOperands(nn.Module):
    """The operands that stand for more than one layer: parameters where trained, buffers where frozen; and the stacks that read them."""

    def __init__(self) -> None:
        super().__init__()
        self.stacks = nn.ModuleDict()
        self._names: dict[tuple, str] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: at the root of a model that is an nn.Sequential, this is the last of the modules that run."""
        return x

    def name_of(self, key: tuple, wished: str) -> tuple[str, bool]:
        """The name under which an operand stands here, and whether it is new."""
        if key in self._names:
            return self._names[key], False
        name = wished if not hasattr(self, wished) else f"{wished}_{len(self._names)}"
        self._names[key] = name
        return name, True


class TensorStack(BuiltPerStep):
    """The layers of one stack with their network: which operands a layer reads, and the order to run."""

    def __init__(self, network: Network, shape: StackShape, place: int, order: str, *, container: SharedOperands, dropout: float):
        super().__init__()
        self.network, self.shape, self.place, self.order_name = network, shape, place, order
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.names: dict[str, str] = {}
        self.members: list[AdaptedLinear] = []
        self._container = (container,)
        self._choice: Sequence[Regime] = ()
        self._per_step = None if order in AUTOMATIC else network.order(order)

    def shared(self, name: str) -> torch.Tensor:
        """A shared operand, whole."""
        return getattr(self._container[0], self.names[name])

    def row(self, layer: int) -> tuple[int, ...]:
        """Where a layer's row is in the tables."""
        return tuple({"l": layer, "m": self.place}[axis] for axis in self.network.table_axes)

    def operands(self, layer: int, order: Order) -> dict[str, torch.Tensor]:
        """The operands at one layer, by name: the same for every order."""
        own = dict(self.members[layer].adapter.items())
        return {
            one.name: own[one.name] if not one.shared else self._row(one, {"l": layer, "m": self.place}) for one in self.network.operands
        }

    def tables(self) -> dict[str, torch.Tensor]:
        """The shared operands, whole tables included."""
        return {one.name: self.shared(one.name) for one in self.network.operands}

    def order_for(self, tokens: int) -> Order:
        """The order to run at that many tokens; `auto` asks the closed form for the one that adds least memory."""
        if self.order_name not in AUTOMATIC:
            return self.network.order(self.order_name)
        if not self._choice:
            size = self.operands(0, next(iter(self.network.orders.values())))[self.network.operands[0].name].element_size()
            base, free = self.members[0].weight.element_size(), self.shape.inputs_without_gradient
            given = {"aim": AUTOMATIC[self.order_name], "inputs_without_gradient": free, "itemsize": size, "base_itemsize": base}
            self._choice = cost.best_orders(self.network, self.shape.layers, **given)
        self._per_step = self.network.order(cost.order_at(self._choice, tokens))
        return self._per_step

    def folded(self, layer: int) -> Part:
        """A layer's slice of what is built for the whole stack once per step, and its bias."""
        return self.part(layer, len(self.members))

    def sources(self) -> list[torch.Tensor]:
        """The stack's operands."""
        return list(self._stacked().values())

    def base(self) -> list[torch.Tensor]:
        """The layers' weights and biases."""
        return [one for member in self.members for one in (member.weight, member.bias) if one is not None]

    def build(self) -> tuple[torch.Tensor, list[Part]]:
        """All layers' folded weights, or their updates alone, and each layer's part."""
        order = self._per_step
        assert order is not None
        tables = self._tables("m")
        values = self._stacked()
        bound = {
            name: one if name not in tables else one.select(self.network.operand(name).index.index("m"), self.place)
            for name, one in values.items()
        }
        if order.mode == "delta_stack":
            built = delta_stack(self.network, order, bound)
        else:
            built = fold_stack(self.network, order, [member.weight for member in self.members], bound).tensor
        return built, list(zip(built.unbind(0), [member.bias for member in self.members], strict=True))

    def _stacked(self) -> dict[str, torch.Tensor]:
        return {one.name: self.shared(one.name) for one in self.network.operands}

    def _tables(self, axis: str) -> set[str]:
        return {one.name for one in self.network.operands if axis in one.index}

    def _row(self, operand: Operand, places: dict[str, int]) -> torch.Tensor:
        tensor = self.shared(operand.name)
        for axis in operand.index:
            tensor = tensor.select(0, places[axis])
        return tensor


def attach_tensor(model: nn.Module, stacks: Sequence[Stack], settings: Any, run: Run, method: ModuleType) -> Attached:
    """A method's networks on the model's stacks; nothing of the model but the sites is touched, and these once all stacks are made."""
    container, replacing = SharedOperands(), {}
    shapes = [replace(stack.shape(), stacks=len(stacks), head_size=head_size(model)) for stack in stacks]
    networks = [method.network(settings, shape) for shape in shapes]
    check_values(stacks)
    check_devices(stack for stack, network in zip(stacks, networks, strict=True) if any(one.shared for one in network.operands))
    given = {"container": container, "dropout": getattr(settings, "dropout", 0.0)}
    modules = [
        TensorStack(network, shape, place, run.order or method.ORDERS[0], **given)
        for place, (shape, network) in enumerate(zip(shapes, networks, strict=True))
    ]
    for stack, module in zip(stacks, modules, strict=True):
        container.stacks[stack.name] = module
        _make_shared(container, module, stack, run)
        for layer, site in enumerate(stack.sites):
            replacing[site.path] = _adapted(site, module, layer, run)
            module.members.append(replacing[site.path])
    put_in(model, container.train(model.training), replacing)
    for module in modules:
        if module.order_name not in AUTOMATIC and module.network.order(module.order_name).mode in PER_STEP:
            module.watch(model)
    own = list({id(one): one for one in _parameters(container)}.values())
    note = getattr(method, "NOTE", None)
    return Attached(own, list(replacing), _merge, [note] if note else [])


def _parameters(container: SharedOperands) -> list[nn.Parameter]:
    members = [member for stack in container.stacks.values() for member in stack.members]  # type: ignore[union-attr]
    own = [parameter for member in members for name, parameter in member.adapter.items() if member.stack.network.operand(name).trainable]
    return [*container.parameters(), *own]


def _make_shared(container: SharedOperands, module: TensorStack, stack: Stack, run: Run) -> None:
    """Register the stack's shared operands that are not there yet."""
    weight = turned_weight(stack.sites[0])
    sizes = {"l": module.shape.layers, "m": module.shape.stacks}
    for one in module.network.operands:
        if not one.shared:
            continue
        key = across_key(module.network, one, module.shape.layers) if one.across else (module.place, one.name)
        name, is_new = container.name_of(key, one.name if one.across else f"{one.name}_{stack.name}")
        module.names[one.name] = name
        if is_new:
            tensor = _made(module.network, one, weight, run, rows=tuple(sizes[axis] for axis in one.index))
            _register(container, name, tensor, one)


def _register(container: SharedOperands, name: str, tensor: torch.Tensor, operand: Operand) -> None:
    if operand.trainable:
        container.register_parameter(name, nn.Parameter(tensor))
    else:
        container.register_buffer(name, tensor)


def _made(network: Network, operand: Operand, weight: torch.Tensor, run: Run, *, rows: tuple[int, ...] = ()) -> torch.Tensor:
    """An operand's initial value, on the weight's device; without values where the weight has none."""
    dtype = run.adapter_dtype or (torch.float64 if weight.dtype == torch.float64 else torch.float32)
    shape = operand.shape or tuple(network.sizes[axis] for axis in operand.axes)
    tensor = torch.empty((*rows, *shape), dtype=dtype, device=weight.device)
    return tensor if is_hollow(weight) else fill(tensor, operand.init)


def _adapted(site: Site, module: TensorStack, layer: int, run: Run) -> AdaptedLinear:
    """What a site is replaced by."""
    weight = turned_weight(site)
    bias: torch.Tensor | None = site.module.bias  # type: ignore[assignment]
    adapted = AdaptedLinear(weight.detach(), None if bias is None else bias.detach(), module, layer)
    adapted.was_conv1d = is_conv1d(site.module)
    own = {one.name: _made(module.network, one, weight, run) for one in module.network.operands if not one.shared}
    adapted.adapter = nn.ParameterDict({name: nn.Parameter(tensor, requires_grad=False) for name, tensor in own.items()})
    return adapted.train(site.module.training)


@torch.no_grad()
def _merge(model: nn.Module) -> None:
    """Every adapted linear a plain one again, its update folded in; raises SettingError for adapters that are not linear."""
    container = getattr(model, CONTAINER)
    for stack in container.stacks.values():
        if stack.network.serial:  # type: ignore[union-attr]
            raise SettingError("merge: a serial adapter is not linear (it has a relu) and cannot be folded into the weight")
    for path, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear):
            set_module(model, path, merged(module, Order(module.stack.network.order("reconstruct").tree)))
    for stack in container.stacks.values():
        stack.unwatch()  # type: ignore[union-attr]
    delattr(model, CONTAINER)
