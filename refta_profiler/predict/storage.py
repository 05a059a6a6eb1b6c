"""Every live storage of a run, followed by weak reference, as a stream of allocations and frees."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from refta_profiler import collectives, flops
from refta_profiler.predict.row_sums import SUMS, RowSum, row_sum

ATEN = torch.ops.aten
PRODUCTS = (ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default, ATEN.baddbmm.default)  # a GPU runs them tile by tile of their results
HALF = (torch.float16, torch.bfloat16)
FULLY = (1.0, 1.0)
# A product in half precision, a row of one of whose matrices has an odd number of numbers, reads them one at a time: cuBLAS takes CUTLASS's
# kernels named …_align1 for it, which reached this share of the bandwidth on an H100 (torch 2.11; 384 products of ViT-H at rank 15, 22 µs
# to 27 µs for 21 MB each). Others read TOGETHER numbers at a time where rows are multiples of that.
ODD = (0.3, 0.3)
TOGETHER = 8
ON_THE_HOST = (0.0, 0.0)  # of a number that is read there, as Adam reads its counts of steps: a GPU has nothing to do


@dataclass
class Block:
    """One storage: its bytes, where it came from, and when it went (indices into the stream; None while live)."""

    number: int
    nbytes: int
    phase: str
    operation: str
    shape: tuple[int, ...]
    born: int
    died: int | None = None
    died_phase: str | None = None
    is_gradient: bool = False
    is_weight: bool = False  # a whole weight that FSDP gathered
    passes: int = 0  # how many backward passes of the step had ended when it came
    is_held: bool = False  # of outputs that the loop keeps until the next forward has returned


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation that the device runs: its FLOPs, and the bytes that it reads and writes (0 for a view, which runs nothing).

    product: the shape of a matrix product's result, (rows, columns) or (copies, rows, columns); () of everything else. reached: what a
    GPU's kernel reaches of the FLOP/s of products and of the bandwidth, where it is known to be less than others.
    """

    phase: str
    name: str
    dtype: str
    flops: int
    nbytes: int
    product: tuple[int, ...] = ()
    reached: tuple[float, float] = FULLY

    @property
    def sizes(self) -> tuple:
        """All of it but how fast it runs."""
        return self.phase, self.name, self.dtype, self.flops, self.nbytes, self.product

    def is_odd(self, width: int | None) -> bool:
        """Whether it is an ODD product, one of whose three sizes is that width: (8224, 15) of inner 1280 is, of width 15."""
        if self.reached != ODD or width is None:
            return False
        inner = self.flops // (2 * math.prod(self.product) or 1)
        return width in (*self.product[-2:], inner)


@dataclass
class Stream:
    """The allocations (+) and frees (−) of one step, in order, as (block number, sign)."""

    blocks: list[Block] = field(default_factory=list)
    events: list[tuple[int, int]] = field(default_factory=list)


class LiveStorages(TorchDispatchMode):
    """Follows storages that operations make, and counts FLOPs by phase, within `with`. `phase` and `passes` are set from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.follows = False  # within `with` alone: what stands in for kernels, and storages' resizes, tell it of a warm-up's too
        self.phase = "forward"
        self.passes = 0  # backward passes of the step that have ended; set from outside
        self.stream = Stream()
        self.flops_by_phase: dict[str, int] = {}
        self.operations: list[Operation] = []
        self.branches = 0  # on the numbers of a tensor, all taken as true
        self.first_products: dict[str, int] = {}  # by phase: how many events there were when its first matrix product had its result
        self.row_sums: list[RowSum] = []
        self.first_biased: dict[str, int] = {}  # and when the first that adds a bias had its
        self.own_mode: Any = None  # the fake mode whose tensors are followed; None: all are
        self.sent = collectives.Sent()
        self._known: dict[int, weakref.ref] = {}
        self._live: dict[int, Block] = {}

    def __enter__(self) -> Self:
        self.follows = True
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self.follows = False

    def know(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take storages for granted: they are live before the stream begins."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[id(storage)] = weakref.ref(storage, lambda _, key=id(storage): self._known.pop(key, None))

    def close(self) -> None:
        """Follow no more: what goes from now on, goes because the model does."""
        self._known.clear()
        self._live.clear()

    def live_blocks(self) -> list[tuple[int, Block]]:
        """What is live now, by the identity of its storage."""
        return list(self._live.items())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is ATEN._local_scalar_dense.default and args[0].dtype == torch.bool:
            self.branches += 1  # e.g. LoHa's `torch.rand(1) > module_dropout`: fake tensors have no numbers to decide by
            return True
        if self.own_mode is not None and (waits := unfollowed(self.own_mode, func, types, args, kwargs or {})):
            return waits[0]
        self.sent.see(func, args)
        out = self.run(func, args, kwargs or {})
        work = flops.count(func, args, kwargs or {}, out)
        if func.namespace != "prim":
            tensors = list(tensors_of((args, out)))
            moved = 0 if _runs_nothing(func) else sum(touched_bytes(one) for one in tensors)
            product = tuple(out.shape) if func in PRODUCTS else ()
            reached = reached_by([*args[-2:], out]) if product else ON_THE_HOST if func is ATEN._local_scalar_dense.default else FULLY
            self.record(str(func._overloadpacket), work, moved, dtype_of(tensors), product, reached)
        for tensor in tensors_of(out):
            self._see(tensor, str(func))
        if work:  # a product asks for its handle, and with it for a workspace, when its result has been allocated
            self.first_products.setdefault(self.phase, len(self.stream.events))
        if func in SUMS and self.follows and (found := row_sum(args, len(self.stream.events), self.phase)):
            self.row_sums.append(found)
        if adds_bias(func, args):
            self.first_biased.setdefault(self.phase, len(self.stream.events))
        return out

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The operation's result."""
        return func(*args, **kwargs)

    def record(
        self, name: str, work: int, nbytes: int, dtype: str, product: tuple[int, ...] = (), reached: tuple[float, float] = FULLY
    ) -> None:
        """Count an operation of that many FLOPs and bytes moved in the phase at hand."""
        if not self.follows:
            return
        if work:
            self.flops_by_phase[self.phase] = self.flops_by_phase.get(self.phase, 0) + work
        self.operations.append(Operation(self.phase, name, dtype, work, nbytes, product, reached))

    def _see(self, tensor: torch.Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known or storage.nbytes() == 0:
            return
        self._born(storage, tuple(tensor.shape), operation)

    def _born(self, storage: torch.UntypedStorage, shape: tuple[int, ...], operation: str) -> Block:
        key = id(storage)
        block = Block(len(self.stream.blocks), storage.nbytes(), self.phase, operation, shape, len(self.stream.events), passes=self.passes)
        self.stream.blocks.append(block)
        self.stream.events.append((block.number, 1))
        self._live[key] = block
        self._known[key] = weakref.ref(storage, lambda _, key=key, block=block: self._gone(key, block))
        return block

    def resized(self, storage: torch.UntypedStorage) -> None:
        """See a storage that was given other bytes: FSDP frees and takes the memory of a gathered weight so."""
        if not self.follows:
            return
        key = id(storage)
        block = self._live.pop(key, None)
        if block is not None:
            self._known.pop(key, None)
            self._dead(block)
        if storage.nbytes():
            self._born(storage, (storage.nbytes(),), "resize_").is_weight = True

    def _gone(self, key: int, block: Block) -> None:
        self._known.pop(key, None)
        self._live.pop(key, None)
        self._dead(block)

    def _dead(self, block: Block) -> None:
        block.died, block.died_phase = len(self.stream.events), self.phase
        block.is_held = block.phase == self.phase == "forward" and block.passes < self.passes
        self.stream.events.append((block.number, -1))


def reached_by(matrices: Sequence[torch.Tensor]) -> tuple[float, float]:
    """`Operation.reached` of the product of the first two that gives the third: 8 × 15 numbers in bfloat16 are read one at a time."""
    if matrices[0].dtype not in HALF or 1 in (size for one in matrices for size in one.shape[-2:]):  # vectors have kernels of their own
        return FULLY
    return ODD if any(max(one.stride()[-2:]) % 2 for one in matrices) else FULLY


def adds_bias(func: Any, args: Sequence[Any]) -> bool:
    """Whether CUDA runs an operation by cuBLASLt, as it does products with a bias (torch's Blas.cpp, isInputCompliesAddmmCudaLt)."""
    if func is not torch.ops.aten.addmm.default:
        return False
    bias, _, weight = args[:3]
    return bias.dim() == 1 and bias.shape[0] == weight.shape[1] and min(weight.shape) > 1


def unfollowed(own_mode: Any, func: Any, types: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """What to return for an operation that is not followed, in a list; [] for one that is.

    A sharded tensor (DTensor) first takes itself apart; what it works out about shapes, it does on fake tensors of a mode of its own.
    """
    if any(one.__name__ == "DTensor" for one in types):
        return [NotImplemented]
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not own_mode:
        return [func(*args, **kwargs)]
    return []


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in an operation's operands or results: alone, or in lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_of(one)


@functools.cache
def _runs_nothing(func: Any) -> bool:
    """Whether an operation makes a view (its result aliases an operand that it does not write), or takes memory and fills nothing."""
    aliases = [one.alias_info for one in func._schema.returns]
    view = any(one is not None and not one.is_write for one in aliases)
    return (
        view
        or func._overloadpacket.__name__ in ("_unsafe_view", "lift_fresh")
        or func._overloadpacket.__name__.startswith(("empty", "new_empty"))
    )


def touched_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's numbers, an expanded axis once: 1024 × 8 in float32 expanded from 1024 × 1 is 4,096."""
    count = tensor.itemsize
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or size == 0 else 1
    return count


def dtype_of(tensors: Sequence[torch.Tensor]) -> str:
    """The dtype that an operation of these operands and results computes in: the first that is a floating-point one; '' where none is."""
    return next((_name_of(one.dtype) for one in tensors if one.dtype.is_floating_point), "")


@functools.cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


ALIKE = ("add", "sub", "mul", "div", "gelu", "gelu_backward", "silu", "silu_backward", "tanh", "tanh_backward", "neg", "relu")
OF_TWO = PRODUCTS[:2]  # matrices


class MetaStorages(LiveStorages):
    """Live storages of the meta device; elementwise operations on tensors laid out alike get their results without their kernels.

    torch's meta kernels of elementwise operations and products are written in Python and take most of a dry run.
    """

    def _see(self, tensor: torch.Tensor, operation: str) -> None:
        if tensor.is_meta:  # others stay on the host, as torch.tensor(0.5) does
            super()._see(tensor, operation)

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The operation's result; a new tensor laid out as its operands where they are all alike, and of a product's shape for one."""
        if func in OF_TWO:
            left, right = args[-2], args[-1]
            return left.new_empty((left.shape[0], right.shape[1]))
        if not _is_alike(func) or not isinstance(args[0], torch.Tensor):
            return func(*args, **kwargs)
        first, others = args[0], [one for one in args[1:] if isinstance(one, torch.Tensor)]
        plain = first.is_contiguous() and first.dtype.is_floating_point and all(one.dtype == first.dtype for one in others)
        if plain and all((one.shape == first.shape and one.is_contiguous()) or _spreads_over(one, first) for one in others):
            return first if func._overloadpacket.__name__.endswith("_") else torch.empty_like(first)
        return func(*args, **kwargs)


def _spreads_over(one: torch.Tensor, first: torch.Tensor) -> bool:
    """Whether a smaller tensor broadcasts to another's shape, whose layout the result then has."""
    if one.numel() == first.numel() or one.dim() > first.dim():
        return False
    return all(size in (1, wanted) for size, wanted in zip(reversed(one.shape), reversed(first.shape), strict=False))


@functools.cache
def _is_alike(func: Any) -> bool:
    return func._overloadpacket.__name__.removesuffix("_") in ALIKE and func._overloadname in ("Tensor", "default")
