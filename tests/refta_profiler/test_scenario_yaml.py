"""Scenarios are read as YAML 1.2, and written so that a YAML 1.1 reader reads them alike."""

import pytest
import yaml

from refta_profiler import scenario_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-2", -2),
        ("007", 7),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("0x10", "0x10"),
        ("2024-01-02", "2024-01-02"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("~", None),
        ("-", [None]),
        ("-x", "-x"),
        (".", "."),
        ("'1'", "1"),
        (".inf", float("inf")),
    ],
)
def test_words_and_numbers(text, value):
    assert scenario_yaml.parse(text, "here") == value


@pytest.mark.parametrize(
    "value", ["1e-3", "yes", "true", "null", "7", "a: b", "", "1_000", "12:30", 1e-5, 1e20, 3, True, None, "é", [1, "2"], {"a": {}}]
)
def test_what_is_written_is_read_back(value):
    text = scenario_yaml.write({"key": value})
    assert scenario_yaml.parse(text, "here") == {"key": value}
    if not isinstance(value, float):
        assert yaml.safe_load(text) == {"key": value}


def test_merge_keys_of_yaml_work():
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n"
    assert scenario_yaml.parse(text, "here")["other"] == {"a": 1, "b": 3}
