"""What a run ran on and with: versions, device, commit, settings that matter."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from refta_profiler.measure import gpu

PACKAGES = ("refta-profiler", "torch", "transformers", "peft", "opt_einsum", "fvcore", "numpy", "pandas", "matplotlib", "safetensors")
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
)


def describe(device: str) -> dict[str, Any]:
    """The environment as a mapping; `device` is 'cpu' or 'cuda'."""
    import torch

    return {
        "device": device_name(device),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        **_commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "torch_interop_threads": torch.get_num_interop_threads(),
            "load_average": list(os.getloadavg()),
        },
        "torch_settings": torch_settings(),
        "gpu": _gpu() if device == "cuda" else None,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def device_name(device: str) -> str:
    """`cpu: MODEL` or `cuda: MODEL`."""
    if device == "cuda":
        import torch

        return f"cuda: {torch.cuda.get_device_name()}"
    return f"cpu: {_cpu_model()}"


def where(device: str) -> dict[str, Any]:
    """The node and the device that this process measures on, a processor with its threads, and at which priority (`nice`, 0 is usual)."""
    import torch

    threads = torch.get_num_threads()
    used = "" if device == "cuda" else f", {threads} thread{'' if threads == 1 else 's'}"
    return {"node": platform.node(), "device": device_name(device) + used, "nice": os.getpriority(os.PRIO_PROCESS, 0)}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> dict[str, Any]:
    """The commit that this code is at and whether it was changed since; nothing where it is not a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": found.stdout.strip(), "uncommitted_changes": bool(changed.stdout.strip())}


def torch_settings() -> dict[str, Any]:
    """The switches of torch that change what a kernel is, or how exact."""
    import torch

    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "mkldnn": torch.backends.mkldnn.enabled,  # type: ignore[attr-defined]
    }


def _gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": [properties.major, properties.minor],
        "cuda": torch.version.cuda,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "driver": gpu.driver() or gpu.ABSENT,
        "conditions": gpu.conditions(),
    }
