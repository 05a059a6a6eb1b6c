"""Mode-3 transforms."""

import math

import numpy as np
import pytest
import torch
from toy_models import TRANSFORMS, stack_of

from refta import transforms
from refta.errors import SettingError


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("layers", [1, 2, 5, 6, 24])
def test_every_named_transform_is_orthogonal(name, layers):
    stack, _ = stack_of("random", layers=layers)
    phi = transforms.matrix(name, stack)
    assert phi.shape == (layers, layers)
    assert torch.allclose(phi.T @ phi, torch.eye(layers, dtype=torch.float64), atol=1e-12)


def test_the_names_are_those_of_the_registry_of_transforms():
    assert sorted(transforms.NAMES) == sorted(TRANSFORMS)


def test_dct_of_two_layers_is_the_hand_written_one():
    wanted = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    assert torch.allclose(transforms.matrix("dct", torch.zeros(2, 3, 3)), wanted, atol=1e-15)


def test_dct_is_the_transposed_orthonormal_dct_2():
    """Element (j, k) of DCT-II: √(2/K) cos(π(k + ½)j/K), row 0 divided by √2. K = 3, j = 1, k = 0: √(2/3) cos(π/6) = √½."""
    phi = transforms.matrix("dct", torch.zeros(3, 2, 2))
    assert phi[0, 1].item() == pytest.approx(math.sqrt(0.5))
    assert phi[1, 1].item() == pytest.approx(0.0, abs=1e-15)
    assert phi[:, 0].tolist() == pytest.approx([math.sqrt(1 / 3)] * 3)


def test_identity_does_not_mix_layers():
    assert torch.equal(transforms.matrix("identity", torch.zeros(4, 2, 2)), torch.eye(4, dtype=torch.float64))


def test_dft_real_of_four_layers_is_constant_cosine_sine_alternation():
    half = math.sqrt(0.5)
    wanted = torch.tensor([[0.5, half, 0, 0.5], [0.5, 0, half, -0.5], [0.5, -half, 0, 0.5], [0.5, 0, -half, -0.5]], dtype=torch.float64)
    assert torch.allclose(transforms.matrix("dft_real", torch.zeros(4, 2, 2)), wanted, atol=1e-12)


def test_lsm_is_the_left_singular_basis_of_the_mode_3_unfolding():
    stack, _ = stack_of("random", dtype=torch.float64)
    phi = transforms.matrix("lsm", stack)
    left, values, _ = torch.linalg.svd(stack.reshape(len(stack), -1), full_matrices=False)
    assert torch.allclose((phi.T @ left).abs(), torch.eye(4, dtype=torch.float64), atol=1e-9)
    slices = torch.einsum("kj,knd->jnd", phi, stack)
    assert torch.allclose(slices.flatten(1).norm(dim=1), values, atol=1e-9)


def test_lsm_captures_the_most_energy_in_the_first_slice():
    """Correlated layers: a common matrix and a little noise."""
    stack, _ = stack_of("random", layers=6)
    stack = stack[:1] * torch.tensor([1.0, -2.0, 3.0, 1.0, 0.5, 2.0])[:, None, None] + 0.1 * stack
    energy = {name: _first_slice_energy(name, stack) for name in ("lsm", "dct", "identity")}
    assert energy["lsm"] > 0.9 > energy["dct"]
    assert energy["lsm"] > energy["identity"]


def _first_slice_energy(name: str, stack: torch.Tensor) -> float:
    slices = torch.einsum("kj,knd->jnd", transforms.matrix(name, stack).float(), stack)
    return float(slices[0].square().sum() / stack.square().sum())


def test_hosvd_is_an_alias_of_lsm():
    stack, _ = stack_of("random")
    assert torch.equal(transforms.matrix("hosvd", stack), transforms.matrix("lsm", stack))


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_an_explicit_matrix_is_taken_as_it_is(make):
    phi = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    assert torch.equal(transforms.matrix(make(phi), torch.zeros(4, 2, 2)), torch.as_tensor(phi))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("dtc", "unknown name 'dtc'; there are dct"),
        (torch.eye(3), r"the matrix is \(3, 3\); a stack of 4 layers needs \(4, 4\)"),
        (torch.ones(4, 4), "not orthogonal"),
        (torch.full((4, 4), math.nan), "not orthogonal"),
        (object(), "neither a name"),
    ],
)
def test_what_is_no_transform_is_refused(given, fault):
    with pytest.raises(SettingError, match=fault):
        transforms.matrix(given, torch.zeros(4, 2, 2))
