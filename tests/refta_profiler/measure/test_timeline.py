"""The timeline of a step: by hand, against the profiler's peak, and its categories against the dry run's to the byte."""

import warnings

import pytest
import torch
from real_steps import METHODS, TARGETS, tiny

from refta_profiler import models, workload
from refta_profiler.categories import CATEGORIES
from refta_profiler.measure import memory, timeline
from refta_profiler.measure.events import Block, Change, Recording
from refta_profiler.predict import dryrun, slice_ranks

FEW = [  # the rest is marked slow
    ("roberta-tiny", "refta/reconstruct", False),
    ("roberta-tiny", "refta/reconstruct_stack", True),
    ("gpt2-tiny", "lora", True),
    ("llama-tiny", "refta/shared", False),
    ("llama-tiny", "full", False),
]


def taken(point):
    work = workload.build(point, torch.device("cpu"))
    with models.without_packing():
        workload.training_step(work)
        peak = memory.cpu_peak(work, lambda: workload.training_step(work))
        return peak, timeline.timeline(work, lambda mark: workload.training_step(work, mark))


def assert_as_predicted(point):
    peak, found = taken(point)
    dry = dryrun.dry_run(point, "cpu", slice_ranks.known(point))
    assert found["peak_bytes"] == sum(found["at_peak"].values()) == peak
    assert found["at_peak"] == dry.by_category


@pytest.mark.parametrize(("model", "label", "checkpointing"), FEW)
def test_what_is_live_at_the_peak_is_what_was_predicted(model, label, checkpointing):
    assert_as_predicted(tiny(model, label, batch=1, checkpointing=checkpointing))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("label", [label for label in METHODS if label != "full"])
@pytest.mark.parametrize("model", TARGETS)
def test_so_it_is_everywhere(model, label, checkpointing):
    if label == "head" and "causal-lm" in models.task_kinds(model):
        pytest.skip("there is no head to train")
    assert_as_predicted(tiny(model, label, batch=2, checkpointing=checkpointing))


@pytest.mark.parametrize(("accumulate", "checkpointing"), [(1, False), (2, False), (1, True)])
def test_so_it_is_where_a_step_finds_the_outputs_of_the_one_before(accumulate, checkpointing):
    loop = {"keep_outputs": "next", "use_cache": True, "attention_mask": False, "transformers": "4.46"}
    assert_as_predicted(tiny("gpt2-tiny", "lora", seq=24, loop=loop, accumulate=accumulate, checkpointing=checkpointing))


@pytest.mark.parametrize("changes", [{"optimizer": "sgd"}, {"clip": 1.0, "accumulate": 2}, {"precision": "amp-bf16"}])
def test_so_it_is_in_other_loops(changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of TF32 on Intel's GPUs whenever the flags are set
        with torch.backends.mkldnn.flags(enabled=False):  # its scratch is not predicted
            assert_as_predicted(tiny("roberta-tiny", "refta/reconstruct", **changes))


def test_its_samples_hold_the_peak_and_the_ends_of_phases():
    _, found = taken(tiny("roberta-tiny", "refta/reconstruct_stack"))
    totals = [sum(values) for values in zip(*found["bytes"].values(), strict=True)]
    assert len(totals) == len(found["seconds"]) == len(found["phase"]) <= timeline.SAMPLES
    assert totals[found["peak_index"]] == max(totals) == found["peak_bytes"]
    assert [phase for phase, _ in found["ends"]] == ["forward", "backward", "optimizer"]
    assert [found["phase"][index] for _, index in found["ends"]] == ["forward", "backward", "optimizer"]
    assert found["seconds"] == sorted(found["seconds"])
    assert set(found["bytes"]) == set(CATEGORIES)
    assert min(min(values) for values in found["bytes"].values()) >= 0


def blocks(*entries):
    """A recording of (block, sign) entries, a millisecond apart, all in forward."""
    return Recording(
        [Change(block, sign, index / 1000, "forward") for index, (block, sign) in enumerate(entries)], [("forward", len(entries))]
    )


def test_by_hand():
    kept, brief = Block(1, 100, "forward"), Block(2, 30, "forward", died=2, died_phase="forward")
    recording = blocks((kept, 1), (brief, 1), (brief, -1))
    before = dict.fromkeys(CATEGORIES, 0) | {"weights": 1000}
    found = timeline.sampled(recording, before, lambda block: timeline.sort(block, {}, set()), samples=100)
    assert found["seconds"] == [0.0, 0.0, 0.001, 0.002]
    assert found["bytes"]["activations"] == [0, 100, 100, 100]
    assert found["bytes"]["temporary"] == [0, 0, 30, 0]
    assert (found["peak_bytes"], found["peak_index"]) == (1130, 2)
    assert timeline.peak_values(found)["peak_temporary_bytes"] == 30


def test_what_kept_outputs_hold_on_a_gpu_is_activations_until_the_step_frees_it():
    """700 of the 900 bytes that no tensor is known of are the graph's of the outputs before, 300 bytes; the step frees both."""
    old, beside, new = Block(1, 300), Block(2, 700), Block(3, 50, "forward")
    recording = blocks((new, 1), (old, -1), (beside, -1))
    before = dict.fromkeys(CATEGORIES, 0) | {"activations": 300, "workspace": 900}
    found = timeline.sampled(recording, timeline.with_beside(before, recording), lambda block: "activations", samples=100)
    assert found["bytes"]["activations"] == [1000, 1050, 750, 50]
    assert set(found["bytes"]["workspace"]) == {200}
    assert found["at_peak"]["activations"] == 1050


def test_nothing_is_moved_where_all_that_is_freed_was_known():
    before = dict.fromkeys(CATEGORIES, 0) | {"activations": 300, "workspace": 900}
    for freed in (300, 100):
        assert timeline.with_beside(before, blocks((Block(1, freed), -1))) == before


def test_few_samples_still_hold_the_peak():
    brief = [Block(index, 10, "forward", died_phase="forward") for index in range(500)]
    high = Block(999, 1000, "forward", died_phase="forward")
    middle = [(high, 1), (high, -1)]
    recording = blocks(
        *[(block, sign) for block in brief[:250] for sign in (1, -1)], *middle, *[(b, s) for b in brief[250:] for s in (1, -1)]
    )
    found = timeline.sampled(recording, dict.fromkeys(CATEGORIES, 0), lambda block: "temporary", samples=20)
    assert found["peak_bytes"] == 1000
    assert len(found["seconds"]) <= 21


def test_what_outlives_the_step_is_told_by_address():
    block = Block(7, 10, "backward")
    assert timeline.sort(block, {"gradients": {7}, "optimizer": set()}, set()) == "gradients"
    assert timeline.sort(Block(7, 10, "backward", died=3, died_phase="backward"), {"gradients": {7}}, set()) == "temporary"
    assert timeline.sort(Block(8, 10, "backward", shape=(4, 4)), {"gradients": {7}}, {(4, 4)}) == "reconstructed"


def test_a_step_that_allocates_nothing():
    found = timeline.sampled(Recording(), dict.fromkeys(CATEGORIES, 0), lambda block: "temporary", samples=10)
    assert (found["peak_bytes"], found["seconds"]) == (0, [0.0])
