"""What a scenario's `parallel` may say, what of it a point has, and that points without it stay what they were."""

import json

import pytest

from refta_profiler import parallel, plan, scenario
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import setting_of
from refta_profiler.plan import Point
from refta_profiler.results import Row, from_csv, to_csv

TINY = {"model": "roberta-tiny", "methods": [{"name": "head"}], "batch": [2], "target": "cpu"}


def points(**values):
    return plan.points(scenario.from_values({**TINY, **values}, "x"))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (None, ""),
        ("none", ""),
        ("ddp:2", "ddp:2"),
        ({"kind": "ddp", "world": 2}, "ddp:2"),
        ({"kind": "ddp", "world": 3, "gradient_as_bucket_view": True}, "ddp:3:view"),
        ("ddp:3:view", "ddp:3:view"),
        ({"kind": "fsdp", "world": 4}, "fsdp:4"),
    ],
)
def test_an_entry_has_one_text(entry, text):
    assert parallel.checked(entry) == text
    found = parallel.read(text)
    assert (found.text if found else "") == text


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("dpp:2", "unknown kind 'dpp'; did you mean 'ddp'? there is ddp and fsdp"),
        ("ddp", "world is missing"),
        ("ddp:two", "says no parallelism; write {kind: ddp, world: 2}"),
        ("ddp:2:views", "says no parallelism"),
        ({"kind": "ddp", "world": 0}, "world: 0; it is the number of ranks, a whole number of at least 1"),
        ({"kind": "ddp", "world": True}, "world: True"),
        ("fsdp:-1", "world: -1"),
        ({"kind": "ddp", "worlds": 2}, "unknown key 'worlds'; did you mean 'world'?"),
        ({"kind": "fsdp", "world": 2, "gradient_as_bucket_view": True}, "an option of ddp"),
        ({"kind": "ddp", "world": 2, "gradient_as_bucket_view": "yes"}, "true or false"),
        ({"world": 2}, "kind is missing"),
        (2, "2 says no parallelism"),
    ],
)
def test_a_wrong_entry_is_named_with_what_would_be_right(entry, words):
    with pytest.raises(ScenarioError) as error:
        points(parallel=entry)
    assert str(error.value).startswith("x: parallel: ") and words in str(error.value)


def test_two_wrong_entries_are_both_named_and_one_twice_is_too():
    with pytest.raises(ScenarioError) as error:
        points(parallel=["ddp:0", "gpu:2"])
    assert "x: parallel[0]: world: 0" in str(error.value) and "x: parallel[1]: unknown kind 'gpu'" in str(error.value)
    with pytest.raises(ScenarioError, match="'ddp:2' is there 2 times; write it once"):
        points(parallel=["ddp:2", {"kind": "ddp", "world": 2}])


def test_points_of_one_process_are_what_they_were():
    (before,), (alone,) = points(), points(parallel="none")
    assert before.id == alone.id == "roberta-tiny-head-b2-t64-fp32-" + before.id[-8:]
    quickstart = scenario.load("scenarios/quickstart.yaml")
    assert plan.points(quickstart)[0].id == "vit-tiny-head-b1-fp32-865a9b61"  # as before there was `parallel`
    assert "parallel" not in quickstart.text


def test_ranks_are_an_axis_and_stand_in_the_id():
    found = points(parallel=["none", "ddp:2", "ddp:2:view", "fsdp:2"])
    assert [one.parallel for one in found] == ["", "ddp:2", "ddp:2:view", "fsdp:2"]
    assert "-fp32-ddp2-" in found[1].id and "-ddp2-view-" in found[2].id and "-fsdp2-" in found[3].id
    assert len({one.id for one in found}) == 4 and len(plan.variants(found)) == 4
    assert scenario.from_values({**TINY, "parallel": ["none", "ddp:2"]}, "x").parallel == ["none", "ddp:2"]


def test_a_point_from_before_is_one_process():
    (one,) = points(parallel="ddp:2")
    assert Point.from_json(one.to_json()) == one
    older = {key: value for key, value in json.loads(one.to_json()).items() if key != "parallel"}
    assert Point.from_json(json.dumps(older)).parallel == ""


def test_rows_carry_it_as_part_of_their_setting():
    one, other = (Row.of(point, "cpu", "dryrun", "tokens", 1) for point in points(parallel=["none", "ddp:2"]))
    assert from_csv(to_csv([one, other])) == [one, other]
    assert setting_of(one) != setting_of(other) and one.cell != other.cell
    older = {key: value for key, value in one.to_dict().items() if key != "parallel"}
    assert Row.from_dict(older) == one


def test_it_is_told_in_words():
    assert parallel.words("") == "" and parallel.words("ddp:1") == "DDP over 1 rank"
    assert parallel.words("ddp:2:view") == "DDP over 2 ranks, gradients as bucket views"
    assert parallel.words("fsdp:4") == "FSDP2 over 4 ranks"
