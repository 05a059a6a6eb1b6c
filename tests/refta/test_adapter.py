"""`adapt` and `merge` on whole models: counts, what is trained, exactness at the start, copies, merging, refusals."""

import copy
import gc
import weakref
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from toy_models import (
    REFTA_ORDERS,
    Parallel,
    adapted_stack,
    gpt2,
    gradients,
    llama,
    moved,
    parallel,
    pixels,
    relative_error,
    stack_of,
    tokens,
    vit,
)

import refta
from refta.errors import ReftaError, SettingError

MODELS = {
    "vit": (vit, pixels, ["query", "value"]),
    "vit-mlp": (vit, pixels, ["output", "up", "down"]),  # rectangular
    "llama": (llama, tokens, ["query", "value"]),  # grouped-query, no biases
    "llama-mlp": (llama, tokens, ["gate", "up", "down"]),
    "gpt2": (gpt2, tokens, ["qkv", "down"]),  # Conv1D
}
METHODS: dict[str, dict[str, Any]] = {"refta": {"rank": 4}, "lora": {"rank": 2}, "pissa": {"rank": 2}}


def made(name: str, method: str = "refta", *, order: str | None = None, **settings) -> Any:
    build, batch, targets = MODELS[name]
    return refta.adapt(build().eval(), method, targets=targets, order=order, **{**METHODS[method], **settings}), batch()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("transform", ["dct", "lsm"])
def test_refta_starts_at_the_pretrained_model(name, order, transform):
    build, batch, _ = MODELS[name]
    wanted = build().eval()(batch()).logits.detach()
    adapted, x = made(name, order=order, transform=transform)
    assert relative_error(adapted.model(x).logits.detach(), wanted) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_orders_agree_on_whole_models(name):
    wanted: dict[str, torch.Tensor] | None = None
    for order in [*REFTA_ORDERS, "auto"]:
        adapted, x = made(name, order=order)
        moved(adapted.model)
        adapted.model(x).logits.square().sum().backward()
        found = gradients(adapted.model)
        wanted = wanted or found
        assert list(found) == list(wanted)
        assert all(relative_error(found[key], wanted[key]) < 1e-4 for key in wanted)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_merge_keeps_the_output_and_leaves_plain_layers(name, method):
    adapted, x = made(name, method)
    moved(adapted.model)
    wanted = adapted.model(x).logits.detach()
    plain = MODELS[name][0]()
    model = refta.merge(adapted)
    assert model is adapted.model
    assert relative_error(model(x).logits.detach(), wanted) < 1e-5
    assert [type(one) for one in model.modules()] == [type(one) for one in plain.modules()]
    assert [key for key, _ in model.named_parameters()] == [key for key, _ in plain.named_parameters()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not model._forward_pre_hooks
    refta.adapt(model, method, targets=MODELS[name][2], **METHODS[method])  # a merged model can be adapted again


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_merge_keeps_the_weights_dtype(dtype):
    adapted = adapted_stack("random", dtype=dtype)
    moved(adapted.model)
    x = torch.randn(5, 7, dtype=dtype)
    wanted = adapted.model(x).detach()
    model = refta.merge(adapted)
    assert {one.dtype for one in model.parameters()} == {dtype}
    assert relative_error(model(x).detach(), wanted) < (1e-12 if dtype == torch.float64 else 1e-2)


def test_merge_after_merge_and_of_nothing_is_refused_or_harmless():
    adapted = adapted_stack()
    refta.merge(adapted)
    with pytest.raises(SettingError, match="nothing to merge"):
        refta.merge(adapted)


def test_merge_in_the_order_of_a_stack_leaves_no_hook():
    adapted = adapted_stack(order="reconstruct_stack")
    assert len(adapted.model._forward_pre_hooks) == len(adapted.model._forward_hooks) == 1
    refta.merge(adapted)
    assert not adapted.model._forward_pre_hooks
    assert not adapted.model._forward_hooks


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_merge_with_the_public_codes_convention(order):
    adapted = adapted_stack(order=order, convention="public_code")
    x = torch.randn(5, 7)
    wanted = adapted.model(x).detach()
    assert relative_error(wanted, parallel(*stack_of("random"))(x).detach()) > 0.01
    assert relative_error(refta.merge(adapted)(x).detach(), wanted) < 1e-5


def test_what_is_trained():
    model = made("vit")[0].model
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert trained == [
        *("classifier.weight", "classifier.bias"),
        *(f"refta_adapter.{role}.{name}" for role in ("query", "value") for name in ("A", "B", "beta")),
    ]
    frozen: Any = refta.adapt(vit(), "refta", targets=["query"], rank=4, train_head=False).model
    assert [name for name, one in frozen.named_parameters() if one.requires_grad] == [
        f"refta_adapter.query.{name}" for name in ("A", "B", "beta")
    ]


def test_a_language_model_trains_no_head_unless_told():
    model = made("llama")[0].model
    assert not model.lm_head.weight.requires_grad
    told: Any = refta.adapt(llama(), "refta", targets=["query"], rank=4, train_head=True).model
    assert told.lm_head.weight.requires_grad


def test_counts_and_sites():
    adapted, _ = made("vit")
    assert adapted.trainable_parameters == 2 * 4 * (32 + 32 + 1)
    assert len(adapted.sites) == 4
    assert all(isinstance(adapted.model.get_submodule(site), nn.Module) for site in adapted.sites)
    assert set(adapted.slice_ranks) == {"query", "value"}
    assert all(sum(ranks) == 4 for ranks in adapted.slice_ranks.values())
    without_bias, _ = made("llama")
    assert without_bias.trainable_parameters == 4 * (32 + 32) + 4 * (16 + 32)


def test_unequal_shapes_are_separate_stacks_of_the_rank_each():
    model: Any = Parallel(4, 8, 6)
    model.layers[1].query = nn.Linear(6, 4)
    model.layers[3].query = nn.Linear(6, 8, bias=False)
    wanted = [layer.query(torch.ones(6)).detach() for layer in model.layers]
    adapted = refta.adapt(model, "refta", targets=["query"], rank=3)
    assert adapted.slice_ranks == {"query_0": adapted.slice_ranks["query_0"], "query_1": (3,), "query_2": (3,)}
    assert adapted.trainable_parameters == 3 * (8 + 7) + 3 * (4 + 7) + 3 * (8 + 6)
    for layer, one in zip(model.layers, wanted, strict=True):
        assert relative_error(layer(torch.ones(6)).detach(), one) < 1e-5


@pytest.mark.parametrize("order", [*REFTA_ORDERS, "auto", "published", "features"])
def test_parameters_and_random_draws_do_not_depend_on_the_order(order):
    torch.manual_seed(5)
    wanted, wanted_state = made("vit")[0].model, torch.get_rng_state()
    torch.manual_seed(5)
    found, found_state = made("vit", order=order)[0].model, torch.get_rng_state()
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in wanted.named_parameters()]
    assert all(torch.equal(one, other) for one, other in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True))
    assert torch.equal(found_state, wanted_state)


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_state_dict_round_trip(order):
    source, x = made("vit", order="shared")
    moved(source.model)
    target, _ = made("vit", order=order)
    target.model(x)
    target.model.load_state_dict(source.model.state_dict())
    assert relative_error(target.model(x).logits.detach(), source.model(x).logits.detach()) < 1e-5


@pytest.mark.parametrize("trained", [False, True], ids=["", "trained_transform"])
@pytest.mark.parametrize("order", ["slices", "auto"])
def test_a_state_dict_brings_slice_ranks_and_the_residuals_factors(tmp_path, order, trained):
    """Into a model of other weights, of which other slices have components; strictly, as checkpoints are loaded."""
    source = adapted_stack("random", train_transform=trained)
    target = adapted_stack("tied", order=order, train_transform=trained)
    moved(source.model)
    assert [sum(rank > 0 for rank in one.slice_ranks["query"]) for one in (source, target)] == [4, 1]
    target.model.load_state_dict(source.model.state_dict())
    x = torch.randn(5, 7)
    assert relative_error(target.model(x).detach(), source.model(x).detach()) < 1e-6
    assert target.slice_ranks == source.slice_ranks
    assert target.shapes() == source.shapes()
    for one, path in ((source, tmp_path / "source"), (target, tmp_path / "target")):
        refta.save(one, path)
    assert (tmp_path / "source").read_bytes() == (tmp_path / "target").read_bytes()


def test_a_state_dict_holds_nothing_but_tensors():
    """What formats such as safetensors take."""
    assert all(isinstance(one, torch.Tensor) for one in adapted_stack().model.state_dict().values())


def test_copies_of_data_parallel_are_refused():
    model = adapted_stack().model
    with pytest.raises(SettingError, match="use DistributedDataParallel"):
        model.layers[0].query._replicate_for_data_parallel()(torch.randn(5, 7))


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_a_deep_copy_is_its_own(order):
    adapted, x = made("vit", order=order)
    adapted.model(x)
    twin = copy.deepcopy(adapted)
    wanted = adapted.model(x).logits.detach()
    moved(twin.model)
    assert torch.equal(adapted.model(x).logits.detach(), wanted)
    changed = twin.model(x).logits.detach()
    assert relative_error(changed, wanted) > 1e-3
    twin.model(x).logits.sum().backward()
    assert gradients(twin.model)
    assert not gradients(adapted.model)
    assert relative_error(refta.merge(twin)(x).logits.detach(), changed) < 1e-5
    assert torch.equal(adapted.model(x).logits.detach(), wanted)


def test_the_replaced_layers_are_let_go():
    model = vit()
    replaced = weakref.ref(next(module for name, module in model.named_modules() if name.endswith("q_proj")))
    adapted = refta.adapt(model, "refta", targets=["query"], rank=4)
    gc.collect()
    assert replaced() is None
    assert adapted.stacks[0].sites[0].module is model.get_submodule(adapted.sites[0])


@pytest.mark.parametrize(("method", "settings"), [("refta", {"rank": 4}), ("lotr", {}), ("lora", {"rank": 2})])
def test_a_merge_lets_the_adapted_layers_go(method, settings):
    model = vit()
    adapted = refta.adapt(model, method, targets=["query"], **settings)
    replaced = weakref.ref(model.get_submodule(adapted.sites[0]))
    refta.merge(adapted)
    gc.collect()
    assert replaced() is None
    assert adapted.stacks[0].sites[0].module is model.get_submodule(adapted.sites[0])


@pytest.mark.parametrize(
    ("dtype", "factors"), [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_the_factors_dtype_by_default(dtype, factors):
    model = adapted_stack(dtype=dtype).model
    assert model.refta_adapter["query"].A.dtype == factors
    assert model.layers[0].query.weight.dtype == dtype


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_the_adapter_dtype_asked_for(order):
    model = adapted_stack(adapter_dtype="bfloat16", order=order).model
    assert model.refta_adapter["query"].A.dtype == torch.bfloat16
    x = torch.randn(5, 7)
    assert relative_error(model(x).detach(), parallel(*stack_of("random"))(x).detach()) < 1e-2


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_on_the_meta_device_there_is_no_svd_and_the_shapes_agree(order):
    real = made("vit", order=order)[0]
    with torch.device("meta"):
        hollow = vit()
    adapted = refta.adapt(hollow, "refta", targets=["query", "value"], rank=4, order=order, slice_ranks=real.slice_ranks)
    wanted = {name: (one.shape, one.dtype, one.requires_grad) for name, one in real.model.named_parameters()}
    assert {name: (one.shape, one.dtype, one.requires_grad) for name, one in hollow.named_parameters()} == wanted
    assert adapted.slice_ranks == real.slice_ranks
    assert adapted.trainable_parameters == real.trainable_parameters
    assert hollow(pixels().to("meta")).logits.shape == (2, 3)


def test_assumed_slice_ranks_are_as_even_as_can_be():
    with torch.device("meta"):
        model = vit(layers=3)
    adapted = refta.adapt(model, "refta", targets=["query"], rank=5)
    assert adapted.slice_ranks == {"query": (2, 2, 1)}
    with torch.device("meta"):
        model = vit(layers=3)
    with pytest.raises(SettingError, match=r"slice_ranks: .*sum to the rank 5"):
        refta.adapt(model, "refta", targets=["query"], rank=5, slice_ranks={"query": (1, 1, 1)})


def test_dropout_acts_in_training_alone():
    adapted, x = made("vit", dropout=0.5)
    wanted = adapted.model(x).logits.detach()
    adapted.model.train()
    torch.manual_seed(0)
    assert relative_error(adapted.model(x).logits.detach(), wanted) > 1e-3
    adapted.model.eval()
    assert torch.equal(adapted.model(x).logits.detach(), wanted)


def test_the_order_can_be_changed_between_steps():
    """Parameters stay; nothing that an order built per step is held or built after it."""
    adapted = adapted_stack(order="reconstruct_stack")
    moved(adapted.model)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    wanted = adapted.model(x).detach()
    before = [(name, id(one)) for name, one in adapted.model.named_parameters()]
    for order in (*REFTA_ORDERS, "auto", "auto_time", "features"):
        adapted.use_order(order)
        found = adapted.model(x)
        assert relative_error(found.detach(), wanted) < 1e-6
        found.sum().backward()
        assert adapted.order == adapted.model.refta_adapter["query"].order_name == order
        assert (len(adapted.model._forward_hooks) == 1) == (order == "reconstruct_stack")
    assert [(name, id(one)) for name, one in adapted.model.named_parameters()] == before


def test_an_order_that_cannot_be_changed_says_so():
    adapted = adapted_stack(order="shared", dropout=0.1)
    with pytest.raises(SettingError, match=r"dropout: 0\.1 with order 'fused'"):
        adapted.use_order("fused")
    with pytest.raises(SettingError, match="unknown order 'fussed'"):
        adapted.use_order("fussed")
    assert adapted.order == "shared"
    other = refta.adapt(vit(), "lora", rank=2)
    with pytest.raises(SettingError, match="'lora' does not change its order"):
        other.use_order("features")


@pytest.mark.parametrize("order", ["reconstruct", "reconstruct_recompute", "reconstruct_stack", "auto"])
def test_dropout_is_refused_where_no_features_are(order):
    with pytest.raises(SettingError, match=r"dropout: 0\.5 with order"):
        made("vit", order=order, dropout=0.5)


def test_full_and_head():
    everything = refta.adapt(vit(), "full")
    assert everything.trainable_parameters == sum(one.numel() for one in vit().parameters())
    assert all(one.requires_grad for one in everything.model.parameters())
    head = refta.adapt(vit(), "head")
    assert head.trainable_parameters == 0
    assert [name for name, one in head.model.named_parameters() if one.requires_grad] == ["classifier.weight", "classifier.bias"]
    with pytest.raises(SettingError, match="has no head to train"):
        refta.adapt(llama(), "head")


REFUSED = {
    "unknown method 'reftar'; did you mean 'refta'": {"method": "reftar"},
    "unknown key 'rnk'; did you mean 'rank'": {"rnk": 3},
    "rank: 0; it must be a whole number": {"rank": 0},
    "rank: 65; the 2 query layers of 32 × 32 have at most 64": {"rank": 65},
    "order: unknown order 'sharde' of 'refta'; there are shared": {"order": "sharde"},
    "transform: unknown name 'dtc'": {"transform": "dtc"},
    "convention: 'public'; there are exact, public_code": {"convention": "public"},
    "has no 'gate'": {"targets": ["gate"]},
    "dropout: 1.0": {"dropout": 1.0},
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_refused_leaves_the_model_as_it_was(fault):
    model = vit()
    before = [(name, one.requires_grad) for name, one in model.named_parameters()]
    asked: dict[str, Any] = {"method": "refta", "targets": ["query"], **REFUSED[fault]}
    with pytest.raises(ReftaError, match=fault):
        refta.adapt(model, asked.pop("method"), **asked)
    assert [(name, one.requires_grad) for name, one in model.named_parameters()] == before


def test_a_matrix_of_the_wrong_size_is_refused_and_leaves_the_model_as_it_was():
    model = vit()
    with pytest.raises(SettingError, match="a stack of 2 layers needs 2 × 2"):
        refta.adapt(model, "refta", targets=["query"], rank=3, transform=torch.eye(3))
    assert all(one.requires_grad for one in model.parameters())
    refta.adapt(model, "refta", targets=["query"], rank=3)


@pytest.mark.parametrize("method", ["refta", "pissa"])
def test_weights_that_cannot_be_decomposed_leave_the_model_as_it_was(method):
    """The fault is in the last site, after others were worked on; the model can be adapted once it is mended."""
    model = vit()
    last = refta.adapt(vit(), method, targets=["query", "value"], rank=2).sites[-1]
    weight = model.get_submodule(last).weight
    before, value = {name: one.clone() for name, one in model.state_dict().items()}, weight[3, 4].item()
    with torch.no_grad():
        weight[3, 4] = torch.nan
    with pytest.raises(SettingError, match=r"not finite|non-finite"):
        refta.adapt(model, method, targets=["query", "value"], rank=2)
    with torch.no_grad():
        weight[3, 4] = value
    assert model.state_dict().keys() == before.keys()
    assert all(torch.allclose(one, before[name], atol=1e-6) for name, one in model.state_dict().items())
    assert all(one.requires_grad for one in model.parameters())
    refta.adapt(model, method, targets=["query", "value"], rank=2)


def named(names: list[str], layers: int = 2) -> Any:
    """A model whose layers are a chain of linears of these names."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(OrderedDict((name, nn.Linear(6, 6)) for name in names)) for _ in range(layers)))


@pytest.mark.parametrize("method", ["refta", "lotr"])
def test_linears_may_have_names_that_a_container_has_of_its_own(method):
    names = ["values", "keys", "items", "head", "training_", "a_b"]
    settings = {"rank": 4} if method == "refta" else {}
    x = torch.randn(3, 6)
    adapted, other = (refta.adapt(named(names), method, targets=names, train_head=False, **settings) for _ in range(2))
    assert [stack.name for stack in adapted.stacks] == ["values_", "keys_", "items_", "head_", "training_", "a_b"]
    assert relative_error(adapted.model(x).detach(), named(names)(x).detach()) < 1e-5
    moved(adapted.model)
    other.model.load_state_dict(adapted.model.state_dict())
    wanted = adapted.model(x).detach()
    assert relative_error(other.model(x).detach(), wanted) < 1e-6
    assert all(adapted.model.get_parameter(name) is one for name, one in adapted.model.named_parameters())
    assert relative_error(refta.merge(adapted)(x).detach(), wanted) < 1e-5


def test_stacks_of_targets_that_give_one_name_are_all_trained():
    model = nn.Sequential(*(nn.Sequential(OrderedDict(a=nn.Sequential(OrderedDict(b=nn.Linear(6, 6))), a_b=nn.Linear(6, 6))) for _ in "ab"))
    adapted = refta.adapt(model, "refta", targets=["a.b", "a_b"], rank=2, train_head=False)
    assert [stack.name for stack in adapted.stacks] == ["a_b", "a_b_"]
    assert adapted.trainable_parameters == 2 * 2 * (6 + 7)


@pytest.mark.parametrize("method", ["refta", "lotr"])
def test_what_cannot_be_registered_leaves_the_sites_as_they_were(method):
    model = vit()
    model.refta_adapter = "another's"
    before = dict(model.named_modules())
    with pytest.raises(KeyError, match="refta_adapter"):
        refta.adapt(model, method, targets=["query", "value"])
    assert dict(model.named_modules()) == before
    assert all(one.requires_grad for one in model.parameters())
    assert not model._forward_hooks


@pytest.mark.parametrize("place", [0, 3])
def test_an_operand_that_cannot_be_made_leaves_the_model_as_it_was(monkeypatch, place):
    """The fault is in whatever is drawn first, and in a later stack."""
    from refta import tensor_adapter

    model, drawn = vit(), []

    def draw(tensor: torch.Tensor, init: str) -> torch.Tensor:
        drawn.append(init)
        if len(drawn) > place:
            raise MemoryError
        return tensor.zero_()

    monkeypatch.setattr(tensor_adapter, "fill", draw)
    before = dict(model.named_modules())
    with pytest.raises(MemoryError):
        refta.adapt(model, "lotr", targets=["query", "up"])
    assert dict(model.named_modules()) == before


def test_a_model_is_adapted_once():
    adapted, _ = made("vit")
    with pytest.raises(SettingError, match="already carries 'refta'"):
        refta.adapt(adapted.model, "lora", targets=["query"])


def test_progress_names_every_stack():
    said: list[str] = []
    refta.adapt(vit(), "refta", targets=["query", "value"], rank=3, progress=said.append)
    assert said == ["decompose query: 2 × 32 × 32", "decompose value: 2 × 32 × 32"]
