"""What all tests share: those marked `gpu` are skipped where there is no CUDA device, and libraries are no garbage."""

import gc
import sys
from collections.abc import Iterator

import pytest

_frozen_at = 0  # how many modules were loaded when what is loaded was last frozen


@pytest.fixture(autouse=True)
def libraries_are_not_collected() -> Iterator[None]:
    """What newly loaded libraries have made is not looked through any more: measuring collects garbage before it counts bytes, and each
    collection took a fifth of a second, more than the tiny step that was measured."""
    global _frozen_at
    yield
    if len(sys.modules) != _frozen_at:
        _frozen_at = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device is here"))
