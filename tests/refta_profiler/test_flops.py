"""FLOPs by hand, and beside torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from refta_profiler import flops
from refta_profiler.flops import FlopCounter, count

aten = torch.ops.aten


def counted(call):
    with FlopCounter() as counter:
        call()
    return counter.total()


def test_a_matrix_product_takes_two_a_multiply_add():
    assert counted(lambda: torch.empty(3, 4) @ torch.empty(4, 5)) == 2 * 3 * 4 * 5


def test_additions_take_none():
    assert counted(lambda: torch.empty(100) + torch.empty(100)) == 0


def test_attention_counts_on_the_cpu_where_torchs_counter_says_nothing():
    query = torch.randn(2, 3, 8, 16)

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(query, query, query)

    assert counted(attend) == 2 * (2 * 2 * 3 * 8 * 8 * 16)  # the scores, and their product with the values
    with FlopCounterMode(display=False) as torchs:
        attend()
    assert torchs.get_total_flops() == 0


def test_attention_backwards_is_five_products_to_the_forwards_two():
    query = torch.randn(1, 2, 8, 16, requires_grad=True)
    counter = FlopCounter()
    with counter:
        out = torch.nn.functional.scaled_dot_product_attention(query, query, query).sum()
        counter.phase = "backward"
        out.backward()
    assert counter.by_phase["backward"] == counter.by_phase["forward"] * 5 // 2


@pytest.mark.parametrize("module", [torch.nn.Linear(8, 4), torch.nn.Conv1d(8, 4, 3)])
def test_forward_and_backward_are_torchs_own(module):
    x = torch.randn(2, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as torchs:
        module(x).sum().backward()
    assert counted(lambda: module(x).sum().backward()) == torchs.get_total_flops() > 0


def equal_heads(formula):
    """torch's formula as releases before 2.13 have it: keys and values must have the query's heads."""

    def checked(*shapes):
        assert len({shape[:2] for shape in map(tuple, shapes)}) == 1, "the counts of heads differ"
        return formula(*shapes)

    return checked


@pytest.fixture
def before_2_13(monkeypatch):
    for module in (torch.utils.flop_counter, flops):
        for name in ("sdpa_flop_count", "sdpa_backward_flop_count"):
            monkeypatch.setattr(module, name, equal_heads(getattr(torch.utils.flop_counter, name)))


@pytest.mark.parametrize("kernel", ["flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"])
def test_grouped_queries_count_every_head_of_the_query_whatever_torch_asserts(kernel, before_2_13):
    query, key = torch.empty(2, 4, 8, 16), torch.empty(2, 2, 6, 16)
    product = 2 * (2 * 4) * 8 * 6 * 16
    assert count(getattr(aten, f"_scaled_dot_product_{kernel}").default, (query, key, key), {}, query) == 2 * product
    backward = getattr(aten, f"_scaled_dot_product_{kernel}_backward").default
    assert count(backward, (query, query, key, key), {}, query) == 5 * product


def test_a_model_with_grouped_queries_is_counted_whatever_torch_asserts(before_2_13):
    query, key = torch.randn(1, 4, 8, 16, requires_grad=True), torch.randn(1, 2, 8, 16)

    def step():
        torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True).sum().backward()

    assert counted(step) == 7 * 2 * 4 * 8 * 8 * 16
