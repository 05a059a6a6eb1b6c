"""The leading singular triplets of a few matrices under one global rank, without their full SVDs.

Chebyshev-filtered subspace iteration (Zhou, Saad, Tiago, Chelikowsky, "Self-consistent-field calculations using
Chebyshev-filtered subspace iteration", J. Comput. Phys. 2006) on S Sᵀ, in the matrix's own precision, then polished and
Rayleigh-Ritz projected in float64. What does not converge, and what is small, takes the full SVD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

SMALL = 192  # below this width a full SVD is as quick
GUARD = 16  # vectors beyond the wanted ones: they widen the gap that convergence lives on
TOLERANCE = 1e-7  # of ‖S Sᵀu − σ²u‖ / σ²; with the guard's gap of about 3% this is 3e-6 in u
ROUNDS = 40
DEGREE = 12
FINE_DEGREE = 3
AMPLIFICATION = 1e4  # of what a block's vectors share, over the filter's edge: more drowns the small ones in float32's rounding
PRECISION = 1e-6  # below this a residual is float32's own
FIRST_ROUNDS = 2


@dataclass(frozen=True)
class Triplets:
    """Left vectors (n, m) and singular values (m,), both float64, largest first."""

    left: torch.Tensor
    values: torch.Tensor


def leading_triplets(slices: torch.Tensor, rank: int, *, progress: Callable[[str], None] | None = None) -> list[Triplets]:
    """Triplets of each slice (J, n, d) that hold at least all of the `rank` largest over all slices together.

    The estimates of the first pass are Rayleigh-Ritz values, which never exceed the true ones, so the R-th largest of them
    bounds the true threshold from below: what lies under it need not converge. Slices with the largest values go first, since
    what they settle raises that bound for the others. `progress` hears of every slice that is done.
    """
    count, rows, columns = slices.shape
    size = min(rows, columns)
    if size <= SMALL or rank * 4 > count * size:
        return [_full(matrix) for matrix in slices]
    tell = progress or (lambda words: None)
    generator = torch.Generator().manual_seed(0)
    block = min(rank, max(4, -(-rank * 2 // count))) + GUARD
    found = [_Subspace(matrix, block, generator) for matrix in slices]
    for subspace in found:
        for _ in range(FIRST_ROUNDS):
            subspace.advance()
    result: list[Triplets] = [None] * count  # type: ignore[list-item]
    estimates = [subspace.values for subspace in found]
    for place, j in enumerate(sorted(range(count), key=lambda j: -float(found[j].values[0]))):
        ordered = torch.cat(estimates).sort(descending=True).values
        result[j] = _converged(found[j], float(ordered[min(rank, len(ordered)) - 1]), rank, generator)
        estimates[j] = result[j].values
        tell(f"slice {place + 1} of {count}")
    return result


def _full(matrix: torch.Tensor) -> Triplets:
    left, values, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Triplets(left, values)


def _converged(subspace: _Subspace, threshold: float, rank: int, generator: torch.Generator) -> Triplets:
    """The slice's triplets at or above the threshold, converged; the full SVD where that takes too many vectors or rounds."""
    while True:
        wanted = min(int((subspace.values >= threshold * (1 - 1e-6)).sum()), rank)
        if wanted > subspace.block - GUARD // 2:
            if subspace.block * 8 > min(subspace.matrix.shape):
                return subspace.full()
            subspace.grow(generator)
            subspace.advance()
            continue
        if subspace.settled(wanted, threshold):
            return Triplets(subspace.left[:, :wanted], subspace.values[:wanted])
        if subspace.rounds >= ROUNDS:
            return subspace.full()
        subspace.advance()


class _Subspace:
    """A block of orthonormal vectors that turns towards the leading left singular vectors of one matrix."""

    def __init__(self, matrix: torch.Tensor, block: int, generator: torch.Generator):
        self.matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T.contiguous()
        self.turned = matrix.shape[0] > matrix.shape[1]
        self.matrix64 = self.matrix.double()
        self.gram = self.matrix @ self.matrix.T
        self.block, self.rounds, self.polished = block, 0, False
        self.basis = self._random(block, generator)
        self.values = torch.zeros(block, dtype=torch.float64, device=matrix.device)
        self.residual = torch.full_like(self.values, float("inf"))

    def full(self) -> Triplets:
        """All triplets of the matrix as it was given, by its full SVD."""
        return _full(self.matrix.T if self.turned else self.matrix)

    def _random(self, columns: int, generator: torch.Generator) -> torch.Tensor:
        start = torch.randn(self.matrix.shape[0], columns, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(start.to(self.matrix.device))[0]

    def grow(self, generator: torch.Generator) -> None:
        """Twice the vectors; the new ones start at random."""
        fresh = self._random(self.block, generator)
        self.basis = torch.linalg.qr(torch.cat([self.basis, fresh], dim=1))[0]
        self.block *= 2
        self.polished = False

    def advance(self) -> None:
        """One round: filter in the matrix's precision while the residual is coarse, in float64 after; then Rayleigh-Ritz."""
        edge, top = float(self.values.min()) ** 2, float(self.values.max()) ** 2
        if edge == 0.0:  # the first round knows no edge: a plain power step
            filtered = (self.gram @ (self.gram @ self.basis.to(self.gram.dtype))).double()
        elif self.polished:
            degree = min(FINE_DEGREE, _steepest(self.values.square(), self.relative_residual))
            filtered = _chebyshev(lambda x: self.matrix64 @ (self.matrix64.T @ x), self.basis, edge, top, degree)
        else:
            degree = min(DEGREE, _steepest(self.values.square(), self.relative_residual))
            filtered = _chebyshev(lambda x: self.gram @ x, self.basis.to(self.gram.dtype), edge, top, degree).double()
        self._project(torch.linalg.qr(filtered)[0])
        self.rounds += 1

    def _project(self, basis: torch.Tensor) -> None:
        reduced = self.matrix64.T @ basis
        squares, rotation = torch.linalg.eigh(reduced.T @ reduced)
        order = squares.argsort(descending=True)
        squares, rotation = squares[order].clamp_min(0), rotation[:, order]
        self.basis, image = basis @ rotation, self.matrix64 @ (reduced @ rotation)
        self.residual = (image - self.basis * squares).norm(dim=0)
        self.values = squares.sqrt()

    def settled(self, wanted: int, threshold: float) -> bool:
        """Whether the wanted pairs have converged and the next is surely below the threshold; turns to float64 once they are fine.

        A Ritz value θ = σ² with residual r has an eigenvalue within r of it, so θ + r < threshold² rules the next one out.
        """
        relative = self.relative_residual
        self.polished = bool((relative[: max(wanted, 1)] < 3e-5).all())
        below = float(self.values[wanted]) ** 2 + float(self.residual[wanted]) < threshold**2
        converged = bool((relative[:wanted] < TOLERANCE).all())
        return converged and (below or bool(relative[wanted] < TOLERANCE))

    @property
    def relative_residual(self) -> torch.Tensor:
        """‖S Sᵀu − σ²u‖ / σ² of every vector."""
        return self.residual / self.values.square().clamp_min(1e-300)

    @property
    def left(self) -> torch.Tensor:
        """Left singular vectors of the matrix as it was given, (n, block)."""
        if not self.turned:
            return self.basis
        return self.matrix64.T @ self.basis / self.values.clamp_min(1e-300)


def _steepest(squares: torch.Tensor, relative: torch.Tensor) -> int:
    """The largest degree that drowns no vector of a block in rounding, at least 1.

    The polynomial amplifies a Ritz value θ over the filter's edge by T_m(2θ/edge − 1) = cosh(m · arcosh(2θ/edge − 1)); of that, the other
    vectors hold the share that is θ's relative residual. T_3 at 2θ/edge − 1 = 3 is 99, so a fresh vector with θ = 2·edge allows degree 5.
    """
    growth = torch.acosh((2 * squares / squares.min() - 1).clamp_min(1.0))
    allowed = torch.acosh(AMPLIFICATION / relative.clamp(PRECISION, 1.0))
    return max(1, int((allowed / growth.clamp_min(1e-3)).min()))


def _chebyshev(apply, start: torch.Tensor, edge: float, top: float, degree: int) -> torch.Tensor:
    """A Chebyshev polynomial of S Sᵀ applied to a block: at most 1 on [0, edge], large above, 1 at `top`."""
    half = edge / 2
    sigma = first = half / (top - half)
    previous, current = start, (apply(start) - half * start) * (sigma / half)
    for _ in range(degree - 1):
        following = 1 / (2 / first - sigma)
        previous, current = current, (apply(current) - half * current) * (2 * following / half) - sigma * following * previous
        sigma = following
    return current
