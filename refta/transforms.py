"""Mode-3 transforms: invertible K × K matrices across the layer axis of a stack (refta.md, "Mode-3 transform").

Φ is written so that `S_j = Σ_k Φ[k, j] T_k` are the slices and `T_k = Σ_j Φ[k, j] S_j` brings the stack back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from refta.errors import SettingError

if TYPE_CHECKING:
    import torch

NAMES = ("dct", "dft_real", "hosvd", "identity", "lsm")
FROM_WEIGHTS = ("hosvd", "lsm")


def matrix(transform, stack: torch.Tensor) -> torch.Tensor:
    """Φ (K, K) in float64 for a stack (K, n, d), from a transform's name or from Φ itself.

    `hosvd` is an alias of `lsm`: orthogonal factors on the other two modes leave the slice-wise SVD's components
    as they are, so both give the same function at initialisation. Training differs under Adam, which is not invariant under
    rotations (23% different update after 50 steps); under SGD the two are identical.
    `dft_real` is the real Fourier basis, not the complex DFT of the t-SVD literature.

    Raises SettingError for an unknown name and for a matrix that is not K × K and orthogonal.
    """
    layers = stack.shape[0]
    if isinstance(transform, str):
        if transform in FROM_WEIGHTS:
            return _left_singular_vectors(stack)
        return _fixed(transform, layers).to(stack.device)
    return _given(transform, layers).to(stack.device)


def _fixed(name: str, layers: int) -> torch.Tensor:
    import torch

    if name == "identity":
        return torch.eye(layers, dtype=torch.float64)
    if name == "dct":
        return _cosines(layers)
    if name == "dft_real":
        return _fourier(layers)
    raise SettingError(f"transform: unknown name '{name}'; there are {', '.join(NAMES)}, or a K × K orthogonal matrix")


def _cosines(layers: int) -> torch.Tensor:
    """The orthonormal DCT-II matrix, transposed: Φ[k, j] = c_j cos(π (k + 1/2) j / K); for K = 2, [[1, 1], [1, −1]] / √2."""
    import torch

    k = torch.arange(layers, dtype=torch.float64)
    phi = torch.cos(math.pi * (k[:, None] + 0.5) * k[None, :] / layers) * math.sqrt(2 / layers)
    phi[:, 0] = math.sqrt(1 / layers)
    return phi


def _fourier(layers: int) -> torch.Tensor:
    """The real Fourier basis: a constant column, then cosine and sine columns by frequency, orthonormal."""
    import torch

    k = torch.arange(layers, dtype=torch.float64)
    columns = [torch.full((layers,), 1.0, dtype=torch.float64)]
    for frequency in range(1, layers // 2 + 1):
        angle = 2 * math.pi * frequency * k / layers
        columns.append(torch.cos(angle))
        if 2 * frequency != layers:
            columns.append(torch.sin(angle))
    return torch.stack([column / column.norm() for column in columns], dim=1)


def _left_singular_vectors(stack: torch.Tensor) -> torch.Tensor:
    """Left singular vectors of the mode-3 unfolding (row k is vec(T_k)), each with its largest entry positive."""
    import torch

    rows = stack.flatten(1)
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(1 << 20, dim=1):
        gram += part.double() @ part.double().T
    _, vectors = torch.linalg.eigh(gram)
    vectors = vectors.flip(1)
    largest = vectors.abs().argmax(0)
    return vectors * torch.where(vectors.gather(0, largest[None])[0] < 0, -1.0, 1.0)


def _given(transform, layers: int) -> torch.Tensor:
    import torch

    try:
        phi = torch.as_tensor(transform, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(f"transform: neither a name ({', '.join(NAMES)}) nor a matrix: {error}") from error
    if phi.shape != (layers, layers):
        raise SettingError(f"transform: the matrix is {tuple(phi.shape)}; a stack of {layers} layers needs ({layers}, {layers})")
    error = (phi.T @ phi - torch.eye(layers, dtype=phi.dtype, device=phi.device)).abs().max().item()
    if not error < 1e-4:
        raise SettingError(f"transform: the matrix is not orthogonal (ΦᵀΦ differs from the identity by {error:.1e})")
    return phi
