"""The accuracy line of the claims page is what the trainings say, with seeds and items, and what they do not show."""

import pytest

from refta_profiler.report.claims_accuracy import UNMEASURED, accuracy_items
from refta_profiler.report.material import Material
from refta_profiler.task.store import Trained
from refta_profiler.task.summary import Method, Summary

ITEMS = 400


def method(label, kind, right, parameters):
    outcomes = tuple([1.0] * right + [0.0] * (ITEMS - right))
    runs = tuple(
        Trained(label, label, kind, 0.1, seed, (1.0,), 0.1, 0.1, validation=0.5, outcomes=outcomes, parameters=parameters)
        for seed in (0, 1)
    )
    return Method(label, kind, label, (0.1,), runs, (0,), (0, 1))


def words(ours, *, parameters=1_100):
    methods = [method("head", "head", 200, 100), method("lora r8", "lora", 300, 50_100), method("ours", "refta", ours, parameters)]
    shared = {"metric": "accuracy", "items": {"test": ITEMS}, "truth": None, "seeds": [0, 1], "steps": 80}
    return accuracy_items(Material([], "model: data/minilm\n", training=Summary(methods, shared)))


@pytest.mark.parametrize(
    ("right", "finding"), [(360, "reproduced here, 1 of 1"), (300, "not reproduced here, 0 of 1"), (310, "not reproduced here")]
)
def test_the_finding_is_what_the_interval_says(right, finding):
    found = words(right)
    assert finding in found[0]
    assert "(2 seeds, 400 items)" in found[0]
    assert "`ours`, 98.0% fewer than `lora r8`" in found[0]


def test_what_is_not_shown_is_said():
    assert words(300)[1].startswith(
        "What this does not show: no ViT weights and no images, which the printed table is of, one encoder (minilm)"
    )


def test_a_run_without_such_a_pair_judges_nothing():
    assert "cannot be judged" in words(360, parameters=50_000)[0]


def test_a_run_without_trainings_says_where_accuracy_is_measured():
    assert accuracy_items(Material([])) == [UNMEASURED]
