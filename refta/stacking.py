"""ReFTA on a model: the stacks with their shared factors, and how they are put in and folded out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from refta import cost
from refta.base_weights import check_devices, check_values, is_hollow, turned_weight, widest
from refta.linear import AdaptedLinear, Tensor, fold, fold_stack
from refta.lines import Regime
from refta.network import Network, Order
from refta.operands import AUTOMATIC
from refta.per_step import BuiltPerStep, Part
from refta.sites import Stack, is_conv1d
from refta.stack_factors import Factors, factors
from refta.tensor_svd import slice_of_component

CONTAINER = "refta_adapter"  # the name under which the stacks are registered at the model's root


@dataclass(frozen=True)
class Run:
    """How an adapter is attached: the order it runs in, the dtype of its factors, slice ranks for models without weights.

    `cache`: a folder for the factors of weights that are decomposed more than once.
    """

    order: str | None = None
    adapter_dtype: torch.dtype | None = None
    slice_ranks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    progress: Callable[[str], None] | None = None
    stored: dict[str, torch.Tensor] | None = None
    cache: Path | None = None

    def tell(self, words: str) -> None:
        """Say how far the work is, where somebody listens."""
        if self.progress:
            self.progress(words)


@dataclass
class Attached:
    """What a method put into a model: the adapter's own parameters as they are then, the sites, notes, how to fold it in again."""

    parameters: list[nn.Parameter]
    sites: list[str]
    merge: Callable[[nn.Module], None]
    notes: list[str] = field(default_factory=list)


class Stacks(nn.ModuleDict):
    """The stacks of a model, by name."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: at the root of a model that is an nn.Sequential, this is the last of the modules that run."""
        return x


class ReftaStack(BuiltPerStep):
    """The factors that the layers of one stack share: A (n, R), B (R, d), beta (R) where the layers have biases.

    transform_matrix Φ (K, K) is a buffer, or a parameter where it is trained. Read off it: coefficients u (K, R), Φ[k, slice of
    each component], and slice_coefficients (K, G) in the order of the slices that have components; buffers while Φ is frozen, and
    picked out of Φ at every use while it is trained (slice_of_component (R) and filled_slices (G) say where).
    initial: the factors that define the residual, on the CPU. They and the slice ranks are in the state_dict as extra state.
    """

    transform_matrix: torch.Tensor
    coefficients: torch.Tensor
    slice_coefficients: torch.Tensor
    slice_of_component: torch.Tensor
    filled_slices: torch.Tensor

    def __init__(self, network: Network, layers: int, order: str, *, inputs_without_gradient: int, settings: Any):
        super().__init__()
        self.network, self.layers, self.order_name = network, layers, order
        self.inputs_without_gradient = inputs_without_gradient
        self.dropout = dropout = settings.dropout
        self.trains_transform, self.penalty_weight = settings.train_transform, settings.transform_penalty
        self.reads_transposed = settings.convention == "public_code"
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self._choices: dict[str, Sequence[Regime]] = {}
        self._members: list[AdaptedLinear] = []
        self.paths: list[str] = []
        self.initial: dict[str, torch.Tensor] = {}

    def fill(self, left: torch.Tensor, right: torch.Tensor, phi: torch.Tensor, slice_ranks: Sequence[int]) -> None:
        """Set the factors from A (n, R), [B | β] (R, d + 1 or d), Φ (K, K) and R_j (K)."""
        width = self.network.sizes["d"]
        self.A = nn.Parameter(left.contiguous())
        self.B = nn.Parameter(right[:, :width].contiguous())
        if right.shape[1] > width:
            self.beta = nn.Parameter(right[:, width].contiguous())
        component = slice_of_component(slice_ranks, phi.device)
        filled = [j for j, rank in enumerate(slice_ranks) if rank]
        self.slice_ranks = tuple(int(rank) for rank in slice_ranks)
        if self.trains_transform:
            self.transform_matrix = nn.Parameter(phi.to(left.dtype, copy=True))
            self.register_buffer("slice_of_component", component)
            self.register_buffer("filled_slices", torch.as_tensor(filled, device=phi.device))
            return
        read = phi.T if self.reads_transposed else phi
        self.register_buffer("transform_matrix", phi.to(left.dtype))
        self.register_buffer("coefficients", read[:, component].to(left.dtype).contiguous())
        self.register_buffer("slice_coefficients", read[:, filled].to(left.dtype).contiguous())

    def get_extra_state(self) -> torch.Tensor:
        """Slice ranks and initial factors as bytes in a tensor: formats such as safetensors hold nothing else."""
        held = {f"initial.{name}": one for name, one in self.initial.items()}
        held["slice_ranks"] = torch.tensor(self.slice_ranks, device="cpu")
        return torch.frombuffer(bytearray(safetensors.torch.save(held)), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take up the slice ranks and initial factors of another stack of the same shape, whose factors come too."""
        held = safetensors.torch.load(state.cpu().numpy().tobytes())
        self._take_slice_ranks(tuple(held.pop("slice_ranks").tolist()))
        self.initial = {name.removeprefix("initial."): one for name, one in held.items()}

    def _take_slice_ranks(self, ranks: tuple[int, ...]) -> None:
        if ranks == self.slice_ranks:
            return
        filled = tuple(rank for rank in ranks if rank)
        name, shape = ("filled_slices", (len(filled),)) if self.trains_transform else ("slice_coefficients", (self.layers, len(filled)))
        setattr(self, name, getattr(self, name).new_empty(shape))
        self.slice_ranks, self.network = ranks, replace(self.network, slice_ranks=filled)
        self._built, self._choices = None, {}
        self._choose()

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:  # type: ignore[override]
        state = state_dict.get(prefix + _EXTRA_STATE_KEY_SUFFIX)
        if state is not None:  # before the buffers, whose shape depends on how many slices have components
            self.set_extra_state(state)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def shared_operands(self) -> dict[str, torch.Tensor]:
        """The operands that all layers share, by name."""
        return {name: one for name, one in self.named_parameters(recurse=False) if name != "transform_matrix"}

    def operands(self, layer: int, order: Order) -> dict[str, torch.Tensor]:
        """The operands at one layer, by name, that the order reads."""
        if not self.trains_transform:
            return {**self.shared_operands(), "u": self.coefficients[layer], "slice_coefficients": self.slice_coefficients[layer]}
        row = self._read().select(0, layer)
        if order.mode == "slices":
            found = {"slice_coefficients": row.index_select(0, self.filled_slices)}
        else:
            found = {"u": row.index_select(0, self.slice_of_component)}
        return {**self.shared_operands(), **found}

    def _read(self) -> torch.Tensor:
        """The trained Φ as the forward reads it: [k, j], or [j, k] by the public code's convention."""
        return self.transform_matrix.T if self.reads_transposed else self.transform_matrix

    def penalty(self) -> torch.Tensor:
        """`transform_penalty` times ‖ΦᵀΦ − I‖²: what keeps a trained Φ near the orthogonal matrices."""
        phi = self.transform_matrix
        identity = torch.eye(self.layers, dtype=phi.dtype, device=phi.device)
        return self.penalty_weight * (phi.T @ phi - identity).square().sum()

    def order_for(self, tokens: int) -> Order:
        """The order to run at that many tokens; `auto` and `auto_time` are the closed form's choice of least memory and least time."""
        if self.order_name not in AUTOMATIC:
            return self.network.order(self.order_name)
        return self.network.order(cost.order_at(self._choices[self.order_name], tokens))

    def use_order(self, order: str, model: nn.Module) -> None:
        """Run in another order from the next forward on."""
        self.unwatch()
        self.order_name = order
        self._choose()
        if order not in AUTOMATIC and self.network.order(order).mode == "stack":
            self.watch(model)

    def _choose(self) -> None:
        """Work out the choice ahead, so that a compiled forward only compares token counts."""
        if self.order_name in AUTOMATIC and self.order_name not in self._choices:
            sizes = {"itemsize": self.A.element_size(), "base_itemsize": self._members[0].weight.element_size()}
            given = {"aim": AUTOMATIC[self.order_name], "inputs_without_gradient": self.inputs_without_gradient, **sizes}
            self._choices[self.order_name] = cost.best_orders(self.network, self.layers, **given)

    @property
    def residual_coefficients(self) -> torch.Tensor:
        """Φ[k, slice of each component] (K, R), as the residual was built with: Φ untrained and not transposed."""
        phi = self.initial.get("transform_matrix", self.transform_matrix).detach()
        return phi[:, slice_of_component(self.slice_ranks, phi.device)]

    @property
    def members(self) -> list[AdaptedLinear]:
        """The layers of the stack, in order."""
        return self._members

    def enlist(self, member: AdaptedLinear, path: str) -> None:
        """Take a layer into the stack; layers come in order."""
        self._members.append(member)
        self.paths.append(path)

    def folded(self, layer: int) -> Part:
        """A layer's weight and bias with the update folded in, from the fold of the whole stack, which is made once per step."""
        return self.part(layer, self.layers)

    def sources(self) -> list[torch.Tensor]:
        """The factors."""
        return list(self.parameters())

    def base(self) -> list[torch.Tensor]:
        """The layers' residuals and biases."""
        return [one for member in self._members for one in (member.weight, member.bias) if one is not None]

    def build(self) -> tuple[torch.Tensor, list[Part]]:
        """The fold of the whole stack, and each layer's weight and bias of it."""
        order = next(one for one in self.network.orders.values() if one.mode == "stack")
        weights: list[torch.Tensor] = [member.weight for member in self._members]
        u = self._read().index_select(1, self.slice_of_component) if self.trains_transform else self.coefficients
        result: Tensor = fold_stack(self.network, order, weights, {**self.shared_operands(), "u": u})
        biases: Sequence[torch.Tensor | None] = [member.bias for member in self._members]
        if result.constant is not None:
            own = torch.stack([bias for bias in biases if bias is not None])
            biases = (own + result.constant.to(own.dtype)).unbind(0)
        return result.tensor, list(zip(result.tensor.unbind(0), biases, strict=True))


def attach_refta(model: nn.Module, stacks: list[Stack], settings, run: Run) -> Attached:
    """ReFTA on the model's stacks: every site replaced by an AdaptedLinear on its residual, the factors registered at the root.

    All stacks are made and registered before the first site is replaced, so that one that cannot be leaves the model as it was.
    """
    check_values(stacks)
    check_devices(stacks)
    prepared = [_prepared(stack, settings, run) for stack in stacks]
    container = Stacks({stack.name: module for stack, (module, _) in zip(stacks, prepared, strict=True)})
    replacing = {}
    for stack, (module, found) in zip(stacks, prepared, strict=True):
        replacing |= _replacing(stack, module, found)
    put_in(model, container.train(model.training), replacing)
    for module, _ in prepared:
        module.use_order(module.order_name, model)
    return Attached(list(container.parameters()), list(replacing), merge_refta)


def _prepared(stack: Stack, settings, run: Run) -> tuple[ReftaStack, Factors]:
    """A stack's module with its factors, and what is left of the layers; the model is not touched."""
    from refta.methods import refta as method

    run.tell(f"decompose {stack.name}: {len(stack.sites)} × {stack.sites[0].rows} × {stack.sites[0].columns}")
    shape = stack.shape()
    method.network(settings, shape)  # checks the rank before the work
    weights = [turned_weight(site) for site in stack.sites]
    biases = [site.module.bias for site in stack.sites] if shape.bias else None
    dtype = run.adapter_dtype or (torch.float64 if weights[0].dtype == torch.float64 else torch.float32)
    found = factors(weights, biases, shape, settings, run, dtype)
    shape = stack.shape(found.slice_ranks)
    network, free = method.network(settings, shape), shape.inputs_without_gradient
    module = ReftaStack(network, shape.layers, run.order or "shared", inputs_without_gradient=free, settings=settings)
    module.fill(found.left.to(dtype), found.right.to(dtype), found.phi, found.slice_ranks)
    kept = found.initial or {name: one.detach() for name, one in module.named_parameters(recurse=False)}
    module.initial = {} if is_hollow(weights[0]) else {name: one.to("cpu", copy=True).contiguous() for name, one in kept.items()}
    return module, found


def _replacing(stack: Stack, module: ReftaStack, found: Factors) -> dict[str, nn.Module]:
    """What a stack's sites are replaced by, by path; the model is not touched."""
    for layer, site in enumerate(stack.sites):
        adapted = AdaptedLinear(found.weights[layer], None if found.biases is None else found.biases[layer], module, layer)
        adapted.was_conv1d = is_conv1d(site.module)
        adapted.train(site.module.training)
        module.enlist(adapted, site.path)
    return dict(zip(module.paths, module.members, strict=True))


def put_in(model: nn.Module, container: nn.Module, replacing: Mapping[str, nn.Module]) -> None:
    """Register what holds the stacks at the model's root, then replace the sites."""
    model.add_module(CONTAINER, container)
    for path, module in replacing.items():
        set_module(model, path, module)


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@torch.no_grad()
def merge_refta(model: nn.Module) -> None:
    """Fold every adapter into a plain linear (or Conv1D) again; the model's output stays as it is."""
    order = Order(("x", (("A", "u"), "B")))
    for path, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear):
            set_module(model, path, merged(module, order))
    for stack in getattr(model, CONTAINER).values():
        stack.unwatch()
    delattr(model, CONTAINER)


def merged(module: AdaptedLinear, order: Order) -> nn.Module:
    """A plain linear (or Conv1D) with the update of one layer folded in."""
    own = module.stack.operands(module.layer, order)
    wide = widest(module.weight, *own.values())
    operands = {name: one.to(wide) for name, one in own.items()}
    own_bias = None if module.bias is None else module.bias.to(wide)
    weight, bias = fold(module.stack.network, order, module.weight.to(wide), own_bias, operands)
    weight = weight.to(module.weight.dtype)
    turned = module.was_conv1d
    plain = _conv1d(module) if turned else nn.Linear(module.in_features, module.out_features, bias=bias is not None)
    plain.weight = nn.Parameter(weight.T.contiguous() if turned else weight, requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.to(module.weight.dtype), requires_grad=False)
    return plain.train(module.training)


def _conv1d(module: AdaptedLinear) -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Conv1D(module.out_features, module.in_features)
