"""Which module keeps what: the sum against the dry run to the byte, attribution on modules whose saved tensors are known."""

import pytest
import torch
from real_steps import METHODS, TARGETS, tiny
from torch import nn

from refta_profiler import models, workload
from refta_profiler.measure import saved_tensors
from refta_profiler.measure.events import Block
from refta_profiler.predict import dryrun, slice_ranks

FEW = [  # the rest is marked slow
    ("roberta-tiny", "refta/shared", False),
    ("roberta-tiny", "refta/reconstruct_stack", True),
    ("gpt2-tiny", "lora", False),
    ("llama-tiny", "full", True),
]


def taken(point):
    work = workload.build(point, torch.device("cpu"))
    with models.without_packing():
        workload.training_step(work)
        return saved_tensors.saved_tensors(work, lambda mark: workload.training_step(work, mark))


def assert_as_predicted(point):
    found = taken(point)
    dry = dryrun.dry_run(point, "cpu", slice_ranks.known(point))
    assert found["kept_bytes"] == dry.kept_bytes
    assert found["saved_bytes"] + found["held_bytes"] == found["kept_bytes"]
    for part, whole in (("layers", "saved_bytes"), ("modules", "saved_bytes"), ("held", "held_bytes")):
        assert sum(one["bytes"] for one in found[part]) == found[whole]


@pytest.mark.parametrize(("model", "label", "checkpointing"), FEW)
def test_what_modules_keep_adds_up_to_what_was_predicted(model, label, checkpointing):
    assert_as_predicted(tiny(model, label, batch=1, checkpointing=checkpointing))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("label", METHODS)
@pytest.mark.parametrize("model", TARGETS)
def test_so_it_does_everywhere(model, label, checkpointing):
    if label == "head" and "causal-lm" in models.task_kinds(model):
        pytest.skip("there is no head to train")
    assert_as_predicted(tiny(model, label, batch=2, checkpointing=checkpointing))


@pytest.mark.parametrize("keep", [False, True, "next"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_so_it_does_of_the_first_forward_whatever_the_loop_keeps(keep, accumulate):
    loop = {"keep_outputs": keep, "use_cache": True, "attention_mask": False}
    assert_as_predicted(tiny("gpt2-tiny", "lora", seq=24, loop=loop, accumulate=accumulate))


def test_layers_are_counted_together_and_parameters_apart():
    found = taken(tiny("roberta-tiny", "refta/shared"))
    query = next(one for one in found["layers"] if one["module"] == "roberta.encoder.layer.*.attention.self.query")
    assert query["modules"] == 3
    weights = next(one for one in found["references"] if one["module"] == "roberta.encoder.layer.*.intermediate.dense")
    assert weights["bytes"] == 3 * 64 * 32 * 4  # the frozen weights, for the gradient of their input


def test_under_checkpointing_blocks_keep_their_inputs_and_the_generators_states():
    found = taken(tiny("roberta-tiny", "full", checkpointing=True))
    layers = next(one for one in found["layers"] if one["module"] == "roberta.encoder.layer.*")
    assert (layers["modules"], layers["bytes"]) == (3, 3 * 2 * 8 * 32 * 4)
    states = next(one for one in found["held"] if "generator" in one["what"])
    assert (states["blocks"], states["bytes"]) == (3, 3 * torch.get_rng_state().nbytes)


def test_a_storage_counts_where_it_was_first_saved_and_as_long_as_it_is_kept():
    model, x = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False)), torch.ones(2, 4)
    saved = saved_tensors.SavedStorages()
    with saved.following(model):
        y = model(x)
    owners = saved.owners()
    assert owners[x.data_ptr()] == "0"
    assert owners[model[2].weight.data_ptr()] == "2"
    assert list(owners.values()).count("1") == 1  # tanh's result, which the next linear saves too
    y.sum().backward()  # which lets go of what was kept
    assert saved.owners() == {}


def test_what_is_held_otherwise_is_named():
    assert saved_tensors.what(Block(1, 4, "forward", "aten::nll_loss_forward")) == "result of aten::nll_loss_forward"
    assert saved_tensors.what(Block(1, 8, "forward")) == "a Python number"
    assert saved_tensors.what(Block(1, 77, "forward")) == "made outside of operations"


def test_the_split_by_hand():
    kept = [Block(1, 100, "forward", "aten::mm"), Block(2, 50, "forward", "aten::mm"), Block(3, 4, "forward", "aten::sum", "head")]
    found = saved_tensors.split(kept, {1: "layer.0.mlp", 2: "layer.1.mlp"})
    assert (found["kept_bytes"], found["saved_bytes"], found["held_bytes"]) == (154, 150, 4)
    assert found["layers"] == [{"module": "layer.*.mlp", "modules": 2, "bytes": 150, "tensors": 2}]
    assert found["held"] == [{"what": "result of aten::sum", "module": "head", "bytes": 4, "blocks": 1}]
