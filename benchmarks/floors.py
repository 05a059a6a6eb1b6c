"""The least that any implementation of ReFTA's step can spend beyond the frozen base, as functions of the token count. No torch.

By classical matrix products over the trees there are: the update of y and of ∂L/∂x each as features or through the folded weight, and the
factors' gradients from the features (through ∂L/∂W where R is large). What is needed twice is counted once, as if it could be kept for
nothing; so no order reaches every line of it at once. Kept bytes beyond x: none, since x gives the features again.
"""

from __future__ import annotations

from refta.shapes import StackShape


def layer_flops(shape: StackShape, rank: int, tokens: int, *, x_needs_gradient: bool = True) -> int:
    """Forward and backward FLOPs of one layer: with n = d the lesser of 12tRd and 2Rd² + 8tRd, for R well below d.

    n = 5, d = 7, R = 3, t = 2: features 6 · 2 · 3 · 12 = 432.
    """
    n, d, t = shape.rows, shape.columns, tokens
    inner, outer, fold = 2 * t * rank * d, 2 * t * rank * n, 2 * rank * n * d
    from_features = 2 * outer + inner  # ∂L/∂y · A and ∂A; ∂B
    from_weight = 2 * t * n * d + 2 * fold  # ∂L/∂W; ∂A and ∂B from it
    as_features = inner + outer + from_features + (inner if x_needs_gradient else 0)
    folded = fold + min(from_features + inner, from_weight)
    return min(as_features, folded)


def model_flops(shapes: list[StackShape], rank: int, tokens: int) -> int:
    """The same over all adapted layers; the first ones' x needs no gradient."""
    return sum(
        layer_flops(one, rank, tokens) * (one.layers - one.inputs_without_gradient)
        + layer_flops(one, rank, tokens, x_needs_gradient=False) * one.inputs_without_gradient
        for one in shapes
    )
