"""How much quicker ReFTA's set-up is than full SVDs, and how exact: the stacks of ViT-Large's queries and values.

    .venv/bin/python -m benchmarks.setup                 # 48 matrices of 1024 × 1025, both spectra; a quarter of an hour on two cores
    .venv/bin/python -m benchmarks.setup --sample 4      # full SVDs of 4 matrices, their time times 12; no errors

`flat`: random weights, the hard case: so flat that float32 SVDs, which the public code runs, are about 2e-5 off themselves.
`decaying`: singular values 1/(1 + i) between random bases, as trained weights have them. Both ways run in one process, one after the
other, so the ratio is what to read. Errors are relative, of the residual and of the factors' products, against full SVDs in float64.
Exit code 4 where the ratio or the residual's error is beyond what the project promises.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from refta import tensor_svd
from refta.factor_cache import FactorCache

LAYERS, WIDTH, RANK, STACKS = 24, 1024, 15, 2
PROMISED = {"flat": 5.0, "decaying": 10.0}  # times quicker
LARGEST_ERROR = 1e-5  # of the residual


def main(arguments: list[str] | None = None) -> int:
    """Both spectra, a few lines of result each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.setup", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="full SVDs of that many matrices only, for the time")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {chosen.device}, {torch.get_num_threads()} threads, {STACKS} × {chosen.layers} × {chosen.width}²")
    verdicts = [_spectrum(kind, make, chosen) for kind, make in (("flat", flat), ("decaying", decaying))]
    return 0 if all(verdicts) else 4


def flat(layers: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Random weights (K, d, d)."""
    return torch.randn(layers, width, width, generator=generator) * 0.02


def decaying(layers: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Weights (K, d, d) of singular values 1/(1 + i) between random bases."""
    values = 1 / (1 + torch.arange(width))
    found = torch.empty(layers, width, width)
    for layer in range(layers):
        left, right = (torch.linalg.qr(torch.randn(width, width, generator=generator))[0] for _ in range(2))
        found[layer] = (left * values) @ right.T
    return found


def _spectrum(kind: str, make: Callable[[int, int, torch.Generator], torch.Tensor], chosen: argparse.Namespace) -> bool:
    generator = torch.Generator().manual_seed(0)
    stacks = [make(chosen.layers, chosen.width, generator).to(chosen.device) for _ in range(STACKS)]
    bias = torch.zeros(chosen.layers, chosen.width, device=chosen.device)
    found, ours = _timed(lambda: [tensor_svd.decompose(stack, bias, RANK, "dct") for stack in stacks])
    matrices = [matrix for stack, one in zip(stacks, found, strict=True) for matrix in _slices(stack, bias, one.transform_matrix)]
    count = chosen.sample or len(matrices)
    parts, full = _timed(lambda: [torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices[:count]])
    full *= len(matrices) / count
    ratio = full / ours
    estimated = f", from {count} of them" if count < len(matrices) else ""
    print(f"{kind}: decompose {ours:.2f} s, full SVDs of {len(matrices)} matrices {full:.2f} s{estimated}: {ratio:.1f} times quicker")
    _say_cached(stacks, bias)
    if chosen.sample:
        return ratio >= PROMISED[kind]
    del parts
    errors = [_errors(stack, bias, one) for stack, one in zip(stacks, found, strict=True)]
    residual, products = (max(one) for one in zip(*errors, strict=True))
    print(f"{kind}: relative error of the residual {residual:.1e}, of the factors' products {products:.1e}")
    return ratio >= PROMISED[kind] and residual <= LARGEST_ERROR


def _timed(work: Callable):
    start = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


def _say_cached(stacks: list[torch.Tensor], bias: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = FactorCache(Path(folder))
        for stack in stacks:
            tensor_svd.decompose(stack, bias, RANK, "dct", cache=cache)
        _, seconds = _timed(lambda: [tensor_svd.decompose(stack, bias, RANK, "dct", cache=cache) for stack in stacks])
    print(f"  from the cache: {seconds:.2f} s")


def _slices(stack: torch.Tensor, bias: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """The transformed slices (K, n, d + 1)."""
    tensor = torch.cat([stack, bias[:, :, None]], dim=2)
    return (phi.T.to(stack.dtype) @ tensor.flatten(1)).view_as(tensor)


def _errors(stack: torch.Tensor, bias: torch.Tensor, found: tensor_svd.Decomposition) -> tuple[float, float]:
    """Relative errors of residual and products against full SVDs of the same slices in float64."""
    phi = found.transform_matrix.double()
    wanted = _products(_slices(stack.double(), bias.double(), phi))
    products = torch.stack([a @ b for a, b in found.factors]).double()
    tensor = torch.cat([stack, bias[:, :, None]], dim=2).double()
    exact = tensor - torch.einsum("kj,jnd->knd", phi, wanted)
    assert found.residual_bias is not None
    residual = torch.cat([found.residual_weight, found.residual_bias[:, :, None]], dim=2).double()
    return float((residual - exact).norm() / exact.norm()), float((products - wanted).norm() / wanted.norm())


def _products(slices: torch.Tensor) -> torch.Tensor:
    """A_j B_j of every slice (K, n, d + 1): its components among the `RANK` largest of all slices."""
    parts = [torch.linalg.svd(one, full_matrices=False) for one in slices]
    values = torch.stack([one.S for one in parts])
    kept = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    kept[values.flatten().argsort(descending=True, stable=True)[:RANK]] = True
    return torch.stack([(u * (s * use)) @ v for (u, s, v), use in zip(parts, kept.view_as(values), strict=True)])


if __name__ == "__main__":
    sys.exit(main())
