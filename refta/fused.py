"""ReFTA's layer with its backward written by hand: frozen base and adapter in one function that keeps x and nothing more.

`y = x Wᵀ + b + ((x Bᵀ + β) ∘ u) Aᵀ`. The features x Bᵀ + β are thin (t × R) and computed again in backward; both products of R columns
accumulate into a result that is there already (y, and ∂L/∂x), so no second t × n or t × d tensor is made and no pass over one is spent on a
sum. x is kept as it came, so all roles that read one x keep one. cost.py counts what runs here (fused_cost.py).

Products run in autocast's dtype where it is on, else the base's in its own dtype and the adapter's in the factors', as peft has it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from refta import autocast

ONCE = (
    "the orders `fused` and `fused_fold` of ReFTA have a backward written by hand, which cannot be differentiated again "
    "(create_graph=True); use order `shared` for second derivatives"
)
Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]  # A (n, R), B (R, d), β (R) or None, u (R)
Dtypes = tuple[torch.dtype, torch.dtype]  # of the base's products, and of the adapter's


def fused(mode: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """The adapted layer's output, x (..., d) → (..., n), as features (`fused`) or on a folded weight (`fused_fold`)."""
    function = _FoldedForward if mode == "fused_fold" else _Features
    base = autocast.dtype_of(x)
    dtypes = (base, base if autocast.is_on(x) else operands["A"].dtype)
    with autocast.off(x):
        y = function.apply(dtypes, x, weight, bias, operands["A"], operands["B"], operands.get("beta"), operands["u"])
        return y.view(*x.shape[:-1], y.shape[-1])  # out here: a view made inside a function may not be changed in place


class _Features(torch.autograd.Function):
    """The update as features, added into the base's output; in backward added into ∂L/∂x."""

    @staticmethod
    def forward(dtypes: Dtypes, x, weight, bias, *factors):
        flat = x.reshape(-1, x.shape[-1])
        y = F.linear(flat.to(dtypes[0]), weight.to(dtypes[0]), None if bias is None else bias.to(dtypes[0]))
        a, b, beta, u = _cast(factors, dtypes[1])
        return _plus_product(y, _features(flat.to(dtypes[1]), b, beta).mul_(u), a.T)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _keep(ctx, *inputs)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[override]
        return _backward(ctx, gradient, _gradient_of_input)


class _FoldedForward(torch.autograd.Function):
    """One linear on a folded weight, which is folded again for ∂L/∂x; the factors' gradients from the features, not from an n × d one."""

    @staticmethod
    def forward(dtypes: Dtypes, x, weight, bias, *factors):
        flat = x.reshape(-1, x.shape[-1]).to(dtypes[0])
        folded = _folded(weight, factors, dtypes)
        return F.linear(flat, folded, _folded_bias(bias, factors, dtypes))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _keep(ctx, *inputs)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[override]
        return _backward(ctx, gradient, _gradient_through_fold)


def _keep(ctx, dtypes, x, weight, bias, *factors) -> None:
    ctx.dtypes = dtypes
    ctx.save_for_backward(x, weight, *factors)


def _backward(ctx, gradient: torch.Tensor, gradient_of_input) -> tuple:
    """The gradients of `forward`'s arguments, of which there is no second derivative."""
    with torch.no_grad(), autocast.off(gradient):
        found = _gradients(ctx, gradient, gradient_of_input)
    return _once(ctx, gradient, found)


def _gradients(ctx, gradient: torch.Tensor, gradient_of_input) -> tuple:
    """The gradient of every argument of `forward`, None where it is not needed; the frozen base's only if it was thawed.

    What is t × R long goes as soon as it was used: at most two such tensors stand at once (three where u is trained).
    """
    x, weight, *factors = ctx.saved_tensors
    _, needs_x, needs_weight, needs_bias, *needs = ctx.needs_input_grad
    flat = x.reshape(-1, x.shape[-1])
    components, own = _gradients_of_factors(flat, gradient, factors, ctx.dtypes[1], needs)
    of_x = gradient_of_input(gradient, weight, factors, ctx.dtypes, components).view(x.shape).to(x.dtype) if needs_x else None
    of_weight = (gradient.T @ flat.to(gradient.dtype)).to(weight.dtype) if needs_weight else None
    of_bias = gradient.sum(0).to(weight.dtype) if needs_bias else None
    return None, of_x, of_weight, of_bias, *own


def _gradients_of_factors(flat: torch.Tensor, outer: torch.Tensor, factors, dtype: torch.dtype, needs) -> tuple[torch.Tensor, list]:
    """∂L/∂(x Bᵀ + β) (t, R), and the gradients of A, B, β and u that are needed."""
    a, b, beta, u = _cast(factors, dtype)
    needs_a, needs_b, needs_beta, needs_u = needs
    flat, outer = flat.to(dtype), outer.to(dtype)
    components = outer @ a
    of_a = of_u = None
    if needs_a or needs_u:
        features = _features(flat, b, beta)
        of_u = (components * features).sum(0) if needs_u else None
        of_a = outer.T @ features.mul_(u) if needs_a else None
        del features
    components.mul_(u)
    of_b = components.T @ flat if needs_b else None
    of_beta = components.sum(0) if needs_beta else None
    found = zip((of_a, of_b, of_beta, of_u), factors, strict=True)
    return components, [None if one is None else one.to(factor.dtype) for one, factor in found]


def _gradient_of_input(outer: torch.Tensor, weight: torch.Tensor, factors, dtypes: Dtypes, components: torch.Tensor) -> torch.Tensor:
    return _plus_product(outer @ weight.to(dtypes[0]), components, factors[1].to(dtypes[1]))


def _gradient_through_fold(outer: torch.Tensor, weight: torch.Tensor, factors, dtypes: Dtypes, components: torch.Tensor) -> torch.Tensor:
    return outer @ _folded(weight, factors, dtypes)


def _features(flat: torch.Tensor, b: torch.Tensor, beta: torch.Tensor | None) -> torch.Tensor:
    """x Bᵀ + β (t, R)."""
    return F.linear(flat, b, beta)


def _folded(weight: torch.Tensor, factors, dtypes: Dtypes) -> torch.Tensor:
    """W + (A ∘ u) B (n, d), rounded once, in the dtype of the base's products."""
    a, b, _, u = factors
    if weight.dtype == a.dtype:
        return torch.addmm(weight, a * u, b).to(dtypes[0])
    return torch.mm(a * u, b).add_(weight).to(dtypes[0])


def _folded_bias(bias: torch.Tensor | None, factors, dtypes: Dtypes) -> torch.Tensor | None:
    """b + A (u ∘ β) (n)."""
    a, _, beta, u = factors
    if beta is None:
        return None if bias is None else bias.to(dtypes[0])
    update = torch.mv(a, u * beta)
    return (update if bias is None else update.add_(bias)).to(dtypes[0])


def _plus_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """total + left · right, in total's memory. (`out=` rather than `addmm_`, which torch's FLOP counter does not know.)"""
    if total.dtype == left.dtype:
        return torch.addmm(total, left, right, out=total)
    return total.add_(left @ right)


def _cast(factors, dtype: torch.dtype) -> Factors:
    a, b, beta, u = factors
    return a.to(dtype), b.to(dtype), None if beta is None else beta.to(dtype), u.to(dtype)


def _once(ctx, gradient: torch.Tensor, found: tuple) -> tuple:
    """The gradients; where a graph of the backward is recorded, they raise when that graph is differentiated."""
    if not torch.is_grad_enabled():
        return found
    wanted = [place for place, one in enumerate(found) if one is not None]
    sources = [one for one in (gradient, *ctx.saved_tensors) if one is not None]
    refusing = iter(_Once.apply(len(wanted), *(found[place] for place in wanted), *sources))
    return tuple(None if one is None else next(refusing) for one in found)


class _Once(torch.autograd.Function):
    """Its first `count` tensors, with a backward that says what cannot be done."""

    @staticmethod
    def forward(count, *tensors):
        return tuple(one.view_as(one) for one in tensors[:count])

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError(ONCE)
