"""measure/rows.py: an answer, or a failure, as rows."""

from real_steps import tiny

from refta_profiler.measure import isolate, rows

POINT = tiny("roberta-tiny", "lora")


def measure(monkeypatch, answer):
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: answer)
    return rows.measure(POINT, "cpu", "cpu", warmup=1, steps=2, repeats=3, limit_s=10)


def test_every_value_is_a_row(monkeypatch):
    found = measure(monkeypatch, {"values": {"peak_allocated_bytes": 100, "step_seconds": 0.5}})
    assert [(row.metric, row.value, row.unit, row.source, row.status) for row in found] == [
        ("peak_allocated_bytes", 100, "B", "measured", "ok"),
        ("step_seconds", 0.5, "s", "measured", "ok"),
    ]
    assert found[1].note == "median of 3 × 2 steps"


def test_a_failure_is_rows_without_values_and_with_the_reason(monkeypatch):
    found = measure(monkeypatch, {"failure": {"status": "oom", "note": "killed"}})
    assert [row.metric for row in found] == ["peak_allocated_bytes", "step_seconds"]
    assert {(row.value, row.status, row.note) for row in found} == {(None, "oom", "killed")}
