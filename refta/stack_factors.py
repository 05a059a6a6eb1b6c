"""Where the factors of a stack come from: its decomposition, a file, or nowhere (a model without values)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from refta import tensor_svd
from refta.base_weights import is_hollow, residuals
from refta.errors import SettingError
from refta.factor_cache import FactorCache
from refta.shapes import StackShape

if TYPE_CHECKING:
    from refta.stacking import Run


@dataclass
class Factors:
    """A (n, R), [B | β] (R, d + 1 or d), Φ (K, K) and R_j (K), what is left of the layers, and a file's initial factors."""

    left: torch.Tensor
    right: torch.Tensor
    phi: torch.Tensor
    slice_ranks: list[int]
    weights: list[torch.Tensor]
    biases: list[torch.Tensor] | None
    initial: dict[str, torch.Tensor] | None = None


def factors(weights, biases, shape: StackShape, settings, run: Run, dtype: torch.dtype) -> Factors:
    """A stack's factors, to be kept in that dtype, and its residual: from a file, of no values where the model has none, or decomposed."""
    from refta.methods import refta as method

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
    ranks = found.slice_ranks.tolist()
    if dtype.itemsize < left.dtype.itemsize:
        return _rounded_factors(weights, biases, left.to(dtype), right.to(dtype), found.transform_matrix.to(dtype), ranks)
    residual = [one.clone() for one in found.residual_weight]
    residual_bias = None if found.residual_bias is None else [one.clone() for one in found.residual_bias]
    return Factors(left, right, found.transform_matrix, ranks, residual, residual_bias)


def _rounded_factors(weights, biases, left: torch.Tensor, right: torch.Tensor, phi: torch.Tensor, ranks: list[int]) -> Factors:
    """Factors of a dtype narrower than they were computed in: what their rounding takes from them stays in the residual."""
    coefficients, width = phi[:, tensor_svd.slice_of_component(ranks, phi.device)], weights[0].shape[1]
    residual_bias = None if biases is None else residuals(biases, left, coefficients, right[:, width])
    return Factors(left, right, phi, ranks, residuals(weights, left, coefficients, right[:, :width]), residual_bias)


def _stored_factors(weights, biases, shape, stored: dict[str, torch.Tensor]) -> Factors:
    """A file's factors, and the residual that its initial factors define on these weights."""
    prefix, device = f"{shape.name}.", weights[0].device
    given = {key.removeprefix(prefix): value.to(device) for key, value in stored.items() if key.startswith(prefix)}
    coefficients, left = given["residual_coefficients"], given["initial.A"]
    residual = residuals(weights, left, coefficients, given["initial.B"])
    residual_bias = None if biases is None else residuals(biases, left, coefficients, given["initial.beta"])
    columns = [given["B"]] + ([given["beta"][:, None]] if biases is not None else [])
    initial = {key: given[f"initial.{key}"] for key in ("A", "B", "beta", "transform_matrix") if f"initial.{key}" in given}
    ranks = given["slice_ranks"].tolist()
    return Factors(given["A"], torch.cat(columns, dim=1), given["transform_matrix"], ranks, residual, residual_bias, initial)


def _hollow_factors(weights, biases, shape, settings, run: Run, method) -> Factors:
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
    return Factors(left, right, phi, ranks, residual, residual_bias)
