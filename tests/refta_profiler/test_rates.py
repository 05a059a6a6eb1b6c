"""Rates: what is taken of a datasheet, and a calibration that is kept and goes before it."""

import json
from dataclasses import replace

import pytest

from refta_profiler import devices, rates
from refta_profiler.commands import calibrate
from refta_profiler.errors import HardwareError, ScenarioError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_gpu_has_shares_of_its_datasheets_peaks():
    found, card = rates.of("h100"), devices.get("h100")
    assert found is not None and not found.calibrated and found.overlaps
    assert found.matmul_flops["bfloat16"] == [(0.0, rates.MATMUL_SHARE * (card.peak_flops["bf16"] or 0))]
    assert found.matmul_flops["float32"] == [(0.0, 0.73 * (card.peak_flops["fp32"] or 0))] == found.full_waves["float32"]
    assert found.bandwidth == rates.BANDWIDTH_SHARE * (card.bandwidth_bytes_per_second or 0)


def test_a_dtype_that_a_card_has_no_units_for_has_no_rate():
    found = rates.of("t4")
    assert found is not None and "bfloat16" not in found.matmul_flops


def test_the_cpu_has_none_until_it_is_calibrated():
    assert rates.of("cpu") is None


def test_a_calibration_goes_before_the_datasheet_and_by_any_alias():
    card = rates.of("h100")
    assert card is not None
    rates.store("h100", replace(card, bandwidth=1e12, calibrated=True))
    again = rates.of("H100-SXM") if "h100-sxm" in devices.get("h100").aliases else rates.of("h100")
    assert again is not None and again.calibrated and again.bandwidth == 1e12


def test_a_calibration_of_before_has_the_multiprocessors_of_its_card():
    card = rates.of("h100")
    assert card is not None
    path = rates.store("h100", replace(card, calibrated=True, matmul_flops={"float32": [(2.0 * 4096**3, 4e13)]}))
    path.write_text(json.dumps({name: one for name, one in json.loads(path.read_text()).items() if name != "multiprocessors"}))
    again = rates.of("h100")
    assert again is not None and again.multiprocessors == 132
    assert again.full_waves == {"float32": [(2.0 * 4096**3, pytest.approx(4e13 / (1024 / 1056)))]}


def test_a_broken_calibration_is_named():
    path = rates.path("cpu")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ScenarioError, match=r"calibration.cpu\.json: not a calibration"):
        rates.of("cpu")


def test_calibrate_measures_this_cpu_and_keeps_it():
    answer = calibrate.command("cpu")
    (data,) = answer.data
    assert data["target"] == "cpu" and data["calibrated"] and not data["overlaps"]
    assert all(rate > 1e7 for _, rate in data["matmul_flops"]["float32"]) and data["bandwidth"] > 1e7  # any machine does more
    assert 0 < data["view_seconds"] < data["host_seconds"]["backward"] * 100
    assert data["measured_on"]["device"].startswith("cpu: ")
    assert json.loads(rates.path("cpu").read_text())["bandwidth"] == data["bandwidth"]
    assert "TFLOP/s" in answer.text and str(rates.path("cpu")) in answer.text
    assert rates.of("cpu") is not None


@pytest.mark.parametrize(("device", "error"), [("gpu", ScenarioError), ("cuda", HardwareError)])
def test_devices_that_there_are_not(device, error):
    with pytest.raises(error):
        calibrate.command(device)


@pytest.mark.parametrize(("flops", "expected"), [(1e5, 1e10), (1e6, 1e10), (1e7, 2e10), (1e8, 3e10), (1e12, 3e10)])
def test_the_rate_of_a_product_lies_between_those_measured(flops, expected):
    assert rates.rate([(1e6, 1e10), (1e8, 3e10)], flops) == pytest.approx(expected)
    assert rates.rate([(0.0, 5e12)], flops) == 5e12
