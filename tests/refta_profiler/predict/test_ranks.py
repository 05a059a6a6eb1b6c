"""FSDP2's view from one rank, on a fake process group, against counts by hand; and what cannot be sharded."""

import math
from dataclasses import replace

import pytest
import torch
from real_steps import tiny

from refta.errors import SettingError
from refta_profiler import distributed, models, plan, scenario, workload
from refta_profiler.predict import rows
from refta_profiler.predict.dryrun import dry_run, follow


def padded(one, world):
    """Bytes of a rank's shard: dim 0 is cut into equal parts, the last of them padded."""
    return 4 * math.ceil(one.shape[0] / world) * math.prod(one.shape[1:])


@pytest.mark.parametrize(("label", "world"), [("refta/shared", 3), ("lora", 2)])
def test_a_rank_holds_its_shards_and_sends_what_is_gathered_and_scattered(label, world):
    """Frozen weights are gathered too: all once, the blocks' again in backward. ReFTA's shared factors are the root's: gathered once."""
    one = tiny("roberta-tiny", label)
    model = models.build_on_meta(one)
    with torch.device("meta"):
        workload.attach(model, one)
    found = dry_run(replace(one, parallel=f"fsdp:{world}"), "cpu")
    parameters = list(model.parameters())
    shards = sum(padded(each, world) for each in parameters)
    buffers = sum(each.nbytes for each in model.buffers())
    states = sum(8 * math.ceil(each.shape[0] / world) * math.prod(each.shape[1:]) + 4 for each in parameters if each.requires_grad)
    batch = sum(each.nbytes for each in models.batch(one, "meta").values())
    assert found.static_bytes == shards + buffers + states + batch
    within = [each for block in distributed.blocks(model) for each in block.parameters()]
    trained = [each for each in parameters if each.requires_grad]
    gathered = sum(padded(each, world) for each in [*parameters, *within])
    assert found.sent_bytes == (world - 1) * (gathered + sum(padded(each, world) for each in trained))


@pytest.mark.parametrize("how", ["ddp:2", "fsdp:2"])
def test_a_rank_on_a_gpu_computes_what_one_process_does(how):
    """What stands in for CUDA's attention tells of itself, so that a warm-up's would be counted with the step's."""
    one = tiny("roberta-tiny", "lora")
    alone, rank = (follow(replace(one, parallel=parallel), "h100") for parallel in ("", how))
    attention = [[work.name for work in found.operations if work.name.startswith("attention")] for found in (alone, rank)]
    assert attention[0] == attention[1] != []
    assert rank.flops_by_phase == alone.flops_by_phase


def test_a_process_group_that_is_there_is_left_alone(tmp_path):
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(SettingError, match="has a process group already"):
            dry_run(replace(tiny("roberta-tiny", "lora"), parallel="fsdp:2", seed=5), "cpu")
        assert dist.get_backend() == "gloo"
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("label", "changes", "words"),
    [
        ("refta/reconstruct_stack", {}, "folds the weights of all blocks at once"),
        ("refta/shared", {"precision": "bf16"}, "trained in bfloat16 and float32"),
    ],
)
def test_what_cannot_be_sharded_is_a_row_with_its_reason(label, changes, words):
    _, dry, _ = rows.predict(replace(tiny("roberta-tiny", label), parallel="fsdp:2", **changes))
    notes = {row.note for row in dry if row.status == "unsupported" and row.metric == "peak_allocated_bytes"}
    assert len(notes) == 1 and words in notes.pop()


def test_a_closed_form_of_what_is_sent_is_the_adapters_alone():
    point = plan.points(
        scenario.from_values(
            {"model": "roberta-tiny", "methods": [{"name": "lora", "rank": 4}], "batch": 2, "target": "cpu", "parallel": "ddp:2"}, "x"
        )
    )[0]
    closed, dry, _ = rows.predict(point)
    (own,) = [row.value for row in closed if row.metric == "communicated_bytes"]
    (whole,) = [row.value for row in dry if row.metric == "communicated_bytes"]
    (count,) = [row.value for row in closed if row.metric == "adapter_parameters"]
    assert own == 4 * count < whole
