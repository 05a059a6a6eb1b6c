"""What torch does on CUDA, by its release."""

import pytest
import torch

from refta_profiler.predict.releases import FROM, release


@pytest.mark.parametrize(
    ("version", "row"),
    [
        ("2.8.0", (2, 8)),
        ("2.9.1+cu128", (2, 9)),
        ("2.13.0+cpu", (2, 12)),
        ("2.14.1", (2, 14)),
        ("2.16.0a0+gitabc", (2, 15)),
        ("2.6.0", (2, 8)),
    ],
)
def test_the_row_is_the_last_that_is_not_later(version, row):
    assert release(version) is FROM[row]


def test_the_installed_torch_is_the_default():
    assert release() is release(torch.__version__)


def test_large_workspaces_came_with_hopper_and_blackwell():
    assert [release(version).large_workspaces for version in ("2.11", "2.12", "2.14")] == [(9,), (9, 10, 12), (9, 10, 11, 12)]
