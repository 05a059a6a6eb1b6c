"""The registry of methods: the files of a folder, checked without torch."""

import subprocess
import sys

import pytest

import refta
from refta import registry
from refta.errors import SettingError

FIRST = ["full", "head", "lora", "peft", "pissa", "refta"]


def test_methods_are_the_files_of_the_folder():
    assert refta.methods() == registry.names() == sorted(registry.names())
    assert set(FIRST) <= set(refta.methods())


@pytest.mark.parametrize("name", registry.names())
def test_every_method_says_what_it_is_and_has_defaults(name):
    assert registry.summary(name)
    assert "\n" not in registry.summary(name)
    assert set(registry.check_settings(name, {})) == set(registry.setting_names(name))
    assert registry.list_settings(name) <= set(registry.setting_names(name))


@pytest.mark.parametrize("name", [name for name in registry.names() if registry.orders(name)])
def test_every_method_with_orders_answers_to_the_common_ones(name):
    assert {"published", "features", "reconstruct", "auto"} <= set(registry.orders(name))


def test_orders_of_the_first_methods():
    assert registry.orders("refta")[:5] == ["shared", "slices", "reconstruct", "reconstruct_recompute", "reconstruct_stack"]
    assert [name for name in FIRST if registry.orders(name)] == ["refta"]


def test_defaults_are_filled_in():
    defaults = {"transform": "dct", "convention": "exact", "dropout": 0.0, "train_transform": False, "transform_penalty": 0.0}
    assert registry.check_settings("refta", {"rank": 15}) == {"rank": 15, **defaults}


@pytest.mark.parametrize(
    ("name", "given", "fault"),
    [
        ("refta", {"rnk": 3}, "unknown key 'rnk'; did you mean 'rank'"),
        ("refta", {"rank": -1}, "rank: -1; it must be a whole number of at least 1"),
        ("refta", {"rank": 1.5}, "rank: 1.5"),
        ("refta", {"rank": True}, "rank: True"),
        ("lora", {"rank": "8"}, "rank: '8'"),
        ("full", {"rank": 3}, "full takes no settings"),
        ("peft", {"config": [1]}, "config a mapping"),
        ("loora", {}, "unknown method 'loora'; did you mean"),
        (3, {}, "unknown method '3'"),
    ],
)
def test_faults_are_named(name, given, fault):
    with pytest.raises(SettingError, match=fault):
        registry.check_settings(name, given)


def test_shapes_costs_and_settings_load_no_torch():
    program = """
import sys
import refta
from refta import cost, network, registry, shapes
for name in registry.names():
    registry.check_settings(name, {})
shape = shapes.StackShape("query", "query", 24, 1024, 1024)
made = registry.method("refta").network(registry.settings("refta", {"rank": 15}), shape)
print(cost.best_order(made, 197, 24), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fused", "False"]
