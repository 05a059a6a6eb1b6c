"""A point as something that runs: phases, static tensors, accumulation, clipping, precision, optimizers."""

import pytest
import torch
from real_steps import METHODS, tiny

from refta_profiler import workload


def build(label="refta/shared", model="roberta-tiny", **changes):
    return workload.build(tiny(model, label, **changes), torch.device("cpu"))


def phases(work):
    seen = []
    workload.training_step(work, seen.append)
    return seen


def test_phases_are_marked_when_they_end():
    assert phases(build()) == ["forward", "backward", "optimizer"]
    assert phases(build(accumulate=3)) == ["forward", "backward"] * 3 + ["optimizer"]


@pytest.mark.parametrize("label", METHODS)
def test_a_step_changes_what_is_trained_and_nothing_else(label):
    work = build(label)
    before = {name: one.detach().clone() for name, one in work.model.named_parameters()}
    workload.training_step(work)
    workload.training_step(work)  # LoRA's A gets no gradient while B is zero
    changed = {name for name, one in work.model.named_parameters() if not torch.equal(one, before[name])}
    trained = {name for name, one in work.model.named_parameters() if one.requires_grad}
    assert changed <= trained
    assert len(changed) >= 0.7 * len(trained)


def test_static_tensors_are_all_that_is_there_by_category():
    work = build("lora")
    workload.training_step(work)
    found = work.static_tensors()
    assert set(found) == {"weights", "adapter", "optimizer", "batch", "gradients", "activations"}
    assert found["gradients"] == []  # buckets that outlive a step are a rank's
    assert found["activations"] == []  # outputs that outlive a step are those of another loop
    assert {id(one) for one in found["adapter"]} == {id(one) for one in work.model.parameters() if one.requires_grad}
    assert {id(one) for one in work.model.parameters()} <= {id(one) for one in [*found["adapter"], *found["weights"]]}
    assert len(found["optimizer"]) == 3 * len(found["adapter"])  # two moments and a step count each


def test_accumulated_gradients_are_the_sum():
    once, twice = build(optimizer="sgd", model="llama-tiny"), build(optimizer="sgd", model="llama-tiny", accumulate=2)
    for work in (once, twice):
        workload.training_step(work)
    for one, two in zip(once.model.parameters(), twice.model.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, 2 * one.grad)


def test_clipping_bounds_the_gradients_norm():
    work = build(clip=1e-3)
    workload.training_step(work)
    norms = [one.grad.norm() for one in work.model.parameters() if one.grad is not None]
    assert torch.stack(norms).norm() <= 1.001e-3


@pytest.mark.parametrize(("precision", "weights"), [("fp32", torch.float32), ("amp-bf16", torch.float32), ("bf16", torch.bfloat16)])
def test_weights_are_in_the_precisions_dtype_and_factors_in_float32(precision, weights):
    work = build(precision=precision)
    workload.training_step(work)
    assert {one.dtype for one in work.model.parameters() if not one.requires_grad} == {weights}
    stacks = [one for name, one in work.model.named_parameters() if "refta_adapter" in name]
    assert stacks
    assert {one.dtype for one in stacks} == {torch.float32}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_points_optimizer_has_what_is_trained_and_no_more(name, kind):
    work = build(optimizer=name)
    assert isinstance(work.optimizer, kind)
    held = {id(one) for group in work.optimizer.param_groups for one in group["params"]}
    assert held == {id(one) for one in work.model.parameters() if one.requires_grad}


def test_checkpointing_gives_the_same_gradients():
    plain, checkpointed = build(model="llama-tiny"), build(model="llama-tiny", checkpointing=True)
    for work in (plain, checkpointed):
        workload.training_step(work)
    for one, other in zip(plain.model.parameters(), checkpointed.model.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_orders_are_one_function():
    losses = []
    for order in ("shared", "slices", "reconstruct", "reconstruct_recompute", "reconstruct_stack"):
        work = build(f"refta/{order}", model="llama-tiny")
        losses.append(work.model(**work.batch).loss)
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(5), rtol=1e-5, atol=1e-6)
