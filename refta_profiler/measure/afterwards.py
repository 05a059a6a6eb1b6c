"""What comes after training: the file that an adapter is kept in, and folding it into the weights. Each done once, after all else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from refta import adapter
from refta.errors import SettingError
from refta_profiler.errors import FULL, first_line, in_a_line, is_of
from refta_profiler.measure import scratch
from refta_profiler.measure.out_of_memory import is_out_of_memory
from refta_profiler.measure.timing import on_cuda

if TYPE_CHECKING:
    from refta_profiler.workload import Workload

FILE, MERGE = "adapter_file_bytes", "merge_seconds"
WHOLE = "full"  # its file is the model's own


def measure(work: Workload) -> dict[str, dict[str, Any]]:
    """{metric: {value} or {value: None, status, note}} of what the method has: one without an adapter has no file and nothing to merge."""
    if not work.adapted.trainable_parameters or work.adapted.method == WHOLE:
        return {}
    if work.point.parallel:
        note = "not measured on several ranks: a single process's file and merging are the same"
        return {metric: {"value": None, "status": "skipped", "note": note} for metric in (FILE, MERGE)}
    merging = {} if work.adapted.attached is None else {MERGE: lambda: merge_seconds(work)}  # one's own code says nothing of merging
    return {metric: tried(read) for metric, read in {FILE: lambda: file_bytes(work), **merging}.items()}


def tried(read: Callable[[], float]) -> dict[str, Any]:
    """The value, or the reason why there is none: the steps before it were measured and stay."""
    try:
        return {"value": read()}
    except SettingError as error:  # a method that cannot, as a serial adapter cannot be merged, is no failure
        return {"value": None, "status": "unsupported", "note": first_line(error)}
    except Exception as error:  # the metric's row says it
        if is_of(error, FULL):
            raise  # of a full disk neither the point nor the instrument is to blame: the worker says it
        return {"value": None, "status": "oom" if is_out_of_memory(error) else "error", "note": in_a_line(error)}


def file_bytes(work: Workload) -> int:
    """The size of `refta.save`'s file, of another method's trained tensors as safetensors; a trained head is in it."""
    with scratch.folder() as folder:
        path = folder / "adapter.safetensors"
        if work.adapted.method == "refta":
            adapter.save(work.adapted, path)
        else:
            save_trained(work.model, path)
        return path.stat().st_size


def save_trained(model: torch.nn.Module, path: Path) -> None:
    """Write every trained parameter under its name."""
    from safetensors.torch import save_file

    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    save_file({name: one.detach().cpu().contiguous() for name, one in trained.items()}, path)


def merge_seconds(work: Workload) -> float:
    """Seconds to fold the adapter into the weights; the model is a plain one afterwards."""
    wait = torch.cuda.synchronize if on_cuda(work) else lambda: None
    wait()
    started = time.perf_counter()
    adapter.merge(work.adapted)
    wait()
    return time.perf_counter() - started
