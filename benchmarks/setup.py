"""How much quicker ReFTA's set-up is than full SVDs: two stacks of ViT-Large, random weights (a flat spectrum, the hard case).

    .venv/bin/python benchmarks/setup.py

prints the time of both, their ratio, and the relative error of both factors' products against full SVDs in float64.
The spectrum is so flat that float32 SVDs (what the public code runs) are themselves about 2e-5 off.
"""

from __future__ import annotations

import time

import torch

from refta import tensor_svd

LAYERS, WIDTH, RANK, STACKS = 24, 1024, 15, 2


def main() -> None:
    """Both ways on the same stacks, one line of result each."""
    generator = torch.Generator().manual_seed(0)
    stacks = [torch.randn(LAYERS, WIDTH, WIDTH, generator=generator) * 0.02 for _ in range(STACKS)]
    bias = torch.zeros(LAYERS, WIDTH)
    start = time.perf_counter()
    found = [tensor_svd.decompose(stack, bias, RANK, "dct") for stack in stacks]
    ours = time.perf_counter() - start
    start = time.perf_counter()
    wanted = [_full_products(stack, bias, one.transform_matrix) for stack, one in zip(stacks, found, strict=True)]
    full = time.perf_counter() - start
    matrices = [one.transform_matrix.double() for one in found]
    exact = torch.cat([_full_products(stack.double(), bias.double(), phi) for stack, phi in zip(stacks, matrices, strict=True)])
    products = torch.stack([a @ b for one in found for a, b in one.factors])
    shape = f"{STACKS} stacks of {LAYERS} × {WIDTH} × {WIDTH + 1}, rank {RANK}"
    print(f"decompose: {ours:.2f} s for {shape}, {torch.get_num_threads()} threads")
    print(f"full SVDs: {full:.2f} s for {STACKS * LAYERS} matrices")
    print(f"ratio: {full / ours:.2f}")
    print(f"relative error of the products: decompose {_error(products, exact):.1e}, full SVDs {_error(torch.cat(wanted), exact):.1e}")


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def _full_products(stack: torch.Tensor, bias: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """A_j B_j of every slice (K, n, d + 1), by full SVDs in the stack's dtype."""
    tensor = torch.cat([stack, bias[:, :, None]], dim=2)
    slices = (phi.T @ tensor.flatten(1)).view_as(tensor)
    parts = [torch.linalg.svd(one, full_matrices=False) for one in slices]
    values = torch.stack([one.S for one in parts])
    kept = torch.zeros(values.numel(), dtype=torch.bool)
    kept[values.flatten().argsort(descending=True, stable=True)[:RANK]] = True
    kept = kept.view_as(values)
    return torch.stack([(u * (s * use)) @ v for (u, s, v), use in zip(parts, kept, strict=True)])


if __name__ == "__main__":
    main()
