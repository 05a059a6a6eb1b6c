"""The profiler. In a notebook: `refta_profiler.load_run("reports/quickstart/<time>")`, whose value shows the verdicts and the numbers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refta_profiler.loaded_run import LoadedRun, load_run

__all__ = ["LoadedRun", "load_run"]


def __getattr__(name: str) -> Any:
    """What __all__ names, imported when it is asked for (PEP 562): importing the package stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'refta_profiler' has no attribute {name!r}")
    from refta_profiler import loaded_run

    return getattr(loaded_run, name)


def __dir__() -> list[str]:
    """The names there are, the lazy ones too."""
    return sorted([*globals(), *__all__])
