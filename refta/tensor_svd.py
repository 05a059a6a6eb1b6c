"""The decomposition behind ReFTA: mode-3 transform, slice-wise truncated SVD, one global rank, frozen residual.

Source: "ReFTA", CVPR 2026, as set down in refta.md. T is the stack of `[W_k | b_k]`, K × n × (d + 1); a stack without
biases has no extra column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from refta import transforms
from refta.errors import SettingError
from refta.factor_cache import FactorCache, Pairs
from refta.leading_svd import Triplets, leading_triplets

EQUAL = 1e-10  # of a singular value: converged ones are off by less (the square of leading_svd's tolerance, over the gap)


@dataclass(frozen=True)
class Decomposition:
    """A stack as principal components (to be trained) and a residual (frozen): `T_k = residual_k + Σ_j Φ[k, j] A_j B_j`.

    transform_matrix: Φ (K, K). slice_ranks: R_j (K,), which sum to the rank. factors: K pairs (A_j (n, R_j), B_j (R_j, d + 1 or d)).
    residual_weight (K, n, d) in the weight's dtype; residual_bias (K, n) or None.
    """

    transform_matrix: torch.Tensor
    slice_ranks: torch.Tensor
    factors: list[tuple[torch.Tensor, torch.Tensor]]
    residual_weight: torch.Tensor
    residual_bias: torch.Tensor | None


def largest_rank(layers: int, rows: int, columns: int, *, bias: bool) -> int:
    """The most components that a stack has: K · min(n, d + 1), or K · min(n, d) without bias; 24 · min(4, 5) = 96."""
    return layers * min(rows, columns + bias)


def decompose(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    rank: int,
    transform,
    *,
    cache: FactorCache | None = None,
    progress: Callable[[str], None] | None = None,
) -> Decomposition:
    """The `rank` largest singular triplets over all transformed slices of a stack, and what remains.

    weight (K, n, d); bias (K, n) or None; transform a name, or Φ itself as a (K, K) tensor or array. Computes in float64 for a
    float64 weight and otherwise in float32 (small stacks in float64). Ties go to the lower slice, so exactly `rank` survive.
    `cache` gives the factors of weights that were decomposed before; `progress` hears of every slice.
    Raises SettingError for shapes, ranks, transforms that do not fit and for weights that are not finite.
    """
    _check(weight, bias, rank)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    columns = [weight.detach().to(dtype)] + ([] if bias is None else [bias.detach().to(dtype)[:, :, None]])
    stack = torch.cat(columns, dim=2)
    if not bool(torch.isfinite(torch.stack(torch.aminmax(stack))).all()):  # one pass, and no tensor of the stack's size
        raise SettingError("weight: holds values that are not finite; there is no SVD of those")
    phi, factors = _cached(stack, rank, transform, cache, progress)
    residual = _subtract(stack, phi, factors)
    width = weight.shape[2]
    return Decomposition(
        transform_matrix=phi.to(dtype),
        slice_ranks=torch.tensor([a.shape[1] for a, _ in factors]),
        factors=factors,
        residual_weight=residual[:, :, :width].to(weight.dtype).contiguous(),
        residual_bias=None if bias is None else residual[:, :, width].to(bias.dtype).contiguous(),
    )


def _cached(stack: torch.Tensor, rank: int, transform, cache: FactorCache | None, progress) -> tuple[torch.Tensor, Pairs]:
    """Φ and the factors of every slice, from the cache where they are there; else into it."""
    if cache is None:
        return _decomposed(stack, rank, transform, progress)
    path = cache.path(stack, rank, transform)
    found = cache.read(path, stack)
    if found is None:
        found = _decomposed(stack, rank, transform, progress)
        cache.write(path, *found)
    return found


def _decomposed(stack: torch.Tensor, rank: int, transform, progress) -> tuple[torch.Tensor, Pairs]:
    phi = transforms.matrix(transform, stack)
    slices = (phi.T.to(stack.dtype) @ stack.flatten(1)).view_as(stack)
    found = leading_triplets(slices, rank, progress=progress)
    ranks = _slice_ranks([triplets.values for triplets in found], rank)
    return phi, [_pair(one, kept, matrix) for one, kept, matrix in zip(found, ranks, slices, strict=True)]


def _check(weight: torch.Tensor, bias: torch.Tensor | None, rank: int) -> None:
    if weight.dim() != 3:
        raise SettingError(f"weight: shape {tuple(weight.shape)}; a stack is (layers, outputs, inputs)")
    layers, rows, columns = weight.shape
    if bias is not None and bias.shape != (layers, rows):
        raise SettingError(f"bias: shape {tuple(bias.shape)}; the weight {tuple(weight.shape)} needs ({layers}, {rows})")
    largest = largest_rank(layers, rows, columns, bias=bias is not None)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
        raise SettingError(f"rank: {rank!r}; a stack of {layers} layers of {rows} × {columns} has ranks 1 to {largest}")


def _slice_ranks(values: list[torch.Tensor], rank: int) -> list[int]:
    """R_j: how many of the `rank` largest values each slice holds; values that are equal but for rounding go to the lower slice."""
    pairs = [(value, j) for j, slice_values in enumerate(values) for value in slice_values.tolist()]
    last = sorted((value for value, _ in pairs), reverse=True)[min(rank, len(pairs)) - 1]
    above = [j for value, j in pairs if value > last * (1 + EQUAL)]
    equal = [j for value, j in pairs if last * (1 - EQUAL) <= value <= last * (1 + EQUAL)]
    kept = above + equal[: rank - len(above)]
    return [kept.count(j) for j in range(len(values))]


def _pair(triplets: Triplets, kept: int, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A_j = U (n, R_j) and B_j = Uᵀ S_j = diag(σ) Vᵀ (R_j, d + 1): B from the matrix itself, so the product is a projection."""
    left = triplets.left[:, :kept]
    return left.to(matrix.dtype).contiguous(), (left.T @ matrix.double()).to(matrix.dtype) if kept else matrix.new_zeros(0, matrix.shape[1])


def slice_of_component(slice_ranks: Sequence[int], device: torch.device) -> torch.Tensor:
    """The slice that each component is of (R,), for R_j (K): of ranks 2, 0, 1 it is 0, 0, 2."""
    ranks = torch.as_tensor(slice_ranks, device=device)
    return torch.arange(len(ranks), device=device).repeat_interleave(ranks, output_size=int(sum(slice_ranks)))


def _subtract(stack: torch.Tensor, phi: torch.Tensor, factors: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """T_k − Σ_j Φ[k, j] A_j B_j, in place, one layer at a time."""
    left = torch.cat([a for a, _ in factors], dim=1)
    right = torch.cat([b for _, b in factors], dim=0)
    coefficients = phi.to(stack.dtype)[:, slice_of_component([a.shape[1] for a, _ in factors], stack.device)]
    for layer, u in zip(stack, coefficients, strict=True):
        layer.addmm_(left * u, right, alpha=-1)
    return stack
