"""Predictions against what an H100 measured: peaks of tests/data/h100, each of a process of its own with torch 2.11.

Reserved bytes are held where the model came to the GPU as in a run.
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import BeitConfig

from refta_profiler import plan, rates, scenario
from refta_profiler.plan import Point
from refta_profiler.predict import dryrun, releases, roofline, slice_ranks
from refta_profiler.run_folder import RunFolder
from refta_profiler.workload import PHASES

PEAKS = Path(__file__).parents[2] / "data" / "h100" / "peaks.jsonl"
RUNS = Path(__file__).parents[3] / "reports" / "published" / "gpu"
FAST = "llama-3.2-1b-refta-reconstruct-b4-t1024-bf16-ckpt"  # of the recorded points, the one that is not slow
ROWS = [json.loads(line) for line in PEAKS.read_text(encoding="utf-8").splitlines()]
POINTS = [(Point.from_json(json.dumps(row["point"])), row["measured"]) for row in ROWS]


@pytest.fixture(autouse=True)
def as_torch_2_11(monkeypatch):
    """The facts of the release that measured, whichever is installed."""
    monkeypatch.setattr(releases, "FROM", {known: found for known, found in releases.FROM.items() if known <= (2, 11)})
    dryrun._sweep_of.cache_clear()
    yield
    dryrun._sweep_of.cache_clear()


def predicted(point: Point) -> dryrun.DryRun:
    return dryrun.dry_run(point, "h100", slice_ranks.known(point))


def few(points):
    """One point of each smaller model in each precision."""
    small = [one for one in points if one[0].model not in ("vit-huge", "vit-large", "llama-3.2-1b")]
    return list({(point.model, point.precision): (point, measured) for point, measured in small}.values())


def held(point: Point, measured: dict[str, int]) -> None:
    found = predicted(point)
    assert found.peak_allocated_bytes == pytest.approx(measured["peak_allocated_bytes"], rel=ALLOCATED)
    for phase in PHASES:
        assert found.peak_by_phase[phase] == pytest.approx(measured[f"{phase}_peak_bytes"], rel=ALLOCATED)
    assert found.static_bytes == pytest.approx(measured["static_bytes"], rel=ALLOCATED)
    if "peak_reserved_bytes" in measured:
        assert found.peak_reserved_bytes == pytest.approx(measured["peak_reserved_bytes"], rel=RESERVED)


ALLOCATED, RESERVED = 0.005, 0.0065  # the worst are 0.50% (RoBERTa-B in bf16 with checkpointing, 2 MiB) and 0.64% (ViT-H in amp-bf16)
HOST_TABLE = 310_784  # BEiT's indices of relative positions, 197² of 8 bytes, which are made on the host and are predicted on the GPU


@pytest.mark.parametrize(("point", "measured"), [pytest.param(*one, id=one[0].id) for one in few(POINTS)])
def test_a_point_of_every_model_and_precision(point, measured):
    held(point, measured)


def recorded():
    """The points of the runs that were recorded on an H100, each with what was measured by metric."""
    for run in sorted(RUNS.iterdir()):
        measured = {}
        for row in RunFolder(run).rows():
            if row.source == "measured":
                measured.setdefault(row.point, {})[row.metric] = row.value
        yield from ((point, measured[point.id]) for point in plan.points(scenario.load(run / "scenario.yaml")))


RECORDED = [pytest.param(*one, id=one[0].id, marks=[] if FAST in one[0].id else pytest.mark.slow) for one in recorded()]


@pytest.mark.parametrize(("point", "measured"), RECORDED)
def test_what_is_allocated_is_exact_and_what_for(point, measured):
    found = predicted(point)
    bytes_ = {f"peak_{name}_bytes": size for name, size in found.by_category.items()}
    bytes_ |= {f"{phase}_peak_bytes": size for phase, size in found.peak_by_phase.items()}
    bytes_ |= {"peak_allocated_bytes": found.peak_allocated_bytes, "static_bytes": found.static_bytes}
    assert bytes_ == {name: measured[name] for name in bytes_}
    assert found.peak_reserved_bytes == pytest.approx(measured["peak_reserved_bytes"], rel=0.004)


@pytest.mark.parametrize(
    ("method", "precision"),
    [("full", "fp32"), ("full", "amp-bf16"), pytest.param("lora", "amp-bf16", marks=pytest.mark.slow)],
)
def test_a_model_whose_biases_of_attention_are_trained_is_exact_but_for_a_table_on_the_host(method, precision, tmp_path):
    settings = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768, "num_labels": 10}
    BeitConfig(**settings, use_relative_position_bias=True, architectures=["BeitForImageClassification"]).save_pretrained(tmp_path)
    rows = [json.loads(line) for line in PEAKS.with_name("beit.jsonl").read_text(encoding="utf-8").splitlines()]
    (row,) = [one for one in rows if (one["point"]["method"], one["point"]["precision"]) == (method, precision)]
    found = predicted(replace(Point.from_json(json.dumps(row["point"])), model=str(tmp_path)))
    measured = row["measured"]
    predictions = {"peak_allocated_bytes": found.peak_allocated_bytes, "static_bytes": found.static_bytes}
    predictions |= {f"{phase}_peak_bytes": size for phase, size in found.peak_by_phase.items()}
    assert {name: size - measured[name] for name, size in predictions.items()} == dict.fromkeys(predictions, HOST_TABLE)


def waited_for(point):
    """Seconds of a step that is timed phase by phase, with a wait for the device behind each: so the float32 points were."""
    operations, known = dryrun.follow(point, "h100", slice_ranks.known(point)).operations, rates.of("h100")
    assert known is not None
    return sum(roofline.estimate([one for one in operations if one.phase == phase], known).seconds for phase in PHASES)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "measured"), RECORDED)
def test_a_steps_time_is_as_far_off_as_is_said(point, measured):
    found = predicted(point).time
    assert found is not None
    seconds = waited_for(point) if point.precision == "fp32" else found.seconds
    low, high = limits(point)
    assert low <= seconds / measured["step_seconds"] - 1 <= high


def limits(point):
    """How far off, from the datasheet, as trust.yaml says."""
    if point.precision != "fp32":
        return (-0.28, -0.27) if point.checkpointing else (-0.22, -0.1)
    return (-0.325, 0.0) if point.order == "slices" else (-0.14, 0.031)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "measured"), [pytest.param(*one, id=one[0].id) for one in POINTS])
def test_every_point(point, measured):
    held(point, measured)


@pytest.mark.slow
def test_differences_of_reserved_bytes_are_surer_than_verdicts_need():
    """A verdict tells apart from 1% on, and from twice the error of a predicted difference on (design.md)."""
    alike = {}
    for point, measured in POINTS:
        if "peak_reserved_bytes" in measured and point.method != "full":  # of which some blocks are not predicted: 20 MiB
            setting = replace(point, id="", label="", method="", settings={}, rank=None, order=None, targets=[])
            alike.setdefault(setting.to_json(), []).append((predicted(point).peak_reserved_bytes, measured["peak_reserved_bytes"]))
    errors = [
        abs((ours - theirs) - (mine - other)) / other
        for group in alike.values()
        for (ours, mine), (theirs, other) in itertools.combinations(group, 2)
    ]
    assert len(errors) > 200
    assert max(errors) < 0.005
    assert sorted(errors)[len(errors) * 9 // 10] == 0
