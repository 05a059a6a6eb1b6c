"""Versions of nodes against the driver's."""

import importlib.metadata

from refta_profiler.measure import versions


def test_what_is_here_is_like_itself(monkeypatch):
    here = versions.here()
    assert set(here) == {"python", "torch", "transformers", "peft", "refta_profiler"}
    assert versions.unlike(here, here) == ""
    assert versions.sources() == here["refta_profiler"]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu130")
    assert versions.version("torch") == "2.13.0"  # how it was built is the node's own


def test_what_differs_is_named():
    driver = {"python": "3.11", "torch": "2.13.0", "peft": "0.21.2"}
    assert versions.unlike(driver, {**driver, "torch": "2.12.0"}) == "torch 2.12.0, the driver has 2.13.0"
    words = versions.unlike(driver, {"python": "3.12", "torch": "2.13.0"})
    assert words == "python 3.12, the driver has 3.11; peft not installed, the driver has 0.21.2"
