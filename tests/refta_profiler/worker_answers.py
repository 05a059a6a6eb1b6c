"""What a measuring process answers, for tests that run none."""

from typing import Any


def answer(seconds: tuple[float, ...] = (0.5,), *, watched: bool = True, **more: Any) -> dict[str, Any]:
    """An answer with steps of those lengths, a fifth of each forward; `more` replaces or adds."""
    samples = [{"forward": 0.2 * one, "backward": 0.7 * one, "optimizer": 0.1 * one} for one in seconds]
    quiet = {"others_fraction": 0.01, "steal_fraction": 0.0, "load_average": 1.0}
    values = {"peak_allocated_bytes": 1000, "static_bytes": 500} if watched else {}
    found = {"values": values, "samples": samples, "loads": [quiet] * len(samples), "bare": [], "gpu": None}
    return {**found, "setup_seconds": 2.0, "setup_watched": watched, "notes": [], **more}


def failure(status: str, note: str) -> dict[str, Any]:
    """The answer of a process that failed."""
    return {"failure": {"status": status, "note": note}}
