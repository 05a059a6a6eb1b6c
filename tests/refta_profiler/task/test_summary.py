"""What trainings come to: the learning rate is validation's choice alone, and every comparison says what it is of."""

from dataclasses import replace

import pytest

from refta_profiler.report.claims_accuracy import fewer
from refta_profiler.run_folder import RunFolder
from refta_profiler.task import store
from refta_profiler.task.store import Trained
from refta_profiler.task.summary import Method, Summary, comparison, first_below, smooth

SEEDS = (0, 1)


def trained(rate, seed, validation, outcomes, *, label="lora", parameters=110, losses=(1.0, 0.5), failure=""):
    given = {"losses": losses, "step_seconds": 0.1, "seconds": 0.2, "validation": validation, "parameters": parameters}
    return Trained(f"point-{label}", label, label, rate, seed, outcomes=outcomes, failure=failure, **(given if not failure else {}))


def method(*runs, rates=(0.1, 0.2), lr_seeds=(0,), label="lora"):
    return Method(label, label, f"point-{label}", rates, runs, lr_seeds, SEEDS)


def test_the_learning_rate_is_the_validation_splits_choice_never_the_test_splits():
    one = method(trained(0.1, 0, 0.9, (0.0, 0.0)), trained(0.2, 0, 0.8, (1.0, 1.0)), trained(0.1, 1, 0.1, (0.0, 0.0)))
    assert one.rate == 0.1
    assert [run.outcomes for run in one.chosen] == [(0.0, 0.0), (0.0, 0.0)]


def test_of_equal_rates_the_lower_is_chosen_and_an_edge_is_said():
    one = method(trained(0.1, 0, 0.9, ()), trained(0.2, 0, 0.9, ()))
    assert (one.rate, one.at_edge) == (0.1, True)
    middle = method(*(trained(rate, 0, score, ()) for rate, score in ((0.1, 0.5), (0.2, 0.9), (0.3, 0.6))), rates=(0.1, 0.2, 0.3))
    assert (middle.rate, middle.at_edge) == (0.2, False)


def test_a_rate_at_which_training_failed_is_not_chosen():
    one = method(trained(0.1, 0, 0.5, ()), trained(0.2, 0, None, (), failure="the loss was no number"))
    assert one.rate == 0.1
    broken = method(trained(0.1, 0, None, (), failure="why"), trained(0.2, 0, None, (), failure="why"))
    assert (broken.rate, broken.chosen, broken.failure) == (None, [], "why")


def test_a_method_whose_runs_are_not_all_there_has_no_score():
    one = method(trained(0.1, 0, 0.9, (1.0,)), trained(0.2, 0, 0.8, (1.0,)))
    assert one.chosen == []


def test_losses_are_averaged_over_ten_steps():
    assert smooth([3.0, 1.0]) == [3.0, 2.0]
    losses = smooth([2.0] * 10 + [0.0] * 10)
    assert losses[9] == 2.0 and losses[14] == 1.0 and losses[19] == 0.0
    assert first_below(losses, 1.0) == 15
    assert first_below(losses, -1.0) is None
    assert first_below([0.0] + [5.0] * 20, 1.0) is None  # a single low batch is no trained model


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"),
    [
        (1000, 950, "equal parameters"),
        (200, 2000, "0.1 times the parameters"),
        (0, 1000, "parameters not comparable"),
        (None, 1000, "parameters not comparable"),
    ],
)
def test_what_two_methods_are_equal_in(ours, theirs, wanted):
    assert comparison(method(), ours, theirs) == wanted


def counted(label, adapter, head, told):
    """A method of whose numbers `adapter` are the adapter's."""
    run = trained(0.1, 0, 0.5, (1.0,), label=label, parameters=adapter + head)
    return Method(label, label, label, (0.1,), (replace(run, adapter_parameters=adapter if told else None),), (0,), (0,))


def test_a_head_as_large_as_roberta_larges_makes_no_two_adapters_equal():
    """LoRA r=1 has 98,304 numbers and ReFTA r=5 20,490, beside a head of 1,051,650: 1,149,954 and 1,072,140 in all."""
    shared = {"metric": "accuracy", "items": {"test": 1}, "truth": None, "seeds": [0]}
    pair = [counted("lora", 98_304, 1_051_650, True), counted("refta", 20_490, 1_051_650, True)]
    (found,) = Summary(pair, shared).differences
    assert found.comparison == "0.208 times the parameters"
    assert fewer(Summary(pair, shared), found) == pytest.approx(0.7916, abs=1e-4)
    older = [counted(one.label, one.adapter_parameters, 1_051_650, False) for one in pair]
    assert Summary(older, shared).differences[0].comparison == "parameters not comparable"
    head = counted("head", 0, 1_051_650, False)
    assert {one.comparison for one in Summary([*older, head], shared).differences if one.against == "lora"} == {
        "0.208 times the parameters"
    }


@pytest.fixture
def folder(tmp_path):
    """A stored run: refta is right on 90 of 100 items, lora on 80 of them, of which 80 are the same."""
    found = RunFolder.create(tmp_path, "name: x\nmodel: m\n")
    entries = []
    for label, right, parameters in (("head", 50, 100), ("lora", 80, 1100), ("pissa", 90, 1100), ("refta", 90, 1090)):
        files = []
        for seed in SEEDS:
            outcomes = tuple([1.0] * right + [0.0] * (100 - right))
            name = store.file_name(f"point-{label}", 0.1, seed, ["x"])
            store.write(found, name, trained(0.1, seed, 0.5, outcomes, label=label, parameters=parameters))
            files.append(name)
        entries.append({"label": label, "method": label, "point": f"point-{label}", "rates": [0.1], "files": files})
    same = {"metric": "accuracy", "items": {"train": 10, "validation": 5, "test": 100}, "truth": None, "to_loss": 0.7, "steps": 2}
    store.write_shared(found, {**same, "seeds": list(SEEDS), "lr_seeds": 1, "batch": 4, "majority": 0.5, "methods": entries})
    return found


def test_what_was_stored_is_what_was_trained(folder):
    summary = Summary.of(folder)
    assert summary.named("lora").chosen[1].outcomes == tuple([1.0] * 80 + [0.0] * 20)
    assert {label: found.value for label, found in summary.intervals.items()} == {"head": 0.5, "lora": 0.8, "pissa": 0.9, "refta": 0.9}


def test_outcomes_and_differences(folder):
    found = {(one.subject, one.against): one for one in Summary.of(folder).differences}
    assert (
        set(found)
        == {
            ("refta", "head"),
            ("refta", "lora"),
            ("refta", "pissa"),
            ("lora", "head"),
            ("lora", "pissa"),
            ("pissa", "head"),
        }
        or ("pissa", "lora") in found
    )
    assert found["refta", "lora"].outcome == "better"
    assert found["refta", "lora"].interval.value == pytest.approx(0.1)
    assert found["refta", "pissa"].outcome == "the same"
    assert found["refta", "pissa"].comparison == "equal parameters"
    assert found["refta", "head"].comparison == "the head alone"


def test_pissa_at_equal_parameters_is_the_comparison_that_decides(folder):
    assert Summary.of(folder).decisive("refta").against == "pissa"


def test_a_run_stored_before_adapters_were_counted_is_read():
    one = trained(0.1, 0, 0.5, (1.0,))
    before = {name: value for name, value in one.to_json().items() if name != "adapter_parameters"}
    assert Trained.from_json(before) == one


def test_predictions_of_numbers_are_stored_as_numbers():
    one = trained(0.1, 0, 0.5, (0.25, -1.5))
    assert Trained.from_json(one.to_json()).outcomes == (0.25, -1.5)
    assert trained(0.1, 0, 0.5, (1.0, 0.0)).to_json()["outcomes"] == "10"
