import pytest
import torch

from refta_profiler.task import quantisation


def test_int8_has_a_scale_a_row():
    weight = torch.tensor([[1.27, 0.634, -1.27], [127.0, 63.4, 0.0]], dtype=torch.float64)
    assert quantisation.int8(weight).tolist() == [pytest.approx([1.27, 0.63, -1.27]), pytest.approx([127.0, 63.0, 0.0])]


def test_int4_has_a_scale_a_block_of_64():
    weight = torch.zeros(1, 128, dtype=torch.float64)
    weight[0, 0], weight[0, 1], weight[0, 64], weight[0, 65] = 7.0, 3.4, 70.0, 34.0
    found = quantisation.int4(weight)[0]
    assert found[[0, 1, 64, 65]].tolist() == pytest.approx([7.0, 3.0, 70.0, 30.0])


def test_nf4_takes_the_nearest_of_its_levels():
    """0.3 of 2 is 0.15, between 0.0796 and 0.1609; −2 is the lowest level itself."""
    weight = torch.tensor([[2.0, 0.3, -2.0, 0.0]], dtype=torch.float64)
    assert quantisation.nf4(weight)[0].tolist() == pytest.approx([2.0, 2 * 0.16093020141124725, -2.0, 0.0])


def test_every_level_of_nf4_is_kept_as_it_is():
    levels = torch.tensor([quantisation.NF4], dtype=torch.float64)
    assert torch.equal(quantisation.nf4(levels), levels)
    assert list(quantisation.NF4) == sorted(quantisation.NF4) and len(quantisation.NF4) == 16


@pytest.mark.parametrize("name", quantisation.QUANTISERS)
def test_rows_that_fill_no_block_and_rows_of_zeros(name):
    weight = torch.randn(3, 70, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    found = quantisation.QUANTISERS[name](weight)
    assert found.shape == weight.shape
    assert torch.equal(found[1], weight[1])


def test_the_squared_error_by_hand():
    """int8 of [1.27, 0.634] is off by 0.004 in one number."""
    weight = torch.tensor([[1.27, 0.634]], dtype=torch.float64)
    assert quantisation.squared_error(weight, quantisation.int8) == pytest.approx(0.004**2)


def test_fewer_levels_err_more():
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
    errors = {name: quantisation.squared_error(weight, one) for name, one in quantisation.QUANTISERS.items()}
    assert errors["int8"] < errors["nf4"] < errors["int4"]
