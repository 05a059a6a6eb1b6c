"""The leading singular triplets against full SVDs."""

import pytest
import torch
from toy_models import relative_error

import refta
from refta import leading_svd
from refta.leading_svd import leading_triplets


def spectrum_stack(values: torch.Tensor, rows: int, columns: int, layers: int) -> torch.Tensor:
    """Matrices of given singular values between random orthonormal bases."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for k in range(layers):
        left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.float64))[0]
        right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator, dtype=torch.float64))[0]
        found.append((left * values * (1 + k / 100)) @ right.T)
    return torch.stack(found).float()


def spectra(size: int) -> dict[str, torch.Tensor]:
    steps = torch.arange(size, dtype=torch.float64)
    clustered = torch.where(steps < 40, 1.0 + 1e-4 * (40 - steps), 0.5 * (1 - steps / size))
    return {"decaying": 0.9**steps, "slow": 1 / (1 + steps), "clustered": clustered, "deficient": torch.where(steps < 3, 3 - steps, 0.0)}


def full_products(slices: torch.Tensor, rank: int) -> tuple[list[int], torch.Tensor]:
    """Slice ranks and Σ of kept components of every slice, by full SVDs."""
    left, values, right = torch.linalg.svd(slices.double(), full_matrices=False)
    kept = torch.zeros_like(values, dtype=torch.bool)
    kept.view(-1)[values.flatten().argsort(descending=True, stable=True)[:rank]] = True
    return kept.sum(1).tolist(), (left * (values * kept)[:, None, :]) @ right


@pytest.mark.parametrize("kind", ["decaying", "slow", "clustered"])
@pytest.mark.parametrize(("rows", "columns"), [(208, 208), (208, 260), (260, 208)])
def test_truncated_equals_full(kind, rows, columns):
    slices = spectrum_stack(spectra(208)[kind], rows, columns, 3)
    found = refta.tensor_svd.decompose(slices, None, 12, "identity")
    ranks, wanted = full_products(slices, 12)
    assert found.slice_ranks.tolist() == ranks
    assert relative_error(torch.stack([a @ b for a, b in found.factors]), wanted) < 1e-5


@pytest.mark.parametrize("rank", [1, 15, 30])
def test_a_flat_spectrum_of_random_weights(rank):
    slices = torch.randn(4, 256, 257, generator=torch.Generator().manual_seed(2))
    found = refta.tensor_svd.decompose(slices, None, rank, "identity")
    ranks, wanted = full_products(slices, rank)
    assert found.slice_ranks.tolist() == ranks
    assert relative_error(torch.stack([a @ b for a, b in found.factors]), wanted) < 1e-5


def test_a_deficient_rank_is_filled_up_to_the_rank_asked_for():
    slices = spectrum_stack(spectra(208)["deficient"], 208, 208, 2)
    found = refta.tensor_svd.decompose(slices, None, 10, "identity")
    assert int(found.slice_ranks.sum()) == 10
    _, wanted = full_products(slices, 6)
    assert relative_error(torch.stack([a @ b for a, b in found.factors]), wanted) < 1e-5
    assert found.residual_weight.abs().max() < 1e-5


def test_zero_slices_above_the_size_of_the_full_svd():
    found = refta.tensor_svd.decompose(torch.zeros(2, 208, 208), None, 5, "dct")
    assert found.slice_ranks.tolist() == [5, 0]
    assert torch.equal(found.residual_weight, torch.zeros(2, 208, 208))


def test_one_large_slice_among_zeros():
    slices = torch.zeros(3, 208, 208)
    slices[1] = torch.randn(208, 208, generator=torch.Generator().manual_seed(0))
    found = refta.tensor_svd.decompose(slices, None, 40, "identity")
    assert found.slice_ranks.tolist() == [0, 40, 0]
    assert relative_error(found.factors[1][0] @ found.factors[1][1], full_products(slices, 40)[1][1]) < 1e-5


def test_left_vectors_are_orthonormal_and_values_sorted():
    slices = torch.randn(2, 260, 208, generator=torch.Generator().manual_seed(2))
    for triplets in leading_triplets(slices, 9):
        if not len(triplets.values):
            continue
        gram = triplets.left.T @ triplets.left
        assert (gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max() < 1e-6
        assert triplets.values.tolist() == sorted(triplets.values.tolist(), reverse=True)


def test_the_same_weights_give_the_same_factors():
    slices = torch.randn(3, 208, 208, generator=torch.Generator().manual_seed(2))
    first, second = (refta.tensor_svd.decompose(slices, None, 9, "dct") for _ in range(2))
    assert all(torch.equal(a, b) for one, two in zip(first.factors, second.factors, strict=True) for a, b in zip(one, two, strict=True))


def test_values_that_polishing_moves_across_the_threshold():
    """A slice whose only candidate turns out to lie below goes on, as does one in which more than were watched come above."""
    matrix = torch.randn(208, 220, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(matrix.double())
    for wanted, threshold in ((0, float(values[0]) * (1 + 1e-9)), (6, float(values[5]))):
        subspace = leading_svd._Subspace(matrix, 24, torch.Generator().manual_seed(0))
        while not bool((subspace.relative_residual[:1] < leading_svd.FINE).all()):
            subspace.advance()
        subspace._polish(1)
        while not subspace.settled(wanted, threshold):
            subspace.advance(wanted)
        assert torch.allclose(subspace.values[: max(wanted, 1)], values[: max(wanted, 1)], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e8])
def test_the_scale_of_the_weights_does_not_matter(scale):
    slices = torch.randn(2, 208, 208, generator=torch.Generator().manual_seed(2)) * scale
    found = refta.tensor_svd.decompose(slices, None, 9, "identity")
    ranks, wanted = full_products(slices, 9)
    assert found.slice_ranks.tolist() == ranks
    assert relative_error(torch.stack([a @ b for a, b in found.factors]), wanted) < 1e-5


@pytest.mark.slow
def test_vit_large_set_up_is_as_exact_as_full_svds():
    """The query stack of ViT-Large with random weights, the hard case; benchmarks/setup.py measures the time."""
    weight = torch.randn(24, 1024, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    bias = torch.zeros(24, 1024)
    found = refta.tensor_svd.decompose(weight, bias, 15, "dct")
    slices = torch.einsum("kj,knd->jnd", found.transform_matrix, torch.cat([weight, bias[:, :, None]], dim=2))
    ranks, wanted = full_products(slices, 15)
    assert found.slice_ranks.tolist() == ranks
    assert relative_error(torch.stack([a @ b for a, b in found.factors]), wanted) < 1e-5
