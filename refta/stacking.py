"""ReFTA on a model: the stacks with their shared factors, and how they are put in and folded out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from refta import cost, tensor_svd
from refta.errors import SettingError
from refta.factor_cache import FactorCache
from refta.linear import AdaptedLinear, Tensor, fold, fold_stack
from refta.lines import Regime
from refta.network import Network, Order
from refta.operands import AUTOMATIC
from refta.per_step import BuiltPerStep, Part
from refta.sites import Site, Stack, is_conv1d

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
    """What a method put into a model: the adapter's own parameters, the sites, notes, and how to fold it in again."""

    parameters: list[nn.Parameter]
    sites: list[str]
    merge: Callable[[nn.Module], None]
    notes: list[str] = field(default_factory=list)
    stacks: dict[str, Any] = field(default_factory=dict)


class ReftaStack(BuiltPerStep):
    """The factors that the layers of one stack share: A (n, R), B (R, d), beta (R) where the layers have biases.

    transform_matrix Φ (K, K) is a buffer, or a parameter where it is trained. Read off it: coefficients u (K, R), Φ[k, slice of
    each component], and slice_coefficients (K, G) in the order of the slices that have components; buffers while Φ is frozen, and
    picked out of Φ at every use while it is trained (slice_of_component (R) and filled_slices (G) say where).
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
        ranks = torch.as_tensor(slice_ranks, device=phi.device)
        component = torch.arange(len(ranks), device=phi.device).repeat_interleave(ranks, output_size=int(sum(slice_ranks)))
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
            given = {"inputs_without_gradient": self.inputs_without_gradient, "itemsize": self.A.element_size()}
            self._choices[self.order_name] = cost.best_orders(self.network, self.layers, aim=AUTOMATIC[self.order_name], **given)

    @property
    def residual_coefficients(self) -> torch.Tensor:
        """Φ[k, slice of each component] (K, R), as the residual was built with: Φ untrained and not transposed."""
        phi = self.initial.get("transform_matrix", self.transform_matrix).detach()
        return phi[:, torch.arange(self.layers, device=phi.device).repeat_interleave(torch.tensor(self.slice_ranks, device=phi.device))]

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
    """ReFTA on the model's stacks: every site replaced by an AdaptedLinear on its residual, the factors registered at the root."""
    from refta.methods import refta as method

    container = nn.ModuleDict()
    for stack in stacks:
        run.tell(f"decompose {stack.name}: {len(stack.sites)} × {stack.sites[0].rows} × {stack.sites[0].columns}")
        container[stack.name] = _attach_stack(model, stack, settings, run, method)
    model.add_module(CONTAINER, container.train(model.training))
    sites = [site.path for stack in stacks for site in stack.sites]
    ranks = {name: module.slice_ranks for name, module in container.items()}
    return Attached(list(container.parameters()), sites, merge_refta, stacks=ranks)


def _attach_stack(model: nn.Module, stack: Stack, settings, run: Run, method) -> ReftaStack:
    shape = stack.shape()
    method.network(settings, shape)  # checks the rank before the work
    weights = [turned_weight(site) for site in stack.sites]
    biases = [site.module.bias for site in stack.sites] if shape.bias else None
    found = _factors(weights, biases, shape, settings, run, method)
    shape = stack.shape(found.slice_ranks)
    order = run.order or "shared"
    network, free = method.network(settings, shape), shape.inputs_without_gradient
    module = ReftaStack(network, shape.layers, order, inputs_without_gradient=free, settings=settings)
    dtype = run.adapter_dtype or (torch.float64 if weights[0].dtype == torch.float64 else torch.float32)
    module.fill(found.left.to(dtype), found.right.to(dtype), found.phi, found.slice_ranks)
    kept = found.initial or {name: one.detach() for name, one in module.named_parameters(recurse=False)}
    module.initial = {} if is_hollow(weights[0]) else {name: one.to("cpu", copy=True).contiguous() for name, one in kept.items()}
    for layer, site in enumerate(stack.sites):
        adapted = AdaptedLinear(found.weights[layer], None if found.biases is None else found.biases[layer], module, layer)
        adapted.was_conv1d = is_conv1d(site.module)
        adapted.train(site.module.training)
        set_module(model, site.path, adapted)
        module.enlist(adapted, site.path)
    module.use_order(order, model)
    return module


@dataclass
class _Factors:
    left: torch.Tensor
    right: torch.Tensor
    phi: torch.Tensor
    slice_ranks: list[int]
    weights: list[torch.Tensor]
    biases: list[torch.Tensor] | None
    initial: dict[str, torch.Tensor] | None = None


def _factors(weights, biases, shape, settings, run: Run, method) -> _Factors:
    if run.stored is not None:
        return _stored_factors(weights, biases, shape, run.stored)
    if is_hollow(weights[0]):
        return _hollow_factors(weights, biases, shape, settings, run, method)
    bias = None if biases is None else torch.stack([one.detach() for one in biases])
    cache = None if run.cache is None else FactorCache(run.cache, run.tell)

    def tell(words: str) -> None:
        run.tell(f"decompose {shape.name}: {words}")

    weight = torch.stack([one.detach() for one in weights])
    found = tensor_svd.decompose(weight, bias, settings.rank, settings.transform, cache=cache, progress=tell)
    left = torch.cat([a for a, _ in found.factors], dim=1)
    right = torch.cat([b for _, b in found.factors], dim=0)
    residual = [one.clone() for one in found.residual_weight]
    residual_bias = None if found.residual_bias is None else [one.clone() for one in found.residual_bias]
    return _Factors(left, right, found.transform_matrix, found.slice_ranks.tolist(), residual, residual_bias)


def _stored_factors(weights, biases, shape, stored: dict[str, torch.Tensor]) -> _Factors:
    """A file's factors, and the residual that its initial factors define on these weights."""
    prefix, device = f"{shape.name}.", weights[0].device
    given = {key.removeprefix(prefix): value.to(device) for key, value in stored.items() if key.startswith(prefix)}
    coefficients, left, right = given["residual_coefficients"], given["initial.A"], given["initial.B"]
    residual = [_minus(one, (left * u) @ right) for one, u in zip(weights, coefficients, strict=True)]
    residual_bias = None
    if biases is not None:
        residual_bias = [_minus(one, (left * u) @ given["initial.beta"]) for one, u in zip(biases, coefficients, strict=True)]
    columns = [given["B"]] + ([given["beta"][:, None]] if biases is not None else [])
    initial = {key: given[f"initial.{key}"] for key in ("A", "B", "beta", "transform_matrix") if f"initial.{key}" in given}
    ranks = given["slice_ranks"].tolist()
    return _Factors(given["A"], torch.cat(columns, dim=1), given["transform_matrix"], ranks, residual, residual_bias, initial)


def _minus(tensor: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    return (tensor.detach().to(update.dtype) - update).to(tensor.dtype).contiguous()


def is_hollow(weight: torch.Tensor) -> bool:
    """Whether a tensor has a shape but no values: on the meta device, or fake."""
    from torch._subclasses.fake_tensor import FakeTensor

    return weight.is_meta or isinstance(weight, FakeTensor) or isinstance(getattr(weight, "data", None), FakeTensor)


def _hollow_factors(weights, biases, shape, settings, run: Run, method) -> _Factors:
    """Empty factors of the right shapes for a model without values: no SVD, slice ranks as given or assumed."""
    ranks = list(run.slice_ranks.get(shape.name, method.assumed_slice_ranks(settings.rank, shape.layers)))
    if len(ranks) != shape.layers or sum(ranks) != settings.rank:
        wanted = f"{shape.layers} numbers that sum to the rank {settings.rank}"
        raise SettingError(f"slice_ranks: {ranks} for '{shape.name}'; they must be {wanted}")
    dtype = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
    with torch.device(weights[0].device):
        left = torch.empty(shape.rows, settings.rank, dtype=dtype)
        right = torch.empty(settings.rank, shape.columns + shape.bias, dtype=dtype)
        phi = torch.empty(shape.layers, shape.layers, dtype=dtype)
    residual = [torch.empty(shape.rows, shape.columns, dtype=one.dtype, device=one.device) for one in weights]
    residual_bias = None if biases is None else [torch.empty_like(one, requires_grad=False) for one in biases]
    return _Factors(left, right, phi, ranks, residual, residual_bias)


def turned_weight(site: Site) -> torch.Tensor:
    """The site's weight as n × d."""
    weight = site.module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.T if is_conv1d(site.module) else weight


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
    operands = {name: one.float() if one.dtype != torch.float64 else one for name, one in own.items()}
    wide = next(iter(operands.values())).dtype
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
