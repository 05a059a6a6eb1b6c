"""ReFTA: the principal components of a stack of layers, trained; the residual frozen (CVPR 2026; refta.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from refta.errors import SettingError
from refta.network import Network, Operand, Order
from refta.operands import AUTOMATIC
from refta.registry import whole_number
from refta.shapes import StackShape
from refta.transforms import NAMES as TRANSFORMS

SUMMARY = "principal components of a mode-3 transformed stack of layers, as features (CVPR 2026)"

_FEATURES = ((("x", "B"), "u"), "A")
_FOLD = ("x", (("A", "u"), "B"))
_ORDERS = {
    "shared": Order(_FEATURES),
    "slices": Order((("x", "B"), "A"), mode="slices"),
    "reconstruct": Order(_FOLD),
    "reconstruct_recompute": Order(_FOLD, mode="recompute"),
    "reconstruct_stack": Order(_FOLD, mode="stack"),
    "fused": Order(_FEATURES, mode="fused"),
    "fused_fold": Order(_FOLD, mode="fused_fold"),
}
_ALIASES = {"published": "shared", "features": "shared"}
ORDERS = (*_ORDERS, *_ALIASES, *AUTOMATIC)
Convention = Literal["exact", "public_code"]


@dataclass(frozen=True)
class Settings:
    """`rank` R per stack; `transform` dct, dft_real, identity, lsm (also called hosvd; from the weights) or Φ itself, an orthogonal matrix;
    `convention: public_code` reads Φ transposed, as the public code does.

    `train_transform` trains Φ too (K² numbers a stack), under the penalty `transform_penalty` · ‖ΦᵀΦ − I‖², which `Adapted.penalty`
    gives and the training step adds to the loss.
    """

    rank: int = 8
    transform: Any = "dct"
    convention: Convention = "exact"
    dropout: float = 0.0
    train_transform: bool = False
    transform_penalty: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        if isinstance(self.transform, str) and self.transform not in TRANSFORMS:
            raise SettingError(
                f"transform: unknown name '{self.transform}'; there are {', '.join(TRANSFORMS)}, or a K × K orthogonal matrix"
            )
        if self.convention not in get_args(Convention):
            raise SettingError(f"convention: '{self.convention}'; there are {', '.join(get_args(Convention))}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise SettingError(f"dropout: {self.dropout!r}; it must be a number from 0 up to, not including, 1")
        self._check_trained_transform()

    def _check_trained_transform(self) -> None:
        trains, weight = self.train_transform, self.transform_penalty
        if not isinstance(trains, bool):
            raise SettingError(f"train_transform: {trains!r}; it must be true or false")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise SettingError(f"transform_penalty: {weight!r}; it must be a number of at least 0")
        if weight and not trains:
            raise SettingError(f"transform_penalty: {weight}; a frozen Φ stays orthogonal: set train_transform: true, or leave it out")


def assumed_slice_ranks(rank: int, layers: int) -> tuple[int, ...]:
    """R_j spread as evenly as can be: G = min(K, R) slices, for when the weights are not at hand; 15 over 4 is (4, 4, 4, 3)."""
    return tuple(rank // layers + (j < rank % layers) for j in range(layers))


def network(settings: Settings, shape: StackShape) -> Network:
    """ReFTA's update `td,rd,r,nr->tn` at one layer: x, B and β, u = Φ[k, slice of each component], A; Φ itself where it is trained."""
    _check_rank(settings, shape)
    _check_transform(settings, shape)
    ranks = shape.slice_ranks or assumed_slice_ranks(settings.rank, shape.layers)
    beta = (Operand("beta", "r"),) if shape.bias else ()
    trained = settings.train_transform
    operands = (
        Operand("B", "rd", constant="beta" if shape.bias else None),
        *beta,
        Operand("u", "r", trainable=trained, shared=False, gathered_from="transform_matrix" if trained else None),
        Operand("A", "nr"),
        *((Operand("transform_matrix", "ij"),) if trained else ()),
    )
    sizes = {**shape.sizes, "r": settings.rank, **({"i": shape.layers, "j": shape.layers} if trained else {})}
    return Network(sizes, operands, _ORDERS, _ALIASES, tuple(rank for rank in ranks if rank))


def _check_rank(settings: Settings, shape: StackShape) -> None:
    largest = shape.layers * min(shape.rows, shape.columns + shape.bias)
    if settings.rank > largest:
        layers = f"the {shape.layers} {shape.role} layers of {shape.rows} × {shape.columns}"
        raise SettingError(f"rank: {settings.rank}; {layers} have at most {largest} components")


def _check_transform(settings: Settings, shape: StackShape) -> None:
    given = settings.transform
    if not isinstance(given, str) and hasattr(given, "__len__") and len(given) != shape.layers:
        wanted = f"a stack of {shape.layers} layers needs {shape.layers} × {shape.layers}"
        raise SettingError(f"transform: the matrix has {len(given)} rows; {wanted}")


def attach(model, stacks, settings: Settings, run):
    """The adapter on the model: every stack decomposed, every site an AdaptedLinear on the residual."""
    from refta.stacking import attach_refta

    return attach_refta(model, stacks, settings, run)
