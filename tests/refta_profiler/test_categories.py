"""The rule that sorts a step's blocks."""

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.categories import category_of, rebuilt_shapes


@pytest.mark.parametrize(
    ("shape", "phases", "category"),
    [
        ((4, 4), ("forward", "backward"), "reconstructed"),
        ((2, 4), ("forward", "backward"), "activations"),
        ((2, 4), ("forward", None), "activations"),
        (None, ("forward", "forward"), "temporary"),
        (None, ("backward", None), "temporary"),
    ],
)
def test_blocks_are_sorted_by_what_they_were_seen_as_and_how_long_they_live(shape, phases, category):
    assert category_of(shape, phases, {(4, 4)}) == category


@pytest.mark.parametrize(("label", "stacked"), [("refta/shared", None), ("refta/reconstruct", False), ("refta/reconstruct_stack", True)])
def test_what_an_order_rebuilds(label, stacked):
    found = rebuilt_shapes(workload.build(tiny("roberta-tiny", label), torch.device("cpu")))
    assert ((32, 32) in found) == (stacked is not None)
    assert ((3, 32, 32) in found) == bool(stacked)
