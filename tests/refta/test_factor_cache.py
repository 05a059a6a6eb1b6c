"""Factors kept by the hash of their weights: the same to the bit, never those of other weights, whole or not there."""

import pytest
import torch
from toy_models import adapted_stack, gradients, parallel, stack_of, vit

import refta
from refta import tensor_svd
from refta.factor_cache import FactorCache


def same(one: tensor_svd.Decomposition, other: tensor_svd.Decomposition) -> bool:
    pairs = zip(one.factors, other.factors, strict=True)
    factors = all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)
    tensors = ("transform_matrix", "slice_ranks", "residual_weight")
    return factors and all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_found_is_what_was_computed_to_the_bit(tmp_path, dtype, bias):
    weight, biases = stack_of("random", dtype=dtype)
    cache = FactorCache(tmp_path)
    plain, first, second = (tensor_svd.decompose(weight, biases if bias else None, 5, "lsm", cache=one) for one in (None, cache, cache))
    assert same(plain, first)
    assert same(plain, second)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_weights_ranks_and_transforms_are_other_files(tmp_path):
    weight, _ = stack_of("random")
    cache = FactorCache(tmp_path)
    moved = weight.clone()
    moved[3, 8, 6] = torch.nextafter(moved[3, 8, 6], torch.tensor(9.0))
    matrix = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
    for one, rank, transform in [(weight, 5, "dct"), (moved, 5, "dct"), (weight, 4, "dct"), (weight, 5, "lsm"), (weight, 5, matrix)]:
        tensor_svd.decompose(one, None, rank, transform, cache=cache)
    tensor_svd.decompose(weight.double(), None, 5, "dct", cache=cache)
    assert len(list(tmp_path.iterdir())) == 6


def test_a_broken_file_is_said_and_made_again(tmp_path):
    weight, _ = stack_of("random")
    heard: list[str] = []
    cache = FactorCache(tmp_path, heard.append)
    wanted = tensor_svd.decompose(weight, None, 5, "dct", cache=cache)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"half a fi")
    assert same(tensor_svd.decompose(weight, None, 5, "dct", cache=cache), wanted)
    assert [one for one in heard if "cannot be read and is made again" in one]
    assert same(tensor_svd.decompose(weight, None, 5, "dct", cache=cache), wanted)
    assert "found in" in heard[-1]


def test_adapt_takes_a_folder_and_gives_the_same_model(tmp_path):
    heard: list[str] = []
    models = [refta.adapt(vit(), "refta", rank=4, cache=tmp_path, progress=heard.append).model for _ in range(2)]
    for (name, one), (other_name, other) in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    assert sum("found in" in one for one in heard) == 2  # query and value
    assert len(list(tmp_path.iterdir())) == 2


def test_factors_that_were_found_are_trained_alone(tmp_path):
    """Two models of one cache share no storage."""
    first, second = (adapted_stack(cache=tmp_path).model for _ in range(2))
    with torch.no_grad():
        first.refta_adapter["query"].A.mul_(3)
    assert not torch.equal(first.refta_adapter["query"].A, second.refta_adapter["query"].A)
    second(torch.randn(3, 7)).sum().backward()
    assert gradients(first) == {}


def test_progress_hears_of_every_slice():
    weight = torch.randn(3, 208, 208, generator=torch.Generator().manual_seed(2))
    heard: list[str] = []
    refta.adapt(parallel(weight, None), "refta", targets=["query"], rank=9, progress=heard.append)
    assert heard == ["decompose query: 3 × 208 × 208", *(f"decompose query: slice {place} of 3" for place in (1, 2, 3))]
