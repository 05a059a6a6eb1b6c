"""The decomposition: golden values of the public reference implementation, ties, zeros, deficient ranks, refusals."""

import math

import numpy as np
import pytest
import torch
from toy_models import DATA, TRANSFORMS, relative_error, stack_of

import refta
from refta.errors import SettingError

GOLDEN = sorted((DATA / "golden").glob("*.npz"))
KINDS = ("random", "tied", "zero", "deficient")


def golden(path):
    values = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    transform = values["transform_matrix"] if "explicit" in path.name else path.stem.removeprefix("refta_")
    return values, transform


def rebuilt(found) -> torch.Tensor:
    """residual + Σ_j Φ[k, j] A_j B_j, bias column last."""
    products = torch.stack([a @ b for a, b in found.factors])
    stack = torch.einsum("kj,jnd->knd", found.transform_matrix, products)
    residual = found.residual_weight
    if found.residual_bias is not None:
        residual = torch.cat([residual, found.residual_bias[:, :, None]], dim=2)
    return residual + stack


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_products_and_residual(path):
    values, transform = golden(path)
    found = refta.tensor_svd.decompose(values["weight"], values["bias"], 7, transform)
    assert found.slice_ranks.tolist() == values["slice_ranks"].tolist()
    assert relative_error(found.transform_matrix, values["transform_matrix"]) <= 5e-6
    products = torch.stack([a @ b for a, b in found.factors])
    assert relative_error(products, values["component_products"]) <= 5e-6
    assert relative_error(found.residual_weight, values["residual_weight"]) <= 5e-6
    assert found.residual_bias is not None
    assert relative_error(found.residual_bias, values["residual_bias"]) <= 5e-6


def test_the_contract_of_shapes_and_dtypes():
    weight, bias = stack_of("random")
    found = refta.tensor_svd.decompose(weight.half(), bias.half(), 5, "dct")
    assert found.transform_matrix.shape == (4, 4)
    assert found.slice_ranks.shape == (4,)
    assert [(a.shape, b.shape) for a, b in found.factors] == [((9, r), (r, 8)) for r in found.slice_ranks.tolist()]
    assert found.residual_weight.shape == (4, 9, 7)
    assert found.residual_weight.dtype == torch.float16
    assert found.residual_bias is not None
    assert found.residual_bias.shape == (4, 9)
    assert found.factors[0][0].dtype == torch.float32


def test_without_bias_there_is_no_extra_column():
    weight, _ = stack_of("random")
    found = refta.tensor_svd.decompose(weight, None, 5, "dct")
    assert found.residual_bias is None
    assert {b.shape[1] for _, b in found.factors} == {7}
    assert relative_error(rebuilt(found), weight) < 1e-6


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)], ids=["float32", "float64"])
def test_exactly_the_rank_survives_and_the_stack_is_kept(transform, kind, dtype, tolerance):
    weight, bias = stack_of(kind, dtype=dtype)
    for rank in (1, 5, 4 * 8):
        found = refta.tensor_svd.decompose(weight, bias, rank, transform)
        assert int(found.slice_ranks.sum()) == rank
        assert [a.shape[1] for a, _ in found.factors] == found.slice_ranks.tolist()
        assert found.factors[0][0].dtype == dtype
        assert relative_error(rebuilt(found), torch.cat([weight, bias[:, :, None]], dim=2)) < tolerance


def test_the_components_are_the_largest_over_all_slices():
    """Diagonal layers, no mixing: values 5, 1 | 4, 3 | 2, 0; the three largest are in slices 0, 1, 1."""
    weight = torch.stack([torch.diag(torch.tensor(values)) for values in ([5.0, 1.0], [4.0, 3.0], [2.0, 0.0])])
    found = refta.tensor_svd.decompose(weight, None, 3, "identity")
    assert found.slice_ranks.tolist() == [1, 2, 0]
    assert torch.allclose(found.residual_weight[0], torch.diag(torch.tensor([0.0, 1.0])), atol=1e-6)
    assert found.residual_weight[1].abs().max() < 1e-6
    assert torch.equal(found.residual_weight[2], weight[2])


def test_equal_values_go_to_the_lower_slice():
    weight, _ = stack_of("tied", layers=3)
    found = refta.tensor_svd.decompose(weight, None, 4, "identity")
    assert found.slice_ranks.tolist() == [2, 1, 1]


def test_equal_values_go_to_the_lower_slice_where_the_svd_is_truncated():
    weight = torch.randn(1, 256, 224, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1)
    found = refta.tensor_svd.decompose(weight, None, 4, "identity")
    assert found.slice_ranks.tolist() == [2, 1, 1]


def test_lsm_and_hosvd_start_from_the_same_function():
    weight, bias = stack_of("random")
    first, second = (refta.tensor_svd.decompose(weight, bias, 5, name) for name in ("lsm", "hosvd"))
    assert torch.equal(first.residual_weight, second.residual_weight)


def test_largest_rank_by_hand():
    assert refta.tensor_svd.largest_rank(24, 4, 4, bias=True) == 96
    assert refta.tensor_svd.largest_rank(2, 5, 3, bias=True) == 8
    assert refta.tensor_svd.largest_rank(2, 5, 3, bias=False) == 6


@pytest.mark.parametrize("rank", [0, -1, 33, 2.0, True, None])
def test_ranks_that_cannot_be_are_refused(rank):
    weight, bias = stack_of("random")
    with pytest.raises(SettingError, match=r"rank: .*4 layers of 9 × 7 has ranks 1 to 32"):
        refta.tensor_svd.decompose(weight, bias, rank, "dct")


def test_what_has_no_svd_is_refused():
    weight, bias = stack_of("random")
    with pytest.raises(SettingError, match="a stack is"):
        refta.tensor_svd.decompose(weight[0], bias, 2, "dct")
    with pytest.raises(SettingError, match=r"bias: shape \(4, 8\)"):
        refta.tensor_svd.decompose(weight, bias[:, :8], 2, "dct")
    weight[1, 2, 3] = math.nan
    with pytest.raises(SettingError, match="not finite"):
        refta.tensor_svd.decompose(weight, bias, 2, "dct")


def test_the_given_tensors_are_left_as_they_are():
    weight, bias = stack_of("random")
    before = weight.clone(), bias.clone()
    refta.tensor_svd.decompose(weight, bias, 5, "dct")
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])
