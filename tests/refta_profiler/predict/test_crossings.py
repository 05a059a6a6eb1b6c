"""Lines and crossovers as the report gets them."""

import json

from model_points import point

from refta_profiler.predict import crossings

LINES = ("forward_flops", "step_flops", "kept_bytes")


def vit_l(order, batch=1):
    return point(
        "vit-large",
        label=f"refta/{order}",
        method="refta",
        settings={"rank": 15, "transform": "dct"},
        rank=15,
        order=order,
        batch=batch,
        seq=197,
        targets=["query", "value"],
    )


def test_a_line_for_each_order_and_role_whatever_the_batches():
    entries = crossings.closed_form([vit_l(order, batch) for order in ("shared", "reconstruct") for batch in (1, 2, 4)])
    lines = [one for one in entries if "role" in one]
    assert [(one["order"], one["role"]) for one in lines] == [
        (order, role) for order in ("shared", "reconstruct") for role in ("query", "value")
    ]
    assert all(len(one[name]) == 2 for one in lines for name in LINES)
    json.dumps(entries)


def test_the_models_crossover_of_kept_bytes():
    entries = crossings.closed_form([vit_l("shared"), vit_l("reconstruct")])
    found = next(one["crossover"] for one in entries if one.get("crossover", {}).get("quantity") == "kept_bytes")
    assert (found["first"], found["second"], int(found["tokens"]), found["batch"]) == ("shared", "reconstruct", 68_016, 345)
    assert found["sentence"] == "Over the model `shared` keeps less than `reconstruct` up to 68,016 tokens (batch 345 of 197)."


def test_orders_of_different_settings_are_not_crossed():
    other = point(
        "vit-large", label="r4", method="refta", settings={"rank": 4}, rank=4, order="reconstruct", seq=197, targets=["query", "value"]
    )
    assert not [one for one in crossings.closed_form([vit_l("shared"), other]) if "crossover" in one]


def test_methods_without_a_network_have_no_line():
    assert crossings.closed_form([point("vit-large", method="full", label="full")]) == []
