"""A scenario multiplies out into points whose ids and labels tell them apart."""

import json
import re
from dataclasses import fields, replace

import pytest

from refta_profiler import models, scenario
from refta_profiler.errors import ScenarioError
from refta_profiler.plan import Point, aimed_at, points

BASE = {"model": "vit-tiny", "methods": [{"name": "head"}], "batch": [1, 2]}


def made(*entries, **changes):
    """The points of a scenario with these method entries."""
    values = {**BASE, **({"methods": list(entries)} if entries else {}), **changes}
    return points(scenario.from_values(values, "s"))


def labels(*entries):
    """The labels of the entries' variants, in order."""
    return [point.label for point in made(*entries, batch=[1])]


def test_everything_multiplies():
    """2 methods × 3 orders and 1, × 2 precisions × 2 checkpointing × 2 sequences × 3 batches = 4 · 24."""
    entries = [{"name": "head"}, {"name": "refta", "rank": 2, "order": ["shared", "slices", "reconstruct"]}]
    axes = {"precision": ["fp32", "bf16"], "checkpointing": [False, True], "seq": [8, 16], "batch": [1, 2, 4]}
    found = made(*entries, model="roberta-tiny", **axes)
    assert len(found) == 4 * 2 * 2 * 2 * 3
    assert len({point.id for point in found}) == len(found)
    assert [point.batch for point in found[:4]] == [1, 2, 4, 1]  # the batch varies fastest
    assert [point.label for point in found[::24]] == ["head", "refta/shared", "refta/slices", "refta/reconstruct"]


def test_vit_l_has_112_points():
    from pathlib import Path

    found = points(scenario.load(Path(__file__).parents[2] / "scenarios" / "vit_l.yaml"))
    assert len(found) == 7 * 8 * 2
    assert {point.seq for point in found} == {197}
    assert sum(point.measure_on_cpu for point in found) == 7 * 2 * 2
    assert {point.rank for point in found if point.method == "refta"} == {15}
    assert {(point.method, point.order) for point in found if point.method != "refta"} == {("head", None), ("lora", None)}


REFTA = {"name": "refta", "rank": 2}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"name": "head"}], ["head"]),
        ([{**REFTA, "order": "shared"}], ["refta/shared"]),
        ([{**REFTA, "order": "shared", "label": "ours"}], ["ours"]),
        ([{**REFTA, "order": ["shared", "slices"], "label": "ours"}], ["ours/shared", "ours/slices"]),
        ([{"name": "lora", "rank": [2, 4]}], ["lora r=2", "lora r=4"]),
        ([{"name": "lora", "rank": [2, 4], "label": "L"}], ["L r=2", "L r=4"]),
        ([{"name": "lora", "rank": 2}, {"name": "lora", "rank": 4}], ["lora r=2", "lora r=4"]),
        ([{"name": "lora", "rank": 2}, {"name": "lora", "rank": 4, "label": "wide"}], ["lora", "wide"]),
        (
            [{"name": "refta", "rank": [2, 4], "order": ["shared", "slices"]}],
            ["refta/shared r=2", "refta/slices r=2", "refta/shared r=4", "refta/slices r=4"],
        ),
        (
            [{"name": "refta", "rank": [2, 4], "transform": ["dct", "lsm"], "order": "shared"}],
            [f"refta/shared r={rank} transform={transform}" for rank in (2, 4) for transform in ("dct", "lsm")],
        ),
        (
            [{**REFTA, "order": "shared"}, {**REFTA, "order": "shared", "transform": "lsm"}],
            ["refta/shared transform=dct", "refta/shared transform=lsm"],
        ),
        (
            [{**REFTA, "order": "shared"}, {**REFTA, "order": "reconstruct", "transform": "lsm"}],
            ["refta/shared transform=dct", "refta/reconstruct transform=lsm"],
        ),
        (
            [
                {**REFTA, "order": ["shared", "reconstruct"]},
                {**REFTA, "order": "shared", "rank": 4},
                {**REFTA, "order": "slices", "label": "x"},
            ],
            ["refta/shared r=2", "refta/reconstruct r=2", "refta/shared r=4", "x"],
        ),
    ],
)
def test_labels_differ_and_say_what_differs(entries, expected):
    assert labels(*entries) == expected


def test_a_method_with_orders_always_has_one():
    (point,) = made(REFTA, batch=[1])
    assert point.order
    assert point.label == f"refta/{point.order}"
    assert {"name", "label", "order"}.isdisjoint(point.settings)


def test_a_point_says_all_of_its_cell():
    (point,) = made(
        {"name": "lora", "rank": 4}, model="gpt2-tiny", seq=[8], batch=[3], task={"num_labels": 5}, targets=["qkv"], clip=1.0, target="l4"
    )
    assert (point.model, point.method, point.rank, point.batch, point.seq, point.tokens) == ("gpt2-tiny", "lora", 4, 3, 8, 24)
    assert point.task == {"kind": "sequence-classification", "num_labels": 5, "train_head": True}
    assert (point.targets, point.clip, point.target, point.precision, point.checkpointing) == (["qkv"], 1.0, "l4", "fp32", False)
    assert point.settings["rank"] == 4


def test_points_go_through_json():
    for point in made({**REFTA, "order": ["shared", "slices"]}, {"name": "lora"}, checkpointing=[False, True]):
        assert Point.from_json(point.to_json()) == point


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', '{"id": "a"}'])
def test_a_text_that_is_no_point(text):
    with pytest.raises(ScenarioError, match="not a point's JSON"):
        Point.from_json(text)


# ---- ids


def test_ids_are_readable_file_names():
    (point,) = made({**REFTA, "order": "shared", "label": "ours: é/ü"}, batch=[8], checkpointing=[True])
    assert re.fullmatch(r"vit-tiny-ours-b8-fp32-ckpt-[0-9a-f]{8}", point.id)
    (text,) = made(model="gpt2-tiny", seq=[16], batch=[8])
    assert re.fullmatch(r"gpt2-tiny-head-b8-t16-fp32-[0-9a-f]{8}", text.id)


def test_ids_do_not_change_from_run_to_run():
    """Results are found again by id: Python's own hash of a text differs from process to process."""
    assert [point.id for point in made(REFTA)] == [point.id for point in made(REFTA)]


def test_an_id_does_not_depend_on_what_else_is_in_the_scenario_or_on_the_label():
    (alone,) = made({**REFTA, "order": "shared"}, batch=[2])
    among = made({"name": "head"}, {**REFTA, "label": "ours", "order": ["slices", "shared"]}, batch=[1, 2, 4], measure={"when": "never"})
    (found,) = [point for point in among if point.order == "shared" and point.batch == 2]
    assert found.id.rsplit("-", 1)[1] == alone.id.rsplit("-", 1)[1]


def test_an_id_does_not_depend_on_a_default_being_written_out():
    (short,), (long,) = made({"name": "refta"}, batch=[1]), made({"name": "refta", "transform": "dct"}, batch=[1])
    assert short.id == long.id


CHANGES = [
    {"model": "vit-small"},
    {"batch": [3]},
    {"target": "l4"},
    {"targets": ["query"]},
    {"seed": 1},
    {"precision": ["bf16"]},
    {"checkpointing": [True]},
    {"optimizer": "sgd"},
    {"adapter_dtype": "bfloat16"},
    {"attention": "eager"},
    {"accumulate": 2},
    {"clip": 1.0},
    {"task": {"num_labels": 3}},
    {"task": {"train_head": False}},
    {"methods": [{"name": "refta", "rank": 3, "order": "shared"}]},
    {"methods": [{"name": "refta", "rank": 2, "order": "slices"}]},
    {"methods": [{"name": "refta", "rank": 2, "order": "shared", "transform": "lsm"}]},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_id_depends_on_everything_that_determines_the_result(change):
    values = {"methods": [{**REFTA, "order": "shared"}], "batch": [1]}
    (one,), (other,) = made(**values), made(**{**values, **change})
    assert one.id.rsplit("-", 1)[1] != other.id.rsplit("-", 1)[1]


def test_an_id_depends_on_the_architecture_that_a_name_stands_for(tmp_path):
    ids = []
    for layers in (2, 3):
        config = {"model_type": "roberta", **models.presets()["roberta-tiny"]["config"], "num_hidden_layers": layers}
        (tmp_path / "config.json").write_text(json.dumps(config))
        ids += [point.id for point in made(model=str(tmp_path), batch=[1])]
    assert ids[0] != ids[1]


def test_every_field_of_a_point_is_in_its_hash_but_for_three():
    """A field added later is hashed unless it is said not to determine the result."""
    from refta_profiler.plan import NOT_IN_THE_HASH

    (point,) = made(batch=[1])
    assert {field.name for field in fields(point)} - {"id", *NOT_IN_THE_HASH} >= {"seed", "weights", "task", "targets", "settings", "order"}
    assert replace(point, label="x") != point


def test_tokens_are_not_guessed(tmp_path):
    """An image model that is not described as data has an unknown count of tokens, not a wrong one."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "swin", "architectures": ["SwinForImageClassification"], "image_size": 224})
    )
    (point,) = made(model=str(tmp_path), batch=[1])
    assert (point.seq, point.tokens) == (None, None)


def test_a_point_aimed_at_another_target_is_that_targets_own(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "model: roberta-tiny\ntask: {num_labels: 3}\nseq: [8]\ntarget: h100\nbatch: [1]\n"
        "methods: [{name: refta, rank: 5, order: [shared]}, {name: lora, rank: 2}]\n"
        "precision: [fp32, bf16]\nparallel: [{kind: ddp, world: 2}]\n"
    )
    own, others = points(scenario.load(path, [])), points(scenario.load(path, ["target=l4"]))
    architecture = models.fingerprint("roberta-tiny")
    assert [aimed_at(one, "l4", architecture) for one in own] == others
    assert [aimed_at(one, "h100", architecture) for one in own] == own
