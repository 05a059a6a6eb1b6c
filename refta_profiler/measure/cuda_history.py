"""The CUDA caching allocator's own history of one step, in a file for torch's viewer (pytorch.org/memory_viz)."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from refta_profiler.errors import ProfilerError

ENTRIES = 200_000  # events that are kept; a step of a large model has some ten thousand


def write_history(step: Callable[[], Any], path: Path) -> Path:
    """One step's allocations and frees with their Python stacks, pickled at `path`; the file appears whole or not at all.

    It has the bytes that were asked for, which the timeline has not (that counts whole blocks), and what is reserved. Recording is switched
    off again, whatever the step comes to. Raises ProfilerError where this torch cannot record it.
    """
    record: Any = getattr(torch.cuda.memory, "_record_memory_history", None)
    take: Any = getattr(torch.cuda.memory, "_snapshot", None)
    if record is None or take is None:
        raise ProfilerError(f"torch {torch.__version__} cannot record the history of its CUDA allocator (torch.cuda.memory._snapshot)")
    record(enabled="all", context="alloc", stacks="python", max_entries=ENTRIES)
    try:
        step()
        torch.cuda.synchronize()
        content = take()
    finally:
        record(enabled=None)
    return _write(path, pickle.dumps(content))


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
