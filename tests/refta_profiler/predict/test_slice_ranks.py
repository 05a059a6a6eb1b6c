"""Slice ranks: those of the very weights that are measured, computed once."""

import importlib.metadata
from dataclasses import replace

import pytest
import torch
from real_steps import tiny

from refta_profiler import models, workload
from refta_profiler.errors import ScenarioError
from refta_profiler.predict import slice_ranks


def test_they_are_those_of_the_measured_model():
    point = tiny("roberta-tiny", "refta/slices")
    adapted = workload.build(point, torch.device("cpu")).adapted
    found = slice_ranks.known(point)
    assert found is not None
    assert found == {name: tuple(ranks) for name, ranks in adapted.slice_ranks.items()}
    assert {sum(ranks) for ranks in found.values()} == {5}


def test_on_a_gpu_only_orders_that_depend_on_them_have_them_and_other_methods_none():
    shared = tiny("roberta-tiny", "refta/shared")
    assert slice_ranks.known(shared) == slice_ranks.known(tiny("roberta-tiny", "refta/slices"))
    assert slice_ranks.known(shared, "h100") is None
    assert slice_ranks.known(tiny("roberta-tiny", "refta/slices"), "h100") is not None
    assert slice_ranks.known(tiny("roberta-tiny", "lora")) is None


def test_of_larger_models_only_the_order_that_depends_on_them_has_them(monkeypatch):
    monkeypatch.setattr(slice_ranks, "SMALL", 10)
    assert slice_ranks.known(tiny("roberta-tiny", "refta/shared", seed=98)) is None
    assert slice_ranks.known(tiny("roberta-tiny", "refta/slices", seed=98)) is not None
    assert slice_ranks.known(tiny("roberta-tiny", "refta/shared", seed=98)) is None  # though they are on disk now


def test_weights_that_cannot_be_loaded_fail_only_what_depends_on_them(monkeypatch):
    def fail(*_):
        raise ScenarioError("no such weights")

    monkeypatch.setattr(slice_ranks.models, "build", fail)
    assert slice_ranks.known(tiny("roberta-tiny", "refta/shared", seed=97)) is None
    with pytest.raises(ScenarioError):
        slice_ranks.known(tiny("roberta-tiny", "refta/slices", seed=97))


def test_the_second_time_they_are_read(monkeypatch):
    point = tiny("roberta-tiny", "refta/slices", seed=7)
    first = slice_ranks.known(point)
    monkeypatch.setattr(slice_ranks, "_computed", lambda point: pytest.fail("computed again"))
    assert slice_ranks.known(point) == first


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"rank": 4}, {"settings": {"rank": 5, "transform": "lsm"}}, {"targets": ["key"]}, {"precision": "bf16"}]
)
def test_other_weights_are_another_entry(change):
    assert slice_ranks._path(tiny("roberta-tiny", "refta/slices", **change)) != slice_ranks._path(tiny("roberta-tiny", "refta/slices"))


def test_weights_drawn_by_another_transformers_are_another_entry(monkeypatch):
    before = slice_ranks._path(tiny("roberta-tiny", "refta/slices"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"another {name}")
    assert slice_ranks._path(tiny("roberta-tiny", "refta/slices")) != before


def test_pretrained_weights_that_changed_in_their_folder_have_their_own(tmp_path):
    """The folder, its config and the point stay the same."""
    point = tiny("roberta-tiny", "refta/slices")
    model = models.build(point, "cpu")
    model.save_pretrained(tmp_path)
    trained = replace(point, model=str(tmp_path), weights="pretrained")
    before = slice_ranks.known(trained)
    for name, weight in model.named_parameters():
        if name.endswith("query.weight"):
            weight.data[:] = torch.eye(len(weight))  # all layers alike: only the first slice has components
    model.save_pretrained(tmp_path)
    after = slice_ranks.known(trained)
    assert before is not None and after is not None
    query = next(name for name in after if "query" in name)
    assert sum(rank > 0 for rank in before[query]) > sum(rank > 0 for rank in after[query]) == 1


def test_pretrained_weights_that_nobody_can_tell_from_others_are_not_kept(monkeypatch, tmp_path):
    point = tiny("roberta-tiny", "refta/slices")
    models.build(point, "cpu").save_pretrained(tmp_path)
    monkeypatch.setattr(slice_ranks.weight_identity, "of", lambda model: "")
    trained = replace(point, model=str(tmp_path), weights="pretrained")
    assert slice_ranks._path(trained) is None
    assert slice_ranks.known(trained) == slice_ranks.known(trained)


def test_a_model_too_large_to_build_is_assumed(monkeypatch):
    monkeypatch.setattr(slice_ranks, "LARGEST", 10)
    assert slice_ranks.known(tiny("roberta-tiny", "refta/slices", seed=99)) is None


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert slice_ranks.known(tiny("roberta-tiny", "refta/slices", seed=3)) is not None
