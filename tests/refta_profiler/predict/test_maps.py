"""Maps of the least order, held against the closed form's own roots."""

import json
import math
from itertools import pairwise

import pytest
from model_points import point

from refta_profiler.predict import maps

ORDERS = ("shared", "reconstruct", "reconstruct_recompute")


def vit_l(order, batch=1, rank=15):
    settings = {"rank": rank, "transform": "dct"}
    named = {"label": f"refta/{order}", "method": "refta", "settings": settings, "rank": rank, "order": order}
    return point("vit-large", batch=batch, seq=197, targets=["query", "value"], **named)


@pytest.fixture(scope="module")
def found():
    entries = [one["map"] for one in maps.maps([vit_l(order, batch) for order in ORDERS for batch in (1, 8)])]
    return {(one["quantity"], one["y"]): one for one in entries}


def at(entry, y, batch):
    stretches = next(row for value, row in entry["rows"] if value == y)
    return next(order for low, high, order in stretches if low <= batch < high)


def test_every_quantity_over_both_pairs_of_axes_as_json(found):
    assert list(found) == [(quantity, y) for y in ("rank", "seq") for quantity in maps.QUANTITIES]
    json.dumps(list(found.values()))


def test_every_row_reaches_from_batch_1_to_the_maps_end_without_a_gap(found):
    for entry in found.values():
        for _, stretches in entry["rows"]:
            assert stretches[0][0] == 1 and stretches[-1][1] == pytest.approx(1024)
            assert all(one[1] == following[0] and one[2] != following[2] for one, following in pairwise(stretches))


def test_the_training_flops_cross_where_the_formula_says(found):
    """For n = d the step's crossover is t = 3Rd / (6R − d), none for R ≤ d/6 (refta.md)."""
    entry, width = found["step_flops", "rank"], 1024
    for rank, stretches in entry["rows"]:
        if rank <= width / 6:
            assert [order for _, _, order in stretches] == ["shared"]
        else:
            crossing = 3 * rank * width / (6 * rank - width) / 197
            assert [order for _, _, order in stretches] == ["shared", "reconstruct"]
            assert stretches[0][1] == pytest.approx(crossing, rel=1024 ** (2 / maps.COLUMNS) - 1)  # two columns: the first layers differ


def test_recomputing_needs_least_memory_at_large_batches_and_is_left_out_of_the_papers_comparison(found):
    assert at(found["memory_bytes", "rank"], 15, 500) == "reconstruct_recompute"
    assert at(found["memory_bytes", "rank"], 15, 2) == "shared"
    plain = found[maps.PLAIN, "rank"]
    assert at(plain, 15, 2) == "shared" and at(plain, 15, 900) == "reconstruct"
    assert not [order for _, row in plain["rows"] for _, _, order in row if "recompute" in order]


def test_over_the_sequence_what_counts_is_tokens(found):
    """A boundary at batch b and s tokens stands at b·s = the same product in every row, to a column's width."""
    products = [value * row[0][1] for value, row in found["memory_bytes", "seq"]["rows"] if len(row) > 1]
    assert len(products) > 5
    assert max(math.log(one / products[0]) for one in products) < 2 * math.log(1024) / maps.COLUMNS


def test_the_scenarios_own_rank_and_sequence_have_rows(found):
    assert found["memory_bytes", "rank"]["at"] == 15 and 15 in [value for value, _ in found["memory_bytes", "rank"]["rows"]]
    assert found["memory_bytes", "seq"]["at"] == 197 and 197 in [value for value, _ in found["memory_bytes", "seq"]["rows"]]


def test_ranks_share_a_map_and_one_order_alone_has_none():
    both = maps.maps([vit_l(order, rank=rank) for order in ORDERS for rank in (5, 30)])
    assert len(both) == len(maps.QUANTITIES) * 2
    assert {5, 30} <= {value for value, _ in both[0]["map"]["rows"]}
    assert maps.maps([vit_l("shared", batch) for batch in (1, 2)]) == []


def test_a_method_without_ranks_has_the_map_over_the_sequence_alone():
    shared = {"method": "tucker", "settings": {"ranks": [4, 4, 4]}, "batch": 1, "seq": 197, "targets": ["query"]}
    found = maps.maps([point("vit-large", label=order, order=order, **shared) for order in ("features", "reconstruct")])
    assert {one["map"]["y"] for one in found} <= {"seq"}
