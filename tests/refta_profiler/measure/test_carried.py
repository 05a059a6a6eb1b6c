"""What is run on a node: versions, where it was, files as bytes, and predictions with the driver's calibrations."""

import platform
from pathlib import Path

import pytest
from real_steps import tiny
from worker_answers import answer, failure

from refta_profiler import rates
from refta_profiler.measure import carried, isolate, versions
from refta_profiler.measure.executors import EXECUTOR, Process

ASKED = {"warmup": 0, "steps": 1, "passes": [], "instruments": []}


def process(device="cpu"):
    return Process(tiny("roberta-tiny", "head"), 1, device, 60.0, ASKED, {"trace": Path("/nowhere/on/a/node/p.json.gz")}, "warn")


def test_an_answer_says_where_it_is_from_and_brings_its_files(monkeypatch):
    def measure(point, device, *, files, **options):
        files["trace"].write_bytes(b"traced")
        return answer(where={"node": "a", "device": "cpu: x, 4 threads", "nice": 0})

    monkeypatch.setattr(isolate, "measure", measure)
    found = carried.measure(process(), versions.here(), "cpu: x", "10.0.0.2 (abc)")
    assert found["files"] == {"trace": b"traced"}
    assert found["where"] == {"node": "a", "device": "cpu: x, 4 threads", "nice": 0, "place": "cpu: x", "cluster_node": "10.0.0.2 (abc)"}


@pytest.mark.parametrize(("place", "device"), [("cuda: NVIDIA L4", "cuda: NVIDIA L4"), ("cpu: x", None)])
def test_a_process_that_died_is_placed_by_what_the_node_has(monkeypatch, place, device):
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: failure("oom", "killed"))
    where = carried.measure(process(), versions.here(), place, "")["where"]
    assert where.get("device") == device
    assert where["node"] == where["cluster_node"] == platform.node()


def test_other_versions_are_a_failure_that_names_them(monkeypatch):
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: pytest.fail("measured all the same"))
    found = carried.measure(process(), {**versions.here(), "torch": "1.0"}, "cpu: x", "")
    assert (found["failure"]["status"], found["failure"]["by"]) == ("error", EXECUTOR)
    assert "has other versions than the driver: torch " in found["failure"]["note"]
    assert found["failure"]["note"].endswith("the driver has 1.0")


def test_predictions_are_made_with_the_drivers_calibrations(monkeypatch):
    monkeypatch.setattr(rates, "CARRIED", {})
    carried.predict(len, [1, 2], {"cpu": None, "h100": rates.of("l4")})
    assert rates.of("cpu") is None
    assert rates.of("h100") == rates.of("l4")
    assert carried.predict(len, [1, 2], {}) == 2
