"""The settings as they are told to people: every one with a meaning, its default and what it takes, and docs/scenario.md up to date."""

from pathlib import Path

import pytest

from refta import registry
from refta_profiler import reference, scenario
from refta_profiler.reference import NESTED

DOCS = Path(__file__).parents[2] / "docs" / "scenario.md"
ENTRIES = {one.key: one for one in reference.scenario()}


def test_the_page_is_made_from_the_settings():
    assert DOCS.read_text(encoding="utf-8") == reference.markdown(), "run make docs"


def test_every_setting_says_what_it_is_for():
    assert [one.key for one in ENTRIES.values() if not one.meaning] == []
    assert {key.split(".")[0] for key in ENTRIES} == set(scenario.Scenario.model_fields)


@pytest.mark.parametrize(
    ("key", "takes", "default"),
    [
        ("batch", "whole number from 1, or a list", ""),
        ("name", "text", "the file's name"),
        ("precision", "one of fp32, bf16, amp-bf16, or a list", "[fp32]"),
        ("measure.instruments", "a list of timeline, saved, kernels, module_flops", "[timeline, saved, kernels, module_flops]"),
        ("measure.on_cpu.budget_s", "number above 0", "300"),
        ("loop.keep_outputs", "one of false, true, next", "false"),
        ("seed", "whole number from 0 below 2**63", "0"),
        ("data", NESTED, "not given"),
        ("measure", NESTED, ""),
        ("train.lr", "a mapping to number above 0, or a list", "{default: [0.0001, 0.0003, 0.001, 0.003]}"),
    ],
)
def test_what_a_setting_takes(key, takes, default):
    assert (ENTRIES[key].takes, ENTRIES[key].default) == (takes, default)


@pytest.mark.parametrize("name", registry.names())
def test_every_method_explains_each_of_its_settings(name):
    words = reference.about(name)
    for one in reference.method(name):
        assert one.key in words or one.key == "dropout"  # which the page explains for all


def test_a_methods_settings():
    found = {one.key: (one.takes, one.default) for one in reference.method("tt_lora")}
    assert found["input_factors"] == ("a list of whole number", "not given")
    assert found["alpha"] == ("number", "1")
    assert {one.key: one.default for one in reference.method("peft")} == {"type": "LORA", "config": "{}"}
