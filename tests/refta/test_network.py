"""Networks as data."""

import pytest

from refta import registry
from refta.errors import SettingError
from refta.network import is_fold, walk
from refta.shapes import StackShape

SHAPE = StackShape("query", "query", 4, 5, 7, bias=True, slice_ranks=(2, 0, 1, 0))


def network(method: str = "refta", shape: StackShape = SHAPE, **settings):
    return registry.method(method).network(registry.settings(method, {"rank": 3, **settings}), shape)


def test_equations():
    assert network().equation == "td,rd,r,nr->tn"
    assert network("lora").equation == network("pissa").equation == "td,rd,nr->tn"


def test_sizes_and_elements():
    assert network().elements("rd") == 21
    assert network().elements("tn") == 5
    assert network().elements("") == 1


def test_slices_without_components_are_left_out():
    assert network().slice_ranks == (2, 1)


@pytest.mark.parametrize(
    ("method", "rank", "shape", "stacks", "count"),
    [
        ("refta", 15, (24, 1024, 1024), 2, 61_470),  # ViT-L
        ("refta", 15, (32, 1280, 1280), 2, 76_830),  # ViT-H
        ("refta", 5, (24, 1024, 1024), 2, 20_490),  # RoBERTa-L
        ("lora", 16, (24, 1024, 1024), 2, 1_572_864),
        ("pissa", 8, (24, 1024, 1024), 2, 786_432),
    ],
)
def test_trainable_parameters_in_print(method, rank, shape, stacks, count):
    one = network(method, StackShape("query", "query", *shape), rank=rank)
    assert stacks * one.trainable_parameters(shape[0]) == count


def test_refta_without_bias_trains_r_times_n_plus_d():
    assert network(shape=StackShape("query", "query", 4, 5, 7, bias=False)).trainable_parameters(4) == 3 * 12
    assert network().trainable_parameters(4) == 3 * 13


def test_the_steps_of_shared():
    steps = list(walk(network(), network().order("shared").tree, "tn", x_needs_gradient=True, stacked=False))
    assert [step.equation for step in steps] == ["td,rd->tr", "tr,r->tr", "tr,nr->tn"]
    assert [step.is_product for step in steps] == [True, False, True]
    assert [(step.left.needs_gradient, step.right.needs_gradient) for step in steps] == [(True, True), (True, False), (True, True)]


def test_the_steps_of_a_fold_of_a_stack():
    order = network().order("reconstruct_stack")
    steps = list(walk(network(), order.tree[1], "knd", x_needs_gradient=True, stacked=True))
    assert [{*step.out.axes} for step in steps] == [{*"knr"}, {*"knd"}]


def test_folds():
    folding = {name for name, order in network().orders.items() if is_fold(order)}
    assert folding == {"reconstruct", "reconstruct_recompute", "reconstruct_stack", "fused_fold"}


def test_aliases_and_unknown_orders():
    assert network().order("published") is network().order("features") is network().order("shared")
    with pytest.raises(SettingError, match=r"unknown order 'share'; there are shared, slices, .*published"):
        network().order("share")
