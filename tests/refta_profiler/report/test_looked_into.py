"""The sections made from details: which points they look into, and what they say of them."""

from typing import Any

import pytest

from refta_profiler.report import modules, pair, timeline
from refta_profiler.report.document import document_of
from refta_profiler.report.material import Material
from refta_profiler.report.writers.html import render
from refta_profiler.results import Row

MIB = 2**20
PEAKS = {"refta/shared": 100, "refta/reconstruct": 120, "lora": 101}


def row(label, batch, target="cpu"):
    method, _, order = label.partition("/")
    shared: dict[str, Any] = {
        "model": "m",
        "label": label,
        "method": method,
        "order": order or None,
        "rank": 4,
        "batch": batch,
        "seq": None,
    }
    shared |= {"precision": "fp32", "checkpointing": False, "target": target, "source": "measured"}
    return Row(
        point=f"{label}-{batch}".replace("/", "-"), metric="peak_allocated_bytes", unit="B", value=PEAKS[label] * MIB * batch, **shared
    )


def a_timeline(rebuilt):
    names = ("weights", "adapter", "gradients", "optimizer", "activations", "reconstructed", "temporary", "workspace", "batch")
    values = {name: [0] * 4 for name in names} | {"weights": [60 * MIB] * 4, "activations": [0, 30 * MIB, 10 * MIB, 0]}
    values |= {"reconstructed": [0, rebuilt, 0, 0], "batch": [MIB] * 4}
    at_peak = {name: column[1] for name, column in values.items()}
    ends = [["forward", 1], ["backward", 2], ["optimizer", 3]]
    phases = ["forward", "forward", "backward", "optimizer"]
    seconds = [0.0, 0.1, 0.3, 0.31]
    whole = {"seconds": seconds, "phase": phases, "bytes": values, "ends": ends, "peak_index": 1}
    return whole | {"peak_bytes": sum(at_peak.values()), "at_peak": at_peak}


def details_of(rebuilt):
    saved = {"kept_bytes": 31 * MIB, "saved_bytes": 30 * MIB, "held_bytes": MIB, "modules": [], "references": []}
    saved["layers"] = [{"module": f"layers.*.part{index}", "modules": 2, "bytes": 2 * MIB, "tensors": 4} for index in range(15)]
    saved["held"] = [{"what": "a Python number", "module": "(model)", "bytes": MIB, "blocks": 1}]
    times = {"module": "layers.*", "modules": 2, "calls": 2, "forward_seconds": 0.1, "recompute_seconds": 0.0, "backward_seconds": 0.2}
    flops = {
        "reason": "",
        "total": {"ours": 3e9, "fvcore": 2e9},
        "modules": [{"module": "layers.*", "modules": 2, "ours": 3e9, "fvcore": 2e9}],
    }
    flops |= {"difference": [{"family": "attention", "ours": 1e9, "fvcore": 0, "why": "no formula"}], "operations": {}}
    flops |= {"uncounted": {"neither": {"gelu": 2}, "ours": {}, "fvcore": {}}}
    return {
        "timeline": a_timeline(rebuilt),
        "saved": saved,
        "modules": {"clock": "host", "unattributed_seconds": 0.1, "rows": [times | {"own_seconds": 0.3}]},
        "operators": [{"operator": "aten::mm", "calls": 3, "seconds": 0.2}],
        "module_flops": flops,
    }


class Stored:
    """Details by point, which counts how often each was read."""

    def __init__(self, points):
        self.points, self.read = points, []

    def __call__(self, point):
        self.read.append(point)
        return self.points.get(point, {})


@pytest.fixture
def stored():
    found = {f"refta-shared-{batch}": details_of(0) for batch in (1, 2, 4)}
    return Stored(found | {f"refta-reconstruct-{batch}": details_of(9 * MIB) for batch in (1, 2, 4)})


@pytest.fixture
def material(stored):
    rows = [row(label, batch) for batch in (1, 2, 4) for label in PEAKS]
    return Material(rows, scenario_text="target: cpu", details=stored)


def test_the_decisive_two_at_the_middle_batch_are_looked_into(material, stored):
    found = pair.looked_into(material, "timeline")
    assert [one.label for one in found] == ["refta/shared", "refta/reconstruct"]
    assert {one.setting.batch for one in found} == {2}
    assert stored.read == ["refta-shared-2", "refta-reconstruct-2"]  # and no other


def test_another_batch_stands_in_where_the_middle_one_has_nothing(material, stored):
    for name in list(stored.points):
        if name.endswith("-2"):
            stored.points[name] = {"timeline": {"reason": "no event tree"}}
    assert {one.setting.batch for one in pair.looked_into(material, "timeline")} == {4}


@pytest.mark.parametrize(("batches", "order"), [([1, 2, 4, 8], [2, 4, 1, 8]), ([3], [3]), ([], [])])
def test_batches_from_the_middle(batches, order):
    assert pair.from_the_middle(batches) == order


def test_a_run_without_details_has_no_such_sections(material, stored):
    stored.points.clear()
    for section in (timeline.timeline_section, modules.kept_section, modules.kernels_section):
        assert section(material) is None


def test_both_timelines_stand_on_one_scale_above_the_weights(material):
    figure = timeline.timeline_section(material).blocks[0]
    first, second = figure.panels
    assert first.y_range == second.y_range
    assert 0 < first.y_range[0] < 60
    assert first.y_label == "MiB (from 58.2 MiB on)"
    assert second.peak == (100.0, 100.0, "peak 100 MiB")
    assert "rebuilt weights" in second.stacks and "rebuilt weights" not in first.stacks
    assert "differ most in rebuilt weights: 0 B against 9 MiB" in figure.caption


def test_thinning_keeps_the_peak_and_the_ends():
    many = 2000
    totals = [index % 7 for index in range(many)]
    totals[777] = 1000
    found = {"bytes": {"temporary": totals}, "peak_index": 777, "ends": [["forward", 1001], ["optimizer", many - 1]]}
    chosen = timeline.thinned(found)
    assert {0, 777, 1001, many - 1} <= set(chosen)
    assert len(chosen) <= timeline.DRAWN + 10


def test_kept_by_module_sums_up_what_is_past_the_first(material):
    text, table = modules.kept_section(material).blocks
    assert "`refta/shared` keeps 31 MiB from forward for backward, most of it `layers.*.part0` (2 MiB)" in text.text
    names = [cells[0].text for cells in table.rows]
    assert names[-3:] == ["3 more", "not saved by autograd: a Python number in (model)", "in all"]
    assert sum(cells[1].value for cells in table.rows[:-1]) == table.rows[-1][1].value == 31 * MIB


def test_times_are_shares_and_both_counts_of_flops_are_told(material):
    section = modules.kernels_section(material)
    tables = {block.key: block for block in section.blocks if hasattr(block, "rows")}
    assert set(tables) == {"modules-0", "modules-1", "operators", "module-flops-0"}
    assert tables["modules-0"].rows[0][3].text == "75%"
    text = section.blocks[-2].text
    assert "3 GFLOP by our count and 2 GFLOP by fvcore's" in text.replace("3.000", "3").replace("2.000", "2")
    assert "attention" in text and "Counted by neither: `gelu`" in text


def test_without_fvcore_the_reason_is_told(material, stored):
    for details in stored.points.values():
        details["module_flops"]["total"]["fvcore"] = None
        details["module_flops"]["modules"][0]["fvcore"] = None
        details["module_flops"]["reason"] = "fvcore is not installed"
    assert "there is none by fvcore: fvcore is not installed" in modules.kernels_section(material).blocks[-2].text


def test_the_page_shows_them(material):
    page = render(document_of(material))
    assert 'id="timeline"' in page and 'id="kept-modules"' in page and 'id="kernels"' in page
    assert "var(--k6)" in page
