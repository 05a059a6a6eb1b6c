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
GUARD = 12  # vectors beyond the wanted ones: they widen the gap that convergence lives on
TOLERANCE = 1e-7  # of ‖S Sᵀu − σ²u‖ / σ²; with the guard's gap of about 3% this is 3e-6 in u
ROUNDS = 40
DEGREE = 12
FINE = 3e-5  # residual from which on the wanted vectors are polished in float64
MARGIN = 1e-5  # of a squared value in float32
GRAM_PAYS = 60  # products of a block with S and Sᵀ, beyond which forming S Sᵀ saves more than it costs
CORRECTION_STEPS = 12
NEXT = 2  # vectors after the wanted whose residual says that they lie below the threshold
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
        wanted = min(int((subspace.values >= threshold * (1 - MARGIN)).sum()), rank)
        if wanted > subspace.block - GUARD // 2:
            if subspace.block * 8 > min(subspace.matrix.shape):
                return subspace.full()
            subspace.grow(generator)
            subspace.advance()
            continue
        if subspace.settled(wanted, threshold):
            return Triplets(subspace.left[:, :wanted], subspace.values[:wanted])
        if subspace.rounds >= ROUNDS or subspace.stalled:
            return subspace.full()
        subspace.advance(wanted)


class _Subspace:
    """A block of orthonormal vectors that turns towards the leading left singular vectors of one matrix.

    In the matrix's own precision until the wanted vectors are nearly there; from then on values and residuals are float64's, and what the
    wanted vectors still lack is solved for in the matrix's precision, whose rounding is then relative to that little.
    """

    def __init__(self, matrix: torch.Tensor, block: int, generator: torch.Generator):
        self.matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T.contiguous()
        self.turned = matrix.shape[0] > matrix.shape[1]
        self.gram: torch.Tensor | None = None
        self.applied = 0
        self.wide: torch.Tensor | None = None  # the matrix in float64, once it is polished
        self.block, self.rounds, self.stalled = block, 0, False
        self.basis = self._random(block, generator)
        self.values = torch.zeros(block, dtype=torch.float64, device=matrix.device)
        self.residual = self.image = torch.full_like(self.values, float("inf"))

    def full(self) -> Triplets:
        """All triplets of the matrix as it was given, by its full SVD."""
        return _full(self.matrix.T if self.turned else self.matrix)

    def _random(self, columns: int, generator: torch.Generator) -> torch.Tensor:
        start = torch.randn(self.matrix.shape[0], columns, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(start.to(self.matrix.device, self.matrix.dtype))[0]

    def grow(self, generator: torch.Generator) -> None:
        """Twice the vectors; the new ones start at random."""
        fresh = self._random(self.block, generator)
        self.basis = torch.linalg.qr(torch.cat([self.basis.to(fresh.dtype), fresh], dim=1))[0]
        self.block *= 2
        self.wide, self.stalled = None, False

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """S Sᵀ x in the matrix's precision; S Sᵀ itself is formed once so many were asked for that it pays."""
        self.applied += 1
        if self.gram is None and self.applied > GRAM_PAYS:
            self.gram = self.matrix @ self.matrix.T
        # vectors as rows: where the d + 1 columns of the matrix's rows are no whole vector registers, BLAS takes 0.5-0.8 of the time
        return ((x.T @ self.matrix) @ self.matrix.T).T if self.gram is None else self.gram @ x

    def advance(self, wanted: int = 0) -> None:
        """One round: a filter over the whole block while the residual is coarse, after that a correction of the wanted; Rayleigh-Ritz."""
        self.rounds += 1
        if self.wide is not None:
            self._advance_finely(max(wanted, 1))
            return
        edge, top = float(self.values.min()) ** 2, float(self.values.max()) ** 2
        if edge == 0.0:  # the first round knows no edge: a plain power step
            filtered = self.apply(self.apply(self.basis))
        else:
            degree = min(DEGREE, _steepest(self.values.square(), self.relative_residual))
            filtered = _chebyshev(self.apply, self.basis, edge, top, degree)
        self._project(self.matrix, torch.linalg.qr(filtered)[0], self.block)

    def _advance_finely(self, wanted: int) -> None:
        if wanted > self.image.shape[1]:  # more are wanted than were watched
            self._polish(wanted)
            return
        before = float(self.relative_residual[:wanted].max())
        self._correct(wanted)
        self.stalled = float(self.relative_residual[:wanted].max()) * 2 > before

    def _project(self, matrix: torch.Tensor, basis: torch.Tensor, watched: int) -> None:
        """Rayleigh-Ritz in the matrix's precision, its small eigenproblem in float64; the residuals of the first `watched` vectors."""
        reduced = (basis.T @ matrix).T
        squares, rotation = torch.linalg.eigh((reduced.T @ reduced).double())
        order = squares.argsort(descending=True)
        squares, rotation = squares[order].clamp_min(0), rotation[:, order].to(matrix.dtype)
        self.basis = basis @ rotation
        seen = slice(min(watched, self.block))
        self.image = matrix @ (reduced @ rotation[:, seen]) - self.basis[:, seen] * squares[seen].to(matrix.dtype)
        self.residual = torch.full_like(squares, float("inf"))
        self.residual[seen] = self.image.norm(dim=0).double()
        self.values = squares.sqrt()

    def _polish(self, wanted: int) -> None:
        self.wide = self.matrix.double()
        self._project(self.wide, torch.linalg.qr(self.basis.double())[0], wanted + NEXT)

    def _correct(self, wanted: int) -> None:
        """Add to the wanted vectors what they lack outside the block: (θ − S Sᵀ) c = S Sᵀu − θu, by conjugate gradients in the complement.

        Jacobi and Davidson's correction. S Sᵀu − θu is known in float64 and small, so c in float32 is exact to its own seven digits.
        """
        assert self.wide is not None
        dtype, block = self.matrix.dtype, self.basis.to(self.matrix.dtype)
        lacking = self.image[:, :wanted]
        sizes = lacking.norm(dim=0).clamp_min(1e-300)
        squares = self.values[:wanted].square()

        def outside(x: torch.Tensor) -> torch.Tensor:
            return x - block @ (block.T @ x)

        def operator(x: torch.Tensor) -> torch.Tensor:
            return outside(squares.to(dtype) * x - self.apply(x))

        found = _conjugate_gradients(operator, outside((lacking / sizes).to(dtype)), CORRECTION_STEPS)
        moved = self.basis.clone()
        moved[:, :wanted] += found.double() * sizes
        self._project(self.wide, torch.linalg.qr(moved)[0], wanted + NEXT)

    def settled(self, wanted: int, threshold: float) -> bool:
        """Whether the wanted pairs have converged and the next is surely below the threshold; turns to float64 once they are fine.

        A Ritz value θ = σ² with residual r has an eigenvalue within r of it, so θ + r < threshold² rules the next one out.
        """
        if self.wide is None and wanted and bool((self.relative_residual[:wanted] < FINE).all()):
            self._polish(wanted)
            return False  # the values moved: count again
        relative = self.relative_residual
        if wanted and self.wide is None:
            return False
        below = float(self.values[wanted]) ** 2 * (1 + MARGIN) + float(self.residual[wanted]) < threshold**2
        return bool((relative[:wanted] < TOLERANCE).all()) and (below or bool(relative[wanted] < TOLERANCE))

    @property
    def relative_residual(self) -> torch.Tensor:
        """‖S Sᵀu − σ²u‖ / σ² of every vector."""
        return self.residual / self.values.square().clamp_min(1e-300)

    @property
    def left(self) -> torch.Tensor:
        """Left singular vectors of the matrix as it was given, (n, block), float64."""
        basis = self.basis.double()
        if not self.turned:
            return basis
        return self.matrix.double().T @ basis / self.values.clamp_min(1e-300)


def _conjugate_gradients(operator: Callable[[torch.Tensor], torch.Tensor], right: torch.Tensor, steps: int) -> torch.Tensor:
    """x with operator(x) = right nearly, column by column, for a positive definite operator; a column rests once rounding takes over."""
    x, rest = torch.zeros_like(right), right
    direction, size = rest, rest.square().sum(0)
    enough = size * 1e-10
    for _ in range(steps):
        image = operator(direction)
        curvature = (direction * image).sum(0)
        goes_on = (size > enough) & (curvature > 0)
        length = torch.where(goes_on, size / curvature, 0.0)
        x, rest = x + length * direction, rest - length * image
        following = rest.square().sum(0)
        direction = rest + torch.where(goes_on, following / size, 0.0) * direction
        size = following
    return x


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
