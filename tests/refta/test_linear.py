"""The orders of an adapted layer: golden values, one function in every order, half precision, checkpointing, accumulation."""

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from toy_models import DATA, REFTA_ORDERS, adapted_stack, gradients, llama, moved, parallel, relative_error, stack_of, vit

import refta
from refta.operands import AUTOMATIC

GOLDEN = sorted((DATA / "golden").glob("*.npz"))


def golden_model(path, order: str, convention: str):
    values = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    model = parallel(values["weight"], values["bias"])
    transform = values["transform_matrix"] if "explicit" in path.name else path.stem.removeprefix("refta_")
    refta.adapt(model, "refta", targets=["query"], rank=7, transform=transform, order=order, convention=convention)
    return model, values


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_golden_outputs_and_gradients(path, order):
    model, values = golden_model(path, order, "exact")
    x = values["x"].clone().requires_grad_()
    y = model(x)
    assert relative_error(y.detach(), values["y"]) <= 5e-6
    assert relative_error(y.detach(), values["y_pretrained"]) <= 5e-6
    (y * values["grad_out"]).sum().backward()
    assert x.grad is not None
    assert relative_error(x.grad, values["grad_x"]) <= 5e-6
    stack = model.refta_adapter["query"]
    right = torch.cat([stack.B, stack.beta[:, None]], dim=1).detach()
    right_gradient = torch.cat([stack.B.grad, stack.beta.grad[:, None]], dim=1)
    ranks = values["slice_ranks"].tolist()
    for j, (a, grad_a, b, grad_b) in enumerate(
        zip(stack.A.detach().split(ranks, 1), stack.A.grad.split(ranks, 1), right.split(ranks), right_gradient.split(ranks), strict=True)
    ):
        assert relative_error(grad_a @ a.T, values["gradA_At"][j]) <= 5e-6
        assert relative_error(b.T @ grad_b, values["Bt_gradB"][j]) <= 5e-6


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_golden_outputs_of_the_public_codes_convention(path, order):
    model, values = golden_model(path, order, "public_code")
    assert relative_error(model(values["x"]).detach(), values["y_public_code"]) <= 5e-6


def step(order: str, kind: str, dtype: torch.dtype, bias: bool) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Output, ∂L/∂x and the factors' gradients, off the initial values."""
    model = adapted_stack(kind, order=order, dtype=dtype, bias=bias).model
    moved(model)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    y = model(x)
    (y * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype)).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad, gradients(model)


@pytest.mark.parametrize("order", [*REFTA_ORDERS[1:], *AUTOMATIC, "published", "features"])
@pytest.mark.parametrize("kind", ["random", "tied", "zero", "deficient"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"])
def test_all_orders_agree(order, kind, bias, dtype, tolerance):
    y, grad_x, found = step(order, kind, dtype, bias)
    wanted_y, wanted_grad_x, wanted = step("shared", kind, dtype, bias)
    assert relative_error(y, wanted_y) <= tolerance
    assert relative_error(grad_x, wanted_grad_x) <= tolerance
    assert list(found) == list(wanted)
    assert len(found) == 2 + bias
    for name in wanted:
        assert relative_error(found[name], wanted[name]) <= tolerance, name


@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 3, 5, 7), (0, 7)])
def test_any_shape_of_input(order, shape):
    model = adapted_stack(order=order).model
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    wanted = torch.stack([layer.query.weight @ x[..., None] for layer in parallel(*stack_of("random")).layers]) if x.numel() else None
    y = model(x)
    assert y.shape == (4, *shape[:-1], 9)
    if wanted is not None:
        assert relative_error(y.detach(), (wanted[..., 0] + stack_of("random")[1].view(4, *[1] * (len(shape) - 1), 9)).detach()) < 1e-5


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_an_input_that_is_not_contiguous(order):
    model = adapted_stack(order=order).model
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    assert relative_error(model(x.T).detach(), model(x.T.contiguous()).detach()) < 1e-6


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_bfloat16_weights_and_float32_factors(order):
    wanted = parallel(*stack_of("random"))
    model = adapted_stack(order=order, dtype=torch.bfloat16).model
    stack = model.refta_adapter["query"]
    assert (stack.A.dtype, model.layers[0].query.weight.dtype) == (torch.float32, torch.bfloat16)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    y = model(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert relative_error(y.detach(), wanted(x).detach()) < 1e-2
    y.sum().backward()
    assert stack.A.grad.dtype == torch.float32


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_bfloat16_gradients(order):
    found, wanted = {}, {}
    for dtype, one, result in ((torch.bfloat16, order, found), (torch.float32, "shared", wanted)):
        weight, bias = (tensor.bfloat16().to(dtype) for tensor in stack_of("random"))
        model = parallel(weight, bias)
        refta.adapt(model, "refta", targets=["query"], rank=5, order=one)
        x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype).requires_grad_()
        model(x).square().sum().backward()
        stack = model.refta_adapter["query"]
        result |= {"A": stack.A.grad @ stack.A.detach().T, "B": stack.B.detach().T @ stack.B.grad, "x": x.grad}
    assert max(relative_error(found[name].float(), wanted[name]) for name in wanted) < 2e-2


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_autocast(order):
    wanted = parallel(*stack_of("random"))
    model = adapted_stack(order=order).model
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert relative_error(y.detach(), wanted(x).detach()) < 1e-2
    y.float().square().sum().backward()
    assert gradients(model).keys() == {f"refta_adapter.query.{name}" for name in ("A", "B", "beta")}


@pytest.mark.parametrize("order", [*REFTA_ORDERS, "auto"])
def test_without_gradient_and_in_evaluation_the_output_is_the_same(order):
    model = adapted_stack(order=order).model
    moved(model)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    wanted = model(x).detach()
    with torch.no_grad():
        assert relative_error(model(x), wanted) < 1e-6
    with torch.inference_mode():
        assert relative_error(model(x), wanted) < 1e-6
    model.eval()
    assert relative_error(model(x).detach(), wanted) < 1e-6


@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("fused", [False, True])
def test_no_order_runs_on_stale_factors(order, fused):
    """Outputs after an optimizer's step, with, without and again with gradient, equal those of `shared`."""
    wanted, found = (_outputs_over_steps(one, fused) for one in ("shared", order))
    for one, other in zip(found, wanted, strict=True):
        assert relative_error(one, other) < 1e-5


def _outputs_over_steps(order: str, fused: bool) -> list[torch.Tensor]:
    model = adapted_stack(order=order).model
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.01, fused=fused)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    outputs = []
    for _ in range(3):
        outputs.append(model(x).detach())  # a forward that nobody backpropagates
        with torch.no_grad():
            outputs.append(model(x))
        optimizer.zero_grad()
        y = model(x)
        outputs.append(y.detach())
        y.square().mean().backward()
        optimizer.step()
    model(x)
    model.refta_adapter["query"].A.data.mul_(2)  # autograd's version counter does not see this
    outputs.append(model(x).detach())
    with torch.no_grad():
        outputs.append(model(x))
    return outputs


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_accumulated_gradients(order):
    """Two backwards of half a batch each give the whole batch's gradient."""
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    whole, halves = adapted_stack(order=order).model, adapted_stack(order=order).model
    whole(x).square().sum().backward()
    for part in x.split(3):
        halves(part).square().sum().backward()
    for name, wanted in gradients(whole).items():
        assert relative_error(gradients(halves)[name], wanted) < 1e-5


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_two_forwards_before_one_backward(order):
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    whole, both = adapted_stack(order=order).model, adapted_stack(order=order).model
    whole(x).square().sum().backward()
    torch.stack([both(part).square().sum() for part in x.split(3)]).sum().backward()
    for name, wanted in gradients(whole).items():
        assert relative_error(gradients(both)[name], wanted) < 1e-5


@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_a_thawed_base_gets_its_gradient_in_every_order(order, bias):
    """In a forward of the whole model and in one of its layers alone, after a step too."""
    found, wanted = (_thawed_gradients(one, bias) for one in (order, "shared"))
    assert list(found) == list(wanted)
    assert {"layers.1.query.weight", *(["layers.1.query.bias"] if bias else [])} < set(found)
    for name, one in wanted.items():
        assert relative_error(found[name], one) < 1e-5, name


def _thawed_gradients(order: str, bias: bool) -> dict[str, torch.Tensor]:
    model = adapted_stack(order=order, bias=bias).model
    moved(model)
    model.layers[1].requires_grad_(True)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.01)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    model(x).square().sum().backward()
    optimizer.step()
    for _ in range(2):
        torch.stack([layer(x) for layer in model.layers]).square().sum().backward()
    return gradients(model)


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_beta_can_be_trained_alone(order):
    found, wanted = {}, {}
    for one, result in ((order, found), ("shared", wanted)):
        model = adapted_stack(order=one).model
        for name in ("A", "B"):
            getattr(model.refta_adapter["query"], name).requires_grad_(False)
        model(torch.ones(5, 7)).square().sum().backward()
        result |= gradients(model)
    assert list(found) == ["refta_adapter.query.beta"]
    assert relative_error(found["refta_adapter.query.beta"], wanted["refta_adapter.query.beta"]) < 1e-5


def trained(build, order: str, *, checkpointing: dict | None, steps: int = 2):
    """Losses and last gradients of a small model over optimizer steps, two backwards each."""
    model = build(layers=3)
    model.train()
    if checkpointing is not None:
        model.activation_checkpointing_enable(checkpointing)
    refta.adapt(model, "refta", targets=["query", "value"], rank=4, order=order)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    losses, found = [], {}
    for number in range(steps):
        optimizer.zero_grad()
        for half in range(2):
            loss = _loss(model, seed=2 * number + half)
            loss.backward()
            losses.append(loss.item())
        found = gradients(model)
        optimizer.step()
    return losses, found, model


def _loss(model, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if hasattr(model, "lm_head"):
        ids = torch.randint(0, 50, (2, 6), generator=generator)
        return model(input_ids=ids, labels=ids).loss
    return model(pixel_values=torch.randn(2, 3, 32, 32, generator=generator), labels=torch.tensor([0, 2])).loss


@pytest.mark.parametrize("order", [*REFTA_ORDERS, "auto"])
@pytest.mark.parametrize("build", [vit, llama])
def test_checkpointing_and_accumulation_change_nothing(order, build):
    losses, wanted, _ = trained(build, "shared", checkpointing=None)
    ways = [None, {"use_reentrant": False}] + ([{"use_reentrant": True}] if build is llama else [])  # a reentrant ViT would train nothing
    for checkpointing in ways:
        found_losses, found, model = trained(build, order, checkpointing=checkpointing)
        assert found_losses == pytest.approx(losses, rel=1e-5)
        for name, one in wanted.items():
            assert relative_error(found[name], one) < 1e-4, (checkpointing, name)
        _nothing_is_held(model)


def _nothing_is_held(model) -> None:
    """After a backward no fold of a stack is held."""
    assert [name for name, stack in model.refta_adapter.items() if stack._built is not None] == []


def test_the_fold_of_a_stack_is_made_once_per_forward_and_dropped():
    model = adapted_stack(order="reconstruct_stack").model
    stack = model.refta_adapter["query"]
    made = []
    original = stack.build
    stack.build = lambda: (made.append(1), original())[1]
    x = torch.randn(5, 7)
    y = model(x)
    assert len(made) == 1
    y.sum().backward()
    assert len(made) == 1
    _nothing_is_held(model)
    with torch.no_grad():
        model(x)
    assert len(made) == 2
    _nothing_is_held(model)


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_a_part_of_the_model_runs_alone(order):
    """Layers called without the model around them: no hook of the model's forward runs."""
    model = adapted_stack(order=order).model
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    wanted = model(x).detach()
    for _ in range(2):
        found = torch.stack([layer(x) for layer in model.layers])
        assert relative_error(found.detach(), wanted) < 1e-6
        with torch.no_grad():
            assert relative_error(model.layers[1](x), wanted[1]) < 1e-6
        found.sum().backward()
    checkpointed = torch.stack([checkpoint(layer, x, use_reentrant=False) for layer in model.layers])
    model.zero_grad()
    checkpointed.sum().backward()
    again = gradients(model)
    model.zero_grad()
    model(x).sum().backward()
    for name, one in gradients(model).items():
        assert relative_error(again[name], one) < 1e-5
    _nothing_is_held(model)


def test_a_failed_forward_leaves_nothing_behind():
    model = adapted_stack(order="reconstruct_stack").model
    with pytest.raises(RuntimeError), torch.no_grad():
        model(torch.randn(5, 6))
    _nothing_is_held(model)
    assert not model.refta_adapter["query"]._in_forward
