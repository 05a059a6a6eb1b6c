"""What the report says of what measuring costs: the marks within timed steps, and the instruments on steps of their own."""

from dataclasses import replace

import pytest
from test_looked_into import PEAKS, Stored, row

from refta_profiler.report import modules, record, time
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Table, Text


def measured(label, metric, value, *, unit="1", note="", status="ok"):
    return replace(row(label, 2), metric=metric, unit=unit, value=value, note=note, status=status)


def marked(label, fraction, low, high):
    note = f"{'within' if low <= 0 <= high else 'beyond'} noise at 95%; from 5 pairs of steps side by side"
    ends = [measured(label, f"marks_fraction_{name}", value) for name, value in (("low", low), ("high", high))]
    return [row(label, 2), measured(label, "step_seconds", 0.5, unit="s"), measured(label, "marks_fraction", fraction, note=note), *ends]


def test_every_points_marks_are_held_against_chance():
    rows = [
        *marked("refta/shared", 0.0, -0.01, 0.02),
        *marked("refta/reconstruct", 0.001, -0.002, 0.004),
        *marked("lora", 0.05, 0.02, 0.08),
    ]
    text, table = time.marks_blocks(Material(rows, scenario_text="target: cpu"), "cpu")
    assert isinstance(text, Text) and isinstance(table, Table)
    assert "at 2 of 3 points what they cost is within noise" in text.text
    assert "Over all of them it is +1.7% (95%: −5.1% to +9%)." in text.text  # by hand: ln 1, ln 1.001, ln 1.05 and t = 4.303
    assert [[cell.text for cell in cells][-4:] for cells in table.rows] == [
        ["0%", "−1%", "+2%", "within noise at 95%"],
        ["+0.1%", "−0.2%", "+0.4%", "within noise at 95%"],
        ["+5%", "+2%", "+8%", "beyond noise at 95%"],
    ]


def test_marks_of_one_pair_are_not_judged():
    rows = [row("lora", 2), measured("lora", "marks_fraction", 0.3, note="from one pair of steps, which has no interval: not judged")]
    text, table = time.marks_blocks(Material(rows, scenario_text="target: cpu"), "cpu")
    assert isinstance(text, Text) and "what they cost is not told apart from chance" in text.text
    assert isinstance(table, Table) and [cell.text for cell in table.rows[0]][-3:-1] == ["–", "–"]


def test_a_run_without_such_rows_has_no_such_table():
    assert time.marks_blocks(Material([row("lora", 2)], scenario_text="target: cpu"), "cpu") == []


OVERHEAD = {"time": 1.004, "memory": 2.0, "kernels": 9.0}


@pytest.mark.parametrize(("details", "columns"), [({"step_overhead": {"memory": 1.25}}, 3), ({}, 2)], ids=["", "of an older run"])
def test_an_instruments_step_stands_beside_its_whole_pass(details, columns):
    stored = Stored({"lora-2": {"overhead": OVERHEAD, **details}})
    (table,) = time.overhead_blocks(Material([row("lora", 2)], scenario_text="target: cpu", details=stored))
    assert isinstance(table, Table) and len(table.columns) == columns
    assert ("not held against chance" in table.caption) == (columns == 2)
    by_name = {cells[0].text: [cell.text for cell in cells[1:]] for cells in table.rows}
    assert by_name["peaks of memory"] == (["1.25", "2"] if columns == 3 else ["2"])
    assert by_name["time by operator and module"] == (["–", "9"] if columns == 3 else ["9"])


def test_an_instrument_that_failed_stands_among_what_has_no_number():
    note = "the instrument kernels failed (RuntimeError: lost)"
    rows = [*(row(label, 2) for label in PEAKS), measured("lora", "instruments_answered", None, unit="count", note=note, status="error")]
    (table,) = record.failures_section(Material(rows, scenario_text="target: cpu")).blocks
    assert isinstance(table, Table) and note in [cell.text for cell in table.rows[0]]


def kernels(clock, **more):
    times = {"module": "layers.*", "modules": 1, "calls": 1, "own_seconds": 0.3}
    times |= {"forward_seconds": 0.1, "recompute_seconds": 0.0, "backward_seconds": 0.2}
    found = {"modules": {"clock": clock, "unattributed_seconds": 0.1, "rows": [times]}}
    found |= {"operators": [{"operator": "aten::mm", "calls": 3, "seconds": 0.2}], **more}
    section = modules.kernels_section(Material([row("lora", 2)], scenario_text="target: cpu", details=Stored({"lora-2": found})))
    assert section
    return {block.key: block for block in section.blocks if isinstance(block, Table)}


def test_kernels_stand_in_a_table_of_their_own():
    found = kernels("device", device_kernels=[{"kernel": "gemm", "calls": 6, "seconds": 0.25}])
    assert [cell.text for cell in found["device-kernels"].rows[0]] == ["gemm", "250 ms", "6"]
    assert found["operators"].caption.endswith("Their time is that of the kernels that they launch.")


def test_an_older_run_on_a_gpu_is_said_to_count_twice():
    assert "the same time counts in both" in kernels("device")["operators"].caption
    found = kernels("host")
    assert "device-kernels" not in found and "both" not in found["operators"].caption
