"""Modules followed through their forwards, and the names that layers share."""

import pytest
import torch
from torch import nn

from refta_profiler.measure import modules


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("vit.layers.3.attention.q_proj", "vit.layers.*.attention.q_proj"),
        ("layer.11.experts.0", "layer.*.experts.*"),
        ("conv2d.weight1", "conv2d.weight1"),
        ("7", "*"),
    ],
)
def test_numbers_that_count_layers_are_replaced(name, shared):
    assert modules.pattern(name) == shared


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("broken")


def test_the_stack_follows_forwards_and_leaves_nothing_behind():
    model, stack, seen = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU())), modules.ModuleStack(), []
    model[1][0].register_forward_pre_hook(lambda module, inputs: seen.append(list(stack.names)))
    with stack.following(model):
        model(torch.ones(1, 2))
    assert seen == [["(model)", "1"]]  # our hook came later
    assert stack.names == []
    assert not any(one._forward_hooks or (one is not model[1][0] and one._forward_pre_hooks) for one in model.modules())


def test_a_forward_that_raises_is_left_too():
    model, stack = nn.Sequential(Broken()), modules.ModuleStack()
    with stack.following(model), pytest.raises(ValueError, match="broken"):
        model(torch.ones(1))
    assert stack.names == []
    assert stack.innermost == modules.ROOT
