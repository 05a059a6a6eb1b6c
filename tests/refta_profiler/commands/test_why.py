"""`why`: signed causes that sum to the difference, one source for both, and messages that name the points there are."""

from pathlib import Path

import pytest

from refta_profiler.commands import why
from refta_profiler.errors import ScenarioError
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder

SAME = {"model": "m", "method": "refta", "rank": 4, "batch": 8, "seq": 16, "precision": "fp32", "checkpointing": False}
PARTS = ("peak_allocated_bytes", "peak_weights_bytes", "peak_activations_bytes", "peak_reconstructed_bytes")
DRY = {
    "one-shared": dict(zip(PARTS, (1000, 600, 400, 0), strict=True)),
    "two-reconstruct": dict(zip(PARTS, (1180, 600, 380, 200), strict=True)),
}
MEASURED = {
    "one-shared": {"peak_allocated_bytes": 1010, "step_seconds": 1.0, "forward_seconds": 0.4, "backward_seconds": 0.5},
    "two-reconstruct": {"peak_allocated_bytes": 1190, "step_seconds": 0.8, "forward_seconds": 0.3, "backward_seconds": 0.45},
}


def rows_of(values, source, target):
    return [
        Row(point=point, label=point, order=None, target=target, source=source, metric=name, unit=METRICS[name].unit, value=value, **SAME)
        for point, metrics in values.items()
        for name, value in metrics.items()
    ]


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.create(tmp_path, "name: x\n")
    for rows, place in ((rows_of(DRY, "dryrun", "h100"), "dryrun"), (rows_of(MEASURED, "measured", "cpu"), "measured")):
        for point in DRY:
            folder.write_point(point, place, [row for row in rows if row.point == point])
    return folder.path


def by_name(found, of):
    return {one["name"]: one["difference"] for one in found.data if one["kind"] == "cause" and one["of"] == of}


def test_the_causes_sum_to_the_difference(run):
    found = why.command(run, "one-shared", "two-reconstruct")
    peak = by_name(found, "peak_allocated_bytes")
    assert list(peak.values()) == [200, -20]
    assert sum(peak.values()) == 180
    step = by_name(found, "step_seconds")
    assert sum(step.values()) == pytest.approx(-0.2)
    assert step["not attributed"] == pytest.approx(-0.05)


def test_the_source_that_knows_the_parts_is_taken(run):
    totals = {one["metric"]: one["source"] for one in why.command(run, "one", "two").data if one["kind"] == "total"}
    assert totals == {"peak_allocated_bytes": "dryrun", "step_seconds": "measured"}


def test_the_end_of_a_name_before_its_hash_is_enough():
    ids = ["m-a-b8-fp32-00000001", "m-a-b8-fp32-ckpt-00000002", "m-a-b18-fp32-00000003"]
    assert why.point_of(ids, "a-b8-fp32", Path("run")) == ids[0]


@pytest.mark.parametrize(("given", "words"), [("three", "it has one-shared, two-reconstruct"), ("-", "a part of 2 points")])
def test_a_point_that_is_not_there_or_not_alone_is_named(run, given, words):
    with pytest.raises(ScenarioError, match=words):
        why.command(run, given, "two")


def test_points_of_which_nothing_is_known_are_an_error(tmp_path):
    folder = RunFolder.create(tmp_path, "name: x\n")
    row = Row(point="p", label="p", order=None, target="h100", source="dryrun", metric="tokens", unit="count", value=3, **SAME)
    folder.write_point("p", "dryrun", [row])
    with pytest.raises(ScenarioError, match="were both points run"):
        why.command(folder.path, "p", "p")
