"""A workload made one rank's: what torch refuses is told from what merely failed, and where a model goes that is sharded."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed import device_mesh, fsdp

from refta.errors import SettingError
from refta_profiler import distributed
from refta_profiler.workload import Workload

FAILURES = [torch.distributed.DistBackendError("NCCL error"), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("peer is gone")]


def raising(error):
    def refuse(*_, **__):
        raise error

    return refuse


def small():
    model = nn.Linear(2, 2)
    optimizer, adapted = torch.optim.SGD(model.parameters()), SimpleNamespace(attached=None)
    return Workload(None, model, adapted, optimizer, {"x": torch.empty(1, device="meta")})


@pytest.mark.parametrize(("error", "seen"), [(ValueError("two kinds"), SettingError), *((one, type(one)) for one in FAILURES)])
def test_a_failure_is_no_refusal(monkeypatch, error, seen):
    """A broken NCCL or a full GPU must not read as a setting that torch does not support."""
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", raising(error))
    with pytest.raises(seen):
        distributed._wrapped(nn.Linear(2, 2), view=False)
    monkeypatch.setattr(fsdp, "fully_shard", raising(error))
    with pytest.raises(seen):
        distributed.shard(small(), None)


@pytest.mark.parametrize("said", list(distributed.REFUSALS))
def test_what_torch_says_in_a_forward_is_said_in_our_words(said):
    with pytest.raises(SettingError) as caught:
        distributed.explained(raising(RuntimeError(f"{said}: and more")))()
    assert str(caught.value) == distributed.REFUSALS[said]
    with pytest.raises(RuntimeError, match="another"):
        distributed.explained(raising(RuntimeError("another")))()


def test_the_ranks_are_on_the_batchs_device(monkeypatch):
    """The model is elsewhere until it is sharded."""
    monkeypatch.setattr(device_mesh, "init_device_mesh", lambda *asked: asked)
    assert distributed.mesh_of(small(), 2) == ("meta", (2,))


def test_plain_tensors_go_along():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].fixed = torch.ones(3)
    distributed.take_along(model, torch.device("meta"))
    assert model[0].fixed.is_meta and not model[0].weight.is_meta


def test_so_do_those_in_a_dict_and_one_of_two_modules_stays_one():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].fixed = model[1].fixed = torch.ones(3)
    model[0].indices = {"default": torch.ones(2)}
    distributed.take_along(model, torch.device("meta"))
    assert model[0].indices["default"].is_meta
    assert model[0].fixed is model[1].fixed and model[0].fixed.is_meta
