"""A point's workload on fake tensors has the shapes, strides, dtypes and ties of the real one."""

import pytest
import torch
from real_steps import METHODS, TARGETS, tiny
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from refta_profiler import workload
from refta_profiler.predict import fake


def described(tensors):
    return {name: (tuple(one.shape), one.stride(), one.dtype, one.requires_grad) for name, one in tensors}


@pytest.mark.parametrize("label", ["lora", "refta/shared"])
@pytest.mark.parametrize("model", TARGETS)
def test_parameters_and_buffers_are_those_of_the_real_model(model, label):
    point = tiny(model, label)
    work = fake.build(point, FakeTensorMode(), foreach=False)
    real = workload.build(point, torch.device("cpu"))
    assert described(work.model.named_parameters()) == described(real.model.named_parameters())
    assert described(work.model.named_buffers()) == described(real.model.named_buffers())
    assert {name: (one.shape, one.dtype) for name, one in work.batch.items()} == {
        name: (one.shape, one.dtype) for name, one in real.batch.items()
    }
    assert work.adapted.sites == real.adapted.sites


@pytest.mark.parametrize("label", METHODS)
def test_everything_is_fake(label):
    work = fake.build(tiny("roberta-tiny", label), FakeTensorMode(), foreach=False)
    held = [one for tensors in work.static_tensors().values() for one in tensors]
    assert held
    assert all(isinstance(one, FakeTensor) for one in held)


def test_tied_weights_stay_one():
    model = fake.build(tiny("gpt2-tiny", "full"), FakeTensorMode(), foreach=False).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
