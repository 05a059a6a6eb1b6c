"""Does ReFTA pay off? `load_run` shows a run in a notebook, `profile` measures a training loop, `TrainerCallback` a Trainer.

Importing this loads no torch and no transformers: what `__all__` names is imported when it is asked for (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refta_profiler.loaded_run import LoadedRun, load_run
    from refta_profiler.measure.loop import profile
    from refta_profiler.measure.trainer import TrainerCallback

__all__ = ["LoadedRun", "TrainerCallback", "load_run", "profile"]
PLACES = {
    "LoadedRun": "refta_profiler.loaded_run",
    "TrainerCallback": "refta_profiler.measure.trainer",
    "load_run": "refta_profiler.loaded_run",
    "profile": "refta_profiler.measure.loop",
}


def __getattr__(name: str) -> Any:
    """What __all__ names, from its module."""
    if name not in PLACES:
        raise AttributeError(f"module 'refta_profiler' has no attribute {name!r}")
    return getattr(importlib.import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    """The names there are, the lazy ones too."""
    return sorted([*globals(), *__all__])
