"""A step as data: what a page would replay, replayed here, against the dry run of the same batch."""

import json

import pytest
from model_points import point
from stored_steps import peaks

from refta_profiler import devices, scenario
from refta_profiler.commands import options
from refta_profiler.predict import slice_ranks, steps
from refta_profiler.predict.dryrun import dry_run

REFTA = {"method": "refta", "settings": {"rank": 3}, "rank": 3, "targets": ["query", "value"], "label": "refta/shared"}

PLAIN = {"model": "roberta-tiny", "methods": [{"name": "head"}], "batch": [1], "task": {"num_labels": 3}}


def refta(order, target, **changes):
    return point("roberta-tiny", order=order, target=target, **REFTA, **changes)


@pytest.mark.parametrize("target", ["h100", "cpu"])
@pytest.mark.parametrize("order", ["shared", "reconstruct"])
def test_a_step_gives_the_dry_runs_bytes_at_every_batch(order, target):
    one = refta(order, target)
    entry = json.loads(json.dumps(steps.of(one)))
    for batch in (1, 2, 5, 37):
        found = dry_run(refta(order, target, batch=batch), target, slice_ranks.known(one))
        assert peaks(entry, batch) == (found.peak_allocated_bytes, found.peak_reserved_bytes), batch
        step = entry["first" if batch == 1 else "following"]
        assert step["step_flops"][0] + step["step_flops"][1] * batch == sum(found.flops_by_phase.values())


def test_the_allocator_that_grows_is_named():
    entry = steps.of(refta("shared", "h100", allocator="expandable_segments"))
    found = dry_run(refta("shared", "h100", allocator="expandable_segments", batch=6), "h100")
    assert peaks(entry, 6) == (found.peak_allocated_bytes, found.peak_reserved_bytes)


def test_operations_are_counted_once_a_kind():
    entry = steps.of(refta("shared", "h100"))
    operations = entry["following"]["operations"]
    assert sum(operation[4] for operation in operations) > 3 * len(operations)  # of a product its shape comes behind
    assert {phase for phase, *_ in operations} == {"forward", "backward", "optimizer"}
    assert entry["rates"]["overlaps"] is (devices.get("h100").kind == "cuda")


def test_what_cannot_be_replayed_says_why():
    assert "auto" in steps.of(refta("auto", "h100"))["reason"]
    assert "nf4" in steps.of(refta("shared", "h100", weights="quantised-nf4"))["reason"]
    assert steps.of(refta("no such order", "h100"))["reason"]


def test_a_line_needs_whole_numbers():
    assert steps._line(2, 30, 4, 50) == (10, 10)
    with pytest.raises(steps.NotAffineError):
        steps._line(2, 30, 4, 51)


def test_check_is_told_what_is_not_the_default():
    loop = {"keep_outputs": "next", "use_cache": False, "attention_mask": True}
    asked = steps.asked(refta("shared", "h100", optimizer="sgd", clip=0.5, loop=loop, seed=3))
    said = [
        "task.num_labels=3",
        "optimizer=sgd",
        "clip=0.5",
        "loop.keep_outputs=next",
        "loop.attention_mask=true",
    ]
    assert (asked["step"], asked["no_option"]) == (said, ["seed"])
    assert scenario.from_values({**PLAIN, **options.step_settings(asked["step"])}, "check").loop.model_dump(exclude_none=True) == loop
    assert asked["settings"] == {"rank": 3} or asked["settings"] == {}


def test_check_cannot_be_asked_about_own_code():
    own = point("roberta-tiny", method="python", settings={"call": "mine:f", "arguments": {}}, label="python/f", order=None, rank=None)
    assert steps.asked(own) == {"settings": None, "step": [], "no_option": []}
