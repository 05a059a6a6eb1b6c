"""What the CPU makes of an operation's operands, where no dispatch mode sees it: Python numbers as tensors, and copies in the common dtype.

`x * 0.5` in float32 takes 8 bytes for the number (torch's scalar_tensor: float64 or int64) and 4 for it in x's dtype; `x + y` of float32
and bfloat16 takes a float32 copy of y (TensorIterator::compute_types). The copies go with the operation, and so does the number, unless
autograd keeps it (derivatives.yaml: `mul` and `div` keep the other operand). CUDA kernels read numbers and other dtypes as they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from refta_profiler.predict import gloo
from refta_profiler.predict.storage import Block, LiveStorages, unfollowed

NUMBER_BYTES = {bool: 1, int: 8, float: 8, complex: 16}
KEEPING = ("mul", "div")  # whose derivative needs the number
WRAPPING = (
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
)  # whose Scalar overload makes a tensor of the number too


class CpuStorages(LiveStorages):
    """Live storages as a CPU has them: with the numbers and copies that operations make of their operands."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[Any, list[Block]] | None = None  # an operation's result and the numbers that its node will keep

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.own_mode is not None and (waits := unfollowed(self.own_mode, func, types, args, kwargs or {})):
            return waits[0]
        if func.namespace == "prim":  # asked of a fake tensor's device while an operation is still under way
            return super().__torch_dispatch__(func, types, args, kwargs)
        self._bind()
        if func.namespace in ("c10d", "fsdp"):
            return self._communicate(func, types, args, kwargs or {})
        if torch.Tag.pointwise not in func.tags:
            return super().__torch_dispatch__(func, types, args, kwargs)
        numbers = [self.allocate(NUMBER_BYTES[type(one)], f"number of {func}") for one in numbers_of(func, args)]
        copies = [self.allocate(nbytes, f"operand of {func}") for nbytes in copied_bytes(func, args)]
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for block in copies:
            self.release(block)
        if numbers and is_kept(func, args):
            self._kept = out, numbers
        else:
            for block in numbers:
                self.release(block)
        return out

    def _communicate(self, func, types, args, kwargs) -> Any:
        """A collective's result; what gloo takes meanwhile is there when the operation has ended and goes at once."""
        out = super().__torch_dispatch__(func, types, args, kwargs)
        blocks = [self.allocate(nbytes, f"scratch of {func}") for nbytes in gloo.scratch(func, args, kwargs)]
        for block in blocks:
            self.release(block)
        return out

    def _bind(self) -> None:
        """Lets the numbers of the operation before go with its node, which is there once the operation has returned."""
        if self._kept is not None:
            (result, blocks), self._kept = self._kept, None
            when_over(result.grad_fn, lambda: [self.release(block) for block in blocks])

    def allocate(self, nbytes: int, operation: str) -> Block:
        """A new live block that belongs to no tensor."""
        block = Block(len(self.stream.blocks), nbytes, self.phase, operation, (), len(self.stream.events), passes=self.passes)
        self.stream.blocks.append(block)
        self.stream.events.append((block.number, 1))
        return block

    def release(self, block: Block) -> None:
        """Frees the block, the first time that it is called."""
        if block.died is None:
            block.died, block.died_phase = len(self.stream.events), self.phase
            self.stream.events.append((block.number, -1))


def numbers_of(func: Any, args: Sequence[Any]) -> list[Any]:
    """The Python numbers among an operation's operands that torch makes tensors of."""
    wraps = func._overloadpacket.__name__.rstrip("_") in WRAPPING
    slots = zip(func._schema.arguments, args, strict=False)
    return [
        value for slot, value in slots if type(value) in NUMBER_BYTES and (str(slot.type) == "Tensor" or (wraps and slot.name == "other"))
    ]


def copied_bytes(func: Any, args: Sequence[Any]) -> list[int]:
    """Bytes of the copy of every operand that is not in the operands' common dtype; [4] for float32 times a Python float."""
    numbers = numbers_of(func, args)
    tensors = [one for one in args if isinstance(one, torch.Tensor)]
    common = common_dtype(tensors, numbers)
    if common is None:
        return []
    others = [one for one in tensors if one.dtype != common and not (one.dtype == torch.bool and len(tensors) > 2)]
    made = {float: torch.float64, int: torch.int64, bool: torch.bool, complex: torch.complex128}
    return [one.numel() * common.itemsize for one in others] + [common.itemsize for one in numbers if made[type(one)] != common]


def common_dtype(tensors: Sequence[torch.Tensor], numbers: Sequence[Any]) -> torch.dtype | None:
    """The dtype in which an operation of two operands computes; None for one operand or more than two."""
    operands = [*tensors, *numbers]
    return torch.result_type(operands[0], operands[1]) if len(operands) == 2 else None


def is_kept(func: Any, args: Sequence[Any]) -> bool:
    """Whether autograd keeps the number: the operation is recorded and its derivative needs it."""
    recorded = torch.is_grad_enabled() and any(isinstance(one, torch.Tensor) and one.requires_grad for one in args)
    return recorded and func._overloadpacket.__name__ in KEEPING and func._overloadname == "Tensor"


def when_over(node: Any, call: Callable[[], Any]) -> None:
    """Calls when an autograd node has run or is destroyed, whichever comes first; at once where there is no node."""
    if node is None:
        call()
        return

    def hook(*gradients: Any) -> None:
        call()

    weakref.finalize(hook, call).atexit = False
    node.register_hook(hook)
