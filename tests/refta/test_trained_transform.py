"""ReFTA with Φ trained: the same function in every order, its costs by torch's own counters, its penalty, its files."""

from __future__ import annotations

import pytest
import torch
from test_every_method import LAYERS, TARGETS, Encoder, _measured, _predicted, run

import refta
from refta import registry
from refta.errors import SettingError

ORDERS = [name for name in registry.orders("refta") if name not in ("published", "features")]


def adapted_encoder(order: str | None, dtype: torch.dtype = torch.float32, **settings) -> refta.Adapted:
    torch.manual_seed(0)
    chosen = {"train_transform": True, "rank": 5, **settings}
    adapted = refta.adapt(Encoder().to(dtype), "refta", targets=TARGETS, order=order, **chosen)
    assert adapted.attached is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.attached.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return adapted


@pytest.mark.parametrize("convention", ["exact", "public_code"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_all_orders_give_the_same_output_and_gradients(dtype, tolerance, convention):
    expected = run(adapted_encoder("shared", dtype, convention=convention), dtype)
    assert sum(one.shape == (LAYERS, LAYERS) and bool(one.abs().sum()) for one in expected) == 3  # Φ's own gradient, of each stack
    for order in ORDERS[1:]:
        for one, wanted in zip(run(adapted_encoder(order, dtype, convention=convention), dtype), expected, strict=True):
            assert (one - wanted).abs().max() / wanted.abs().max() < tolerance, order


def test_the_gradient_of_the_transform_is_that_of_finite_differences():
    adapted = adapted_encoder("shared", torch.float64)
    phi = next(one for name, one in adapted.model.named_parameters() if name.endswith("transform_matrix"))
    x = torch.randn(2, 5, 48, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return adapted.model(x).square().sum()

    loss().backward()
    assert phi.grad is not None
    step = 1e-6
    with torch.no_grad():
        phi[1, 2] += step
        above = loss()
        phi[1, 2] -= 2 * step
        below = loss()
    assert phi.grad[1, 2].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-6)


@pytest.mark.parametrize("free", [0, 1, LAYERS])
@pytest.mark.parametrize("order", ORDERS)
def test_flops_and_kept_bytes_equal_the_counters_exactly(order, free):
    adapted = adapted_encoder(order)
    assert _predicted(adapted, order, free) == _measured(adapted, free)


def test_a_frozen_transform_keeps_a_weighted_stack_of_slices_only_where_it_is_trained():
    trained, frozen = adapted_encoder("slices"), adapted_encoder("slices", train_transform=False)
    difference = _measured(trained, 0)[2] - _measured(frozen, 0)[2]
    slices = {name: sum(rank > 0 for rank in ranks) for name, ranks in trained.slice_ranks.items()}
    rows = {stack.name: stack.sites[0].rows for stack in trained.stacks}
    assert difference == sum(LAYERS * (10 * rows[name] * count + count) * 4 for name, count in slices.items())


def test_the_transform_counts_as_trained():
    trained, frozen = adapted_encoder(None), adapted_encoder(None, train_transform=False)
    assert trained.trainable_parameters - frozen.trainable_parameters == 3 * LAYERS**2


def test_the_model_starts_at_the_pretrained_one():
    torch.manual_seed(0)
    model, x = Encoder(), torch.randn(2, 5, 48)
    expected = model(x)
    refta.adapt(model, "refta", targets=TARGETS, rank=5, train_transform=True)
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_the_penalty_is_zero_at_the_start_and_grows_as_the_transform_leaves_the_orthogonal_matrices():
    torch.manual_seed(0)
    adapted = refta.adapt(Encoder(), "refta", targets=["query"], rank=5, train_transform=True, transform_penalty=0.5)
    penalty = adapted.penalty()
    assert penalty is not None and penalty.item() == pytest.approx(0, abs=1e-10)
    phi = next(one for name, one in adapted.model.named_parameters() if name.endswith("transform_matrix"))
    with torch.no_grad():
        phi.mul_(2)  # ΦᵀΦ − I = 3 I, whose square sums to 9 K
    doubled = adapted.penalty()
    assert doubled is not None and doubled.item() == pytest.approx(0.5 * 9 * LAYERS, rel=1e-5)
    doubled.backward()
    assert phi.grad is not None and phi.grad.norm() > 0


def test_there_is_no_penalty_where_none_is_asked_for():
    assert adapted_encoder(None).penalty() is None
    assert adapted_encoder(None, train_transform=False).penalty() is None
    assert refta.adapt(Encoder(), "lora", targets=TARGETS).penalty() is None


def test_a_file_brings_a_trained_transform_to_a_fresh_model_twice(tmp_path):
    adapted = adapted_encoder("shared", transform_penalty=0.1)
    x = torch.randn(2, 5, 48)
    expected = adapted.model(x)
    refta.save(adapted, tmp_path / "one.safetensors")
    torch.manual_seed(0)
    again = refta.load(Encoder(), tmp_path / "one.safetensors", order="slices")
    assert torch.allclose(again.model(x), expected, atol=1e-5)
    refta.save(again, tmp_path / "two.safetensors")
    torch.manual_seed(0)
    assert torch.allclose(refta.load(Encoder(), tmp_path / "two.safetensors").model(x), expected, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_merge_folds_a_trained_transform_in(order):
    adapted = adapted_encoder(order)
    x = torch.randn(2, 5, 48)
    expected = adapted.model(x)
    assert torch.allclose(refta.merge(adapted)(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_transform": "yes"}, "train_transform: 'yes'; it must be true or false"),
        ({"train_transform": True, "transform_penalty": -1}, "transform_penalty: -1; it must be a number of at least 0"),
        ({"transform_penalty": 0.1}, "transform_penalty: 0.1; a frozen Φ stays orthogonal: set train_transform: true, or leave it out"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(SettingError) as caught:
        registry.settings("refta", settings)
    assert str(caught.value) == message
