"""The closed form of whole stacks, by hand for ViT-Large and against the numbers of the paper."""

from dataclasses import replace

import pytest
from model_points import point
from real_steps import tiny

from refta.cost import Line
from refta.sites import find_stacks
from refta_profiler import models
from refta_profiler.predict import closed_form

VIT_L = closed_form.shapes("vit-large", ["query", "value"])


def costs(method, settings, order=None):
    found = closed_form.stack_costs(method, settings, order, VIT_L)
    assert found is not None
    return found


def test_shapes_are_read_from_data():
    assert [(one.role, one.layers, one.rows, one.columns) for one in VIT_L] == [("query", 24, 1024, 1024), ("value", 24, 1024, 1024)]


@pytest.mark.parametrize(
    ("method", "settings", "count"), [("refta", {"rank": 15}, 61_470), ("lora", {"rank": 16}, 1_572_864), ("pissa", {"rank": 8}, 786_432)]
)
def test_trainable_parameters_are_the_papers(method, settings, count):
    assert closed_form.trainable_parameters(costs(method, settings)) == count


def test_shared_keeps_rank_numbers_a_token_and_layer():
    kept = [one.cost.kept_bytes for one in costs("refta", {"rank": 15}, "shared")]
    assert [one.per_token for one in kept] == [24 * 15 * 4, 24 * 15 * 4]


def test_crossover_of_kept_bytes_on_vit_large():
    """t·R·K = n·d(K − 1) + n·R·K: 68,016 tokens with K = 24, n = d = 1024, R = 15, since the first layer keeps no folded weight."""
    lines = {
        order: sum((one.cost.kept_bytes for one in costs("refta", {"rank": 15}, order)), Line(0, 0)) for order in ("shared", "reconstruct")
    }
    crossover = lines["shared"].crossover(lines["reconstruct"])
    assert crossover is not None
    assert int(crossover) == (1024 * 1024 * 23 + 1024 * 15 * 24) // (15 * 24) == 68_016


def test_x_is_kept_once_where_dtypes_allow():
    assert closed_form.inputs_kept(VIT_L, itemsize=4, shared=True) == Line(0, 24 * 1024 * 4)
    assert closed_form.inputs_kept(VIT_L, itemsize=4, shared=False) == Line(0, 48 * 1024 * 4)


LAST_TWO = ["layers.11.attention.q_proj", "layers.10.attention.q_proj", "layers.10.attention.v_proj"]


def test_single_layers_are_what_the_library_finds():
    """x once for query and value of layer 10, once more for layer 11, whose x alone needs a gradient."""
    data = closed_form.shapes("vit-tiny", LAST_TWO)
    built = [one.shape() for one in find_stacks(models.build_on_meta(point("vit-tiny")), LAST_TWO)]
    for stacks in (data, built):
        assert [(one.role, one.inputs_without_gradient) for one in stacks] == [("query", 1), ("query", 0), ("value", 1)]
        assert closed_form.inputs_kept(stacks, itemsize=4, shared=True) == Line(0, 2 * 192 * 4)
        assert closed_form.inputs_kept(stacks, itemsize=4, shared=False) == Line(0, 3 * 192 * 4)


def test_a_serial_adapter_keeps_no_x_but_the_output_that_it_reads():
    """ViT-Ti's output and down layers have outputs of 192 numbers, which the costs count: 2 · 12 · 192 · 4 bytes a token."""
    stacks = closed_form.shapes("vit-tiny", ["output", "down"])
    found, kept, _ = closed_form.point_costs(
        replace(tiny("vit-tiny", "lora"), method="loretta_adp", settings={}, order="published"), stacks
    )
    assert found is not None and kept == Line()
    assert sum(one.cost.kept_bytes.per_token for one in found) >= 2 * 12 * 192 * 4


def test_half_precision_says_what_is_assumed():
    stacks = closed_form.shapes("vit-tiny", ["query", "value"])
    _, kept, note = closed_form.point_costs(tiny("vit-tiny", "refta/shared", precision="amp-bf16"), stacks)
    assert kept == Line(0, 24 * 192 * 2)
    assert "bfloat16" in note


@pytest.mark.parametrize(("precision", "itemsize"), [("fp32", 4), ("amp-bf16", 4), ("bf16", 2)])
@pytest.mark.parametrize("order", ["fused", "fused_fold"])
def test_hand_written_backwards_keep_x_alone_once_in_every_precision(order, precision, itemsize):
    stacks = closed_form.shapes("vit-tiny", ["query", "value"])
    found, kept, note = closed_form.point_costs(tiny("vit-tiny", f"refta/{order}", precision=precision), stacks)
    assert kept == Line(0, 12 * 192 * itemsize)
    assert [one.cost.kept_bytes for one in found] == [Line(), Line()]
    assert "once for all roles" in note


def test_auto_has_no_line_and_full_no_network():
    assert closed_form.stack_costs("refta", {"rank": 5}, "auto", VIT_L) is None
    assert closed_form.stack_costs("refta", {"rank": 5}, "auto_time", VIT_L) is None
    assert closed_form.stack_costs("full", {}, None, VIT_L) is None


def test_an_inner_layer_has_no_input_without_gradient():
    assert [one.inputs_without_gradient for one in VIT_L] == [1, 1]
    assert [one.inputs_without_gradient for one in closed_form.without_gradient_marks(VIT_L)] == [0, 0]
