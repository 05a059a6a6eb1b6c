"""The page on the printed numbers: counts with their convention, the headline for what it is, and the memory claim from rows alone."""

import pytest

from refta_profiler.report import claims
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Items, Table
from refta_profiler.report.printed import COUNTS, ROBERTA_L, VIT_H, VIT_L
from refta_profiler.results import METRICS, Row

REFTA = {"peak_allocated_bytes": 600, "peak_weights_bytes": 400, "peak_activations_bytes": 200, "peak_reconstructed_bytes": 0}
HEAVY = {"peak_allocated_bytes": 1000, "peak_weights_bytes": 400, "peak_activations_bytes": 210, "peak_reconstructed_bytes": 390}
LIGHT = {"peak_allocated_bytes": 605, "peak_weights_bytes": 400, "peak_activations_bytes": 205, "peak_reconstructed_bytes": 0}


def row(label, method, metric, value):
    setting = {"model": "roberta-large", "rank": 5, "batch": 1, "seq": 128, "precision": "fp32", "checkpointing": False}
    same = {"point": label, "label": label, "method": method, "order": "published", "target": "h100", "source": "dryrun"}
    return Row(metric=metric, unit=METRICS[metric].unit, value=value, **setting, **same)


def material(name="claims-rte", **candidates):
    rows = [row(label, label.split("/")[0], metric, value) for label, metrics in candidates.items() for metric, value in metrics.items()]
    return Material(rows, f"name: {name}\ntarget: h100\n")


def blocks(made, kind):
    section = claims.claims_section(made)
    assert section is not None
    return [block for block in section.blocks if isinstance(block, kind)]


def test_another_scenario_has_no_such_page():
    assert claims.claims_section(material(name="vit_l", refta=REFTA)) is None


@pytest.mark.parametrize(
    ("model", "method", "settings", "roles", "expected"),
    [
        (VIT_L, "refta", {"rank": 15}, ("query", "value"), 61_470),
        (VIT_H, "refta", {"rank": 5}, ("query", "value"), 25_610),
        (ROBERTA_L, "lora", {"rank": 1}, ("query", "value"), 98_304),
        (VIT_L, "loretta_adp", {"bottleneck": 64, "tensor_rank": 5}, ("output", "down"), 132_864),
        (VIT_H, "loretta_adp", {"bottleneck": 64, "tensor_rank": 5}, ("output", "down"), 194_176),
    ],
)
def test_counts_by_formula(model, method, settings, roles, expected):
    assert claims.counted(model, method, settings, roles) == expected


def test_every_printed_count_is_reproduced_and_its_convention_is_named():
    found = {(one.model.name, one.method, one.text): claims.convention(one) for one in COUNTS}
    assert {status for status, _ in found.values()} == {"reproduced"}
    assert found["vit-large", "lora", "1.57M"][1] == "adapted biases not counted"
    assert found["vit-huge", "lora", "1392K"][1] == "adapted biases counted"
    assert found["vit-large", "pissa", "835K"][1] == "adapted biases counted"


def test_the_headline_is_one_row_of_the_table():
    text = " ".join(claims.headline())
    for number in ("+5.68 points", "96.1% fewer", "+0.58 points", "+1.09 points"):
        assert number in text
    assert text.startswith("The headline")


def test_the_printed_savings_are_held_against_the_exact_ones():
    lora, pissa, article = (claims.saving_words(one) for one in claims.SAVINGS)
    assert "reproduced only from the counts as printed" in lora and "86.1% with adapted biases" in lora
    assert "reproduced, with adapted biases" in pissa
    assert "reproduced, without adapted biases" in article


def test_the_memory_claim_names_where_it_holds_where_not_and_why():
    made = material(**{"refta/shared": REFTA, "lorta/published": HEAVY, "lotr/published": LIGHT, "lora": LIGHT})
    words = " ".join(blocks(made, Items)[-1].items)
    assert "it holds in 1 of 2 comparisons: reproduced only under" in words
    assert "It holds for `refta/shared` against `lorta/published`" in words and "rebuilt weights and their gradients (+390 B)" in words
    assert "It does not hold for `refta/shared` against `lotr/published`" in words
    table = next(one for one in blocks(made, Table) if one.key == "claims-memory")
    assert all(len(cells) == len(table.columns) for cells in table.rows)
    assert [cells[-1].text for cells in table.rows] == ["holds", "does not hold"]


def test_a_run_without_tensor_baselines_says_so():
    section = claims.claims_section(material(**{"refta/shared": REFTA, "lora": LIGHT}))
    assert section is not None
    assert "cannot be judged" in section.blocks[-1].text


def test_this_runs_own_count_stands_beside():
    made = material(**{"refta/shared": {**REFTA, "adapter_parameters": 20_490}})
    table = next(one for one in blocks(made, Table) if one.key == "claims-counts")
    assert [cells[5].value for cells in table.rows if cells[0].text == "roberta-large"] == [20_490]
