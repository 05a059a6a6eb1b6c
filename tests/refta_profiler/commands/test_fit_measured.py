"""`fit --measure`: the largest batch by real steps, from the predicted one on."""

import pytest
from real_steps import tiny
from worker_answers import answer, failure

from refta_profiler.commands import fit, fit_measured, fit_solve
from refta_profiler.commands.fit_solve import Budget, Fit
from refta_profiler.errors import ScenarioError
from refta_profiler.measure import gpu, isolate

POINT = tiny("roberta-tiny", "lora")
BUDGET = Budget("cpu", 1000, None)


def predicted(largest):
    return Fit("lora", "lora", None, 4, False, largest, 900, 1100, "peak_allocated_bytes", "memory", {})


def steps(monkeypatch, answered):
    """Real steps that answer as told by the batch; the batches that were tried."""
    tried = []

    def measure(point, device, **_):
        tried.append(point.batch)
        return answered(point.batch)

    monkeypatch.setattr(isolate, "measure", measure)
    return tried


def peak(size):
    return answer(values={"peak_allocated_bytes": size})


def test_a_right_prediction_takes_two_steps(monkeypatch):
    tried = steps(monkeypatch, lambda batch: peak(90 * batch))
    found = fit_measured.measure(POINT, predicted(11), BUDGET, "cpu")
    assert (found.largest, found.peak_bytes, found.next_peak_bytes, sorted(tried)) == (11, 990, 1080, [11, 12])


@pytest.mark.parametrize("guess", [3, 30])
def test_a_wrong_one_is_corrected(monkeypatch, guess):
    tried = steps(monkeypatch, lambda batch: peak(90 * batch))
    found = fit_measured.measure(POINT, predicted(guess), BUDGET, "cpu")
    assert found.largest == 11
    assert len(tried) == found.steps <= 6
    assert "0 of 1" in fit_measured.text([found], BUDGET)


def test_out_of_memory_does_not_fit_whatever_its_peak(monkeypatch):
    steps(monkeypatch, lambda batch: peak(10 * batch) if batch <= 7 else failure("oom", "tried to allocate 2 GiB"))
    found = fit_measured.measure(POINT, predicted(8), BUDGET, "cpu")
    assert (found.largest, found.peak_bytes, found.next_peak_bytes) == (7, 70, None)
    assert "out of memory" in fit_measured.text([found], BUDGET)


def test_a_step_that_fails_otherwise_is_a_reason(monkeypatch):
    steps(monkeypatch, lambda batch: failure("error", "ended by signal 11 (SIGSEGV)"))
    found = fit_measured.measure(POINT, predicted(8), BUDGET, "cpu")
    assert (found.largest, found.reason) == (None, "ended by signal 11 (SIGSEGV)")
    assert "SIGSEGV" in fit_measured.text([found], BUDGET)


@pytest.mark.parametrize(("guess", "fits", "largest"), [(0, 3, 3), (None, 3, 3), (0, 0, 0)])
def test_what_has_no_predicted_batch_is_looked_for_from_one_on(monkeypatch, guess, fits, largest):
    tried = steps(monkeypatch, lambda batch: peak(90 * batch + (920 - 90 * fits)))
    monkeypatch.setattr(fit_measured, "at_hand", lambda: ("cpu", "cpu"))
    [found] = fit_measured.measure_all([POINT], [predicted(guess)], BUDGET)
    assert (found.largest, tried[0]) == (largest, 1)
    told = fit_measured.text([found], BUDGET)
    assert f"for {int(guess == largest)} of 1" in told
    assert ("batch 1 does not fit" in told) == (largest == 0)


def test_on_a_gpu_others_are_looked_for(monkeypatch):
    steps(monkeypatch, lambda batch: answer(values={"peak_reserved_bytes": 90 * batch}))
    monkeypatch.setattr(gpu, "settle", lambda setting: ("note", f"used by process 7 ({setting})"))
    found = fit_measured.measure(POINT, predicted(11), BUDGET, "cuda")
    assert (found.largest, found.note) == (11, "used by process 7 (warn)")
    assert fit_measured.text([found] * 2, BUDGET).splitlines()[-1] == found.note


@pytest.mark.parametrize(
    ("change", "words"), [({"target": "l4"}, "not on l4"), ({"target": None}, "--target cpu"), ({"solve": "rank"}, "not for rank")]
)
def test_what_cannot_be_measured_here_is_said_first(monkeypatch, change, words):
    monkeypatch.setattr(fit_measured, "at_hand", lambda: ("cpu", "cpu"))
    with pytest.raises(ScenarioError, match=words):
        fit.command(**{"model": "roberta-tiny", "memory": "1GiB", "target": "cpu", "measured": True, **change})


@pytest.mark.parametrize(("key", "written"), [("cpu", "CPU"), ("a100-80", "a100"), ("h100", "H100")])
def test_the_device_at_hand_may_be_written_by_any_of_its_names(monkeypatch, key, written):
    monkeypatch.setattr(fit_measured, "at_hand", lambda: ("cuda", key))
    fit_measured.check(fit_solve.Question("vit-tiny", "batch", "1GiB", written, ("head",), {}, 1, None, ["query"], "fp32"))
