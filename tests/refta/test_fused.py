"""The orders whose backward is written by hand: what they keep, what they refuse, and where they must run as any layer does.

That their outputs, gradients, FLOPs and kept bytes are right is tested with every other order (test_linear.py, test_cost.py,
test_every_method.py, test_trained_transform.py).
"""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad
from torch.multiprocessing.spawn import spawn
from torch.utils.checkpoint import checkpoint
from toy_models import adapted_stack, gradients, moved, pixels, relative_error, vit

import refta
from refta.errors import SettingError
from refta.fused import fused

ORDERS = ("fused", "fused_fold")


def factors(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> dict[str, torch.Tensor]:
    """A (9, 3), B (3, 7), u (3) and β (3), all to be trained."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"A": (9, 3), "B": (3, 7), "u": (3,), **({"beta": (3,)} if bias else {})}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for name, shape in shapes.items()}


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_gradcheck_of_every_argument_a_thawed_base_included(order, bias):
    x, weight, own = random(2, 4, 7).requires_grad_(), random(9, 7).requires_grad_(), random(9).requires_grad_() if bias else None
    operands = factors(bias=bias)
    leaves = [x, weight, *([own] if own is not None else []), *operands.values()]
    assert torch.autograd.gradcheck(lambda *_: fused(order, x, weight, own, operands), leaves, check_undefined_grad=False)


@pytest.mark.parametrize("order", ORDERS)
def test_only_what_needs_a_gradient_gets_one(order):
    weight, operands = random(9, 7), factors()
    for frozen in operands:
        given = {name: one.detach().requires_grad_(name != frozen) for name, one in operands.items()}
        x = random(4, 7)
        fused(order, x, weight, None, given).square().sum().backward()
        assert x.grad is None
        assert {name for name, one in given.items() if one.grad is None} == {frozen}


def saved_by(run) -> list[torch.Tensor]:
    """What autograd saves of a forward."""
    kept: list[torch.Tensor] = []
    with saved_tensors_hooks(lambda one: (kept.append(one), one)[1], lambda one: one):
        run()
    return kept


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("amp", [False, True], ids=["", "autocast"])
def test_two_roles_of_one_input_keep_that_input_once_in_any_dtype(order, dtype, amp):
    """Nor is a copy kept where x is not contiguous, or where base, factors and autocast differ in dtype."""
    x = random(7, 12, dtype=dtype).T.view(3, 4, 7).requires_grad_()
    assert not x.is_contiguous()
    weight, operands = random(9, 7, dtype=dtype), factors(torch.float32)

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            return [fused(order, x, weight, None, operands) for _ in ("query", "value")]

    given = {one.untyped_storage().data_ptr() for one in [x, weight, *operands.values()]}
    assert {one.untyped_storage().data_ptr() for one in saved_by(run)} == given


@pytest.mark.parametrize("order", ORDERS)
def test_the_output_may_be_changed_in_place(order):
    """It is kept by nothing, unlike a rebuilt update's."""
    x, weight, operands = random(4, 7), random(9, 7), factors()
    fused(order, x, weight, None, operands).relu_().sum().backward()
    wanted = factors()
    torch.relu(fused(order, x, weight, None, wanted)).sum().backward()
    assert all(torch.equal(operands[name].grad, wanted[name].grad) for name in wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ORDERS)
def test_a_second_derivative_is_refused_and_says_what_to_do(order):
    x, operands = random(4, 7).requires_grad_(), factors()
    y = fused(order, x, random(9, 7), None, operands)
    (of_x,) = torch.autograd.grad(y.sum(), x, create_graph=True)  # of a loss whose own gradient has no graph
    with pytest.raises(RuntimeError, match=r"cannot be differentiated again .*use order `shared`"):
        of_x.square().sum().backward()


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_with_a_graph_that_nobody_differentiates_are_right(order):
    operands, x, weight = factors(), random(4, 7), random(9, 7)
    found, wanted = (
        torch.autograd.grad(fused(order, x, weight, None, operands).square().sum(), list(operands.values()), create_graph=graph)
        for graph in (True, False)
    )
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, of how it traces a function
@pytest.mark.parametrize("order", [*ORDERS, "auto", "auto_time", "shared", "reconstruct"])
@pytest.mark.parametrize("amp", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_without_a_graph_break(order, amp, backend):
    torch._dynamo.reset()
    model = adapted_stack(order=order).model
    moved(model)
    x = random(2, 3, 7, dtype=torch.float32)
    found = []
    for run in (torch.compile(model, backend=backend, fullgraph=True), model):
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            y = run(leaf)
        y.float().square().sum().backward()
        found.append([y.detach(), leaf.grad, *gradients(model).values()])
    assert len(found[0]) == 5
    for one, wanted in zip(*found, strict=True):
        assert relative_error(one, wanted) < (1e-2 if amp else 1e-6)  # autograd's own sums may round to bfloat16 elsewhere


@pytest.mark.parametrize("order", ORDERS)
def test_functional_calls_and_their_gradients(order):
    """Parameters given from outside are those that run, under torch.func's own gradient too."""
    model = adapted_stack(order=order).model
    given = {name: one.detach() * 1.5 for name, one in model.named_parameters() if one.requires_grad}
    x = random(5, 7, dtype=torch.float32)
    found = grad(lambda parameters: functional_call(model, parameters, (x,)).square().sum())(given)
    with torch.no_grad():
        for name, one in given.items():
            model.get_parameter(name).copy_(one)
    model(x).square().sum().backward()
    for name, wanted in gradients(model).items():
        assert relative_error(found[name], wanted) < 1e-6


@pytest.mark.parametrize("order", ORDERS)
def test_a_deep_copy_has_factors_of_its_own(order):
    model = adapted_stack(order=order).model
    other = copy.deepcopy(model)
    moved(other)
    x = random(5, 7, dtype=torch.float32)
    other(x).sum().backward()
    assert gradients(model) == {}
    assert set(gradients(other)) == {f"refta_adapter.query.{name}" for name in ("A", "B", "beta")}
    assert relative_error(other(x).detach(), model(x).detach()) > 1e-3


@pytest.mark.parametrize("order", ORDERS)
def test_a_state_of_one_order_fits_every_other(order):
    model, other = adapted_stack(order=order).model, adapted_stack(order="shared").model
    moved(other)
    assert list(model.state_dict()) == list(other.state_dict())
    model.load_state_dict(other.state_dict())
    x = random(5, 7, dtype=torch.float32)
    assert relative_error(model(x).detach(), other(x).detach()) < 1e-6


@pytest.mark.parametrize("order", ORDERS)
def test_checkpointed_layers_unpack_what_is_kept_once(order):
    """Non-reentrant checkpointing refuses to give a tensor twice."""
    model = adapted_stack(order=order).model
    x = random(5, 7, dtype=torch.float32).requires_grad_()
    checkpoint(model, x, use_reentrant=False, early_stop=True).square().sum().backward()
    found = gradients(model)
    model.zero_grad()
    model(x).square().sum().backward()
    assert all(torch.equal(found[name], wanted) for name, wanted in gradients(model).items())


@pytest.mark.parametrize("order", ORDERS)
def test_tensors_without_values(order):
    weight, operands = random(9, 7), factors()
    hollow = {name: torch.empty_like(one, device="meta").requires_grad_() for name, one in operands.items()}
    y = fused(order, torch.empty(4, 7, device="meta", dtype=torch.float64), torch.empty_like(weight, device="meta"), None, hollow)
    y.sum().backward()
    assert hollow["A"].grad.shape == (9, 3)  # type: ignore[union-attr]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(one.detach()).requires_grad_() for name, one in operands.items()}
        fused(order, torch.empty(4, 7, dtype=torch.float64), mode.from_tensor(weight), None, fake).sum().backward()
        assert fake["B"].grad.shape == (3, 7)  # type: ignore[union-attr]


@pytest.mark.parametrize("order", ["fused", "fused_fold"])
def test_dropout_is_refused_since_base_and_adapter_read_one_x(order):
    with pytest.raises(SettingError, match=r"dropout: 0\.1 with order 'fused"):
        refta.adapt(vit(), "refta", rank=4, order=order, dropout=0.1)


@pytest.mark.parametrize("order", ORDERS)
def test_parameters_names_and_values_do_not_depend_on_the_order(order):
    model, other = (refta.adapt(vit(), "refta", rank=4, order=one).model for one in (order, "shared"))
    trained, wanted = ([(name, one) for name, one in model.named_parameters() if one.requires_grad] for model in (model, other))
    assert [name for name, _ in trained] == [name for name, _ in wanted]
    assert all(torch.equal(one, same) for (_, one), (_, same) in zip(trained, wanted, strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_a_base_in_half_precision_rounds_the_sum_once(order):
    """The update is computed in the factors' float32: off float64's output by no more than one rounding to bfloat16."""
    operands, x, weight = factors(torch.float32), random(64, 7, dtype=torch.bfloat16), random(9, 7, dtype=torch.bfloat16)
    wide = {name: one.detach().double() for name, one in operands.items()}
    wanted = fused(order, x.double(), weight.double(), None, wide)
    found = fused(order, x, weight, None, operands)
    assert found.dtype == torch.bfloat16
    assert relative_error(found.detach(), wanted) < 2**-8


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_ddp_reduces_one_gradient_for_each_shared_factor(order, tmp_path):
    """Two processes of half a batch each end with the gradients of the whole one."""
    spawn(_ddp_process, args=(order, f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    model = refta.adapt(vit(), "refta", rank=4, order=order).model
    model(pixel_values=pixels(4)).logits.square().mean().backward()
    wanted = gradients(model)
    assert any(name.endswith(".A") for name in wanted)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert set(found) == set(wanted)
        for name, one in wanted.items():
            assert relative_error(found[name], one) < 1e-4, name


def _ddp_process(rank: int, order: str, meeting: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    model = refta.adapt(vit(), "refta", rank=4, order=order).model
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    parallel(pixel_values=pixels(4)[2 * rank : 2 * rank + 2]).logits.square().mean().backward()
    torch.save(gradients(model), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
