"""Functions of the user's own put on models: predicted as they are measured, equal to refta's LoRA, and what is said where one fails."""

from dataclasses import replace

import pytest
import torch
from real_steps import measured, tiny
from user_module import folder, forget, own

from refta_profiler import own_code, workload
from refta_profiler.errors import OwnCodeError
from refta_profiler.measure import worker
from refta_profiler.predict import rows
from refta_profiler.predict.dryrun import dry_run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    yield folder(tmp_path, monkeypatch)
    forget("adapters_of_mine")


def built(function, **changes):
    return workload.build(own(function, **changes), torch.device("cpu"))


def test_what_it_adds_is_counted_and_the_rest_is_frozen_but_the_head():
    work, head = built("lora"), workload.build(tiny("roberta-tiny", "head"), torch.device("cpu"))
    lora = workload.build(tiny("roberta-tiny", "lora"), torch.device("cpu"))
    assert work.adapted.trainable_parameters == lora.adapted.trainable_parameters > 0
    trained = {name: one.numel() for name, one in work.model.named_parameters() if one.requires_grad}
    heads = {name for name, one in head.model.named_parameters() if one.requires_grad}
    assert {name for name in trained if not name.endswith((".A", ".B"))} == heads
    assert sum(trained.values()) == work.adapted.trainable_parameters + sum(trained[name] for name in heads)
    assert all(site.endswith(("query", "value")) for site in work.adapted.sites)
    assert len(work.adapted.sites) == 6  # three layers
    assert (work.adapted.method, work.adapted.order, work.adapted.shapes(), work.adapted.penalty()) == ("python", None, [], None)


def test_a_model_that_trains_no_head_is_frozen_whole_before():
    work = built("lora", model="roberta-tiny", task={"kind": "sequence-classification", "num_labels": 3, "train_head": False})
    assert sum(one.numel() for one in work.model.parameters() if one.requires_grad) == work.adapted.trainable_parameters


def test_random_draws_are_the_seeds():
    first, again, other = built("lora"), built("lora"), built("lora", seed=1)
    draws = [dict(one.model.named_parameters())["roberta.encoder.layer.0.attention.self.query.A"] for one in (first, again, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("function", "changes"), [("lora", {}), ("lora", {"checkpointing": True, "batch": 5}), ("hooks", {}), ("by_peft", {})], ids=str
)
def test_the_predicted_peak_is_the_measured_one_to_the_byte(function, changes):
    one = own(function, **changes)
    predicted, found = dry_run(one, "cpu"), measured(one)
    assert predicted.peak_allocated_bytes == found.peak_allocated_bytes
    assert predicted.static_bytes == found.static_bytes
    assert predicted.flops_by_phase == found.flops_by_phase
    assert predicted.trainable_parameters == found.trainable_parameters


@pytest.mark.parametrize("target", ["cpu", "h100"])
def test_lora_by_hand_needs_what_reftas_does(target):
    mine, theirs = dry_run(own("lora"), target), dry_run(tiny("roberta-tiny", "lora"), target)
    assert (mine.peak_allocated_bytes, mine.peak_reserved_bytes) == (theirs.peak_allocated_bytes, theirs.peak_reserved_bytes)
    assert mine.adapter_parameters == theirs.adapter_parameters


def test_its_arguments_are_its_own_and_stay_as_they_were():
    one = own("lora", arguments={"rank": 8, "targets": ["key"]})
    work = workload.build(one, torch.device("cpu"))
    assert [site.rsplit(".", 1)[-1] for site in work.adapted.sites] == ["key", "key", "key"]
    assert work.adapted.trainable_parameters == 2 * built("lora", arguments={"targets": ["key"]}).adapted.trainable_parameters
    assert one.settings["arguments"] == {"rank": 8, "targets": ["key"]}


def test_the_closed_form_says_that_there_is_none():
    closed, dry, _ = rows.predict(own("lora"), "cpu")
    assert {row.status for row in closed} == {"unsupported"}
    assert {row.note for row in closed} == {"no closed form: adapters_of_mine:lora states no network"}
    assert {row.status for row in dry if row.metric != "step_seconds"} == {"ok"}


def test_what_it_prints_is_no_answer(capsys):
    built("lora")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "attaching\n")


def predicted_failure(function):
    closed, dry, _ = rows.predict(own(function), "cpu")
    assert closed == []
    assert len({(row.status, row.note) for row in dry}) == 1
    return dry[0].status, dry[0].note


def measured_failure(one):
    with pytest.raises(Exception) as caught:
        work = workload.build(one, torch.device("cpu"))
        workload.training_step(work)
    found = worker.describe_failure(caught.value, one.settings["call"])
    return found["status"], found["note"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("broken", "ValueError: no <b>such</b> thing ("),
        ("broken", "adapters_of_mine.py:57)"),
        ("breaks_later", "adapters_of_mine.py:62)"),
        (
            "wraps",
            "adapters_of_mine:wraps returned another object, of type Sequential; it must change the model in place and return nothing",
        ),
        ("trains_nothing", "adapters_of_mine:trains_nothing leaves nothing to train"),
        ("leaves", "adapters_of_mine:leaves ends the process: SystemExit: 3 ("),
    ],
)
def test_a_failure_says_what_and_where_it_is_predicted_and_measured(function, said):
    for status, note in (predicted_failure(function), measured_failure(own(function))):
        assert status == "error"
        assert said in note


def test_what_needs_numbers_is_not_predicted_but_measured():
    status, note = predicted_failure("numbers")
    assert status == "unsupported"
    assert note.startswith("adapters_of_mine:numbers asks for the numbers of a tensor, which a prediction has none of: RuntimeError: ")
    assert measured(own("numbers")).peak_allocated_bytes == dry_run(own("lora"), "cpu").peak_allocated_bytes


def test_the_head_alone_is_said():
    work = built("head_alone")
    assert work.adapted.trainable_parameters == 0
    assert work.adapted.notes == ["adapters_of_mine:head_alone trains nothing but the head"]


def test_code_that_changed_while_a_run_went_on_is_not_measured_as_what_it_was(here):
    one = own("lora")
    planned = replace(one, settings=one.settings | {"sources": own_code.fingerprint(one.settings)})
    workload.build(planned, torch.device("cpu"))
    with open(here / "adapters_of_mine.py", "a") as file:
        file.write("# changed\n")
    with pytest.raises(OwnCodeError, match="was changed while the run went on; resume the run"):
        workload.build(planned, torch.device("cpu"))
