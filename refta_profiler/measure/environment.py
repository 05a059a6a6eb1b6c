"""What a run ran on and with: versions, device, commit, settings that matter."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from refta_profiler.measure import checkout, gpu, processor, versions

PACKAGES = ("refta-profiler", "torch", "transformers", "peft", "opt_einsum", "fvcore", "numpy", "pandas", "matplotlib", "safetensors")
VARIABLES = (  # that change speed, memory, or which kernels are used
    "ATEN_CPU_CAPABILITY",
    "HF_HUB_OFFLINE",
    "LD_PRELOAD",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TRANSFORMERS_OFFLINE",
)
FAMILIES = ("CUBLAS", "CUDA_", "CUDNN", "DNNL_", "GOMP_", "KMP_", "MALLOC_", "MKL_", "NCCL_", "OMP_", "ONEDNN_")
PLACES = ("_HOME", "_PATH", "_ROOT", "_DIR")  # endings of those that only say where something lies
LIBRARIES = {"mkl": r"Math Kernel Library Version (\S+)", "onednn": r"MKL-DNN v(\S+)"}  # as torch.__config__.show() names their versions
PROGRAM = "__main__.py"


def describe(device: str) -> dict[str, Any]:
    """The environment as a mapping; `device` is 'cpu', 'cuda' or one of several, 'cuda:1'."""
    import torch

    return {
        "device": device_name(device),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        **checkout.describe(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "libraries": libraries(),
        "cpu": {
            **processor.describe(),
            "torch_threads": torch.get_num_threads(),
            "torch_interop_threads": torch.get_num_interop_threads(),
        },
        "torch_settings": torch_settings(),
        "gpu": _gpu(device) if device.startswith("cuda") else None,
        "variables": variables(),
    }


def command(arguments: list[str]) -> str:
    """The command line, quoted for a shell; started as a module or a script, by that name and not by where its file lies."""
    program = Path(arguments[0])
    named = f"python -m {program.parent.name}" if program.name == PROGRAM else shlex.quote(program.name)
    return " ".join([named, shlex.join(arguments[1:])]).strip()


def variables() -> dict[str, str]:
    """The environment variables that can change a measurement, as far as they are set."""
    kept = [name for name in sorted(os.environ) if name in VARIABLES or (name.startswith(FAMILIES) and not name.endswith(PLACES))]
    return {name: os.environ[name] for name in kept}


def libraries() -> dict[str, str]:
    """The versions of what torch was built with: {mkl, onednn, cuda, cudnn, nccl}, those that it has."""
    import torch

    shown = torch.__config__.show()
    found = {name: match[1] for name, pattern in LIBRARIES.items() if (match := re.search(pattern, shown))}
    if torch.version.cuda is None:
        return found
    found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    if hasattr(torch._C, "_nccl_version"):  # not on Windows
        found["nccl"] = ".".join(map(str, importlib.import_module("torch.cuda.nccl").version()))
    return found


def device_name(device: str) -> str:
    """`cpu: MODEL` or `cuda: MODEL`."""
    if device.startswith("cuda"):
        import torch

        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {processor.model()}"


def where(device: str) -> dict[str, Any]:
    """The node and the device that this process measures on, and with what: {node, device, nice, threads, versions, torch_settings}.

    device: a processor's with its threads. nice: the priority, 0 is usual. torch_settings: as they are now, whatever code has changed them.
    """
    import torch

    threads = torch.get_num_threads()
    used = "" if device == "cuda" else f", {threads} thread{'' if threads == 1 else 's'}"
    return {
        "node": platform.node(),
        "device": device_name(device) + used,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "threads": threads,
        "versions": {**versions.here(), "torch_build": torch.__version__},
        "torch_settings": torch_settings(),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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


def _gpu(device: str) -> dict[str, Any]:
    import torch

    number = torch.device(device).index or 0
    properties = torch.cuda.get_device_properties(number)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": [properties.major, properties.minor],
        "cuda": torch.version.cuda,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "driver": gpu.driver() or gpu.ABSENT,
        "conditions": gpu.conditions(number),
    }
