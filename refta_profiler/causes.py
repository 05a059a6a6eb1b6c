"""Why two peaks or two step times differ: their parts' differences, signed, largest first, summing to the whole. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PEAK = "peak_allocated_bytes"
PEAK_PARTS = {
    "peak_weights_bytes": "frozen weights and buffers",
    "peak_adapter_bytes": "the adapter's and the head's parameters",
    "peak_gradients_bytes": "gradients of what is trained",
    "peak_optimizer_bytes": "optimizer state",
    "peak_activations_bytes": "what is kept for backward",
    "peak_reconstructed_bytes": "rebuilt weights and their gradients",
    "peak_temporary_bytes": "temporaries of one operation or layer",
    "peak_workspace_bytes": "libraries' workspaces and what blocks hold beyond their tensors",
    "peak_batch_bytes": "the batch",
}
STEP = "step_seconds"
STEP_PARTS = {"forward_seconds": "forward", "backward_seconds": "backward", "optimizer_seconds": "the optimizer"}
REST = "not attributed"


@dataclass(frozen=True)
class Cause:
    """One part of a difference: the second point's amount less the first's."""

    metric: str
    name: str
    first: float | None
    second: float | None
    difference: float


def causes(first: Mapping[str, float], second: Mapping[str, float], whole: str, parts: Mapping[str, str]) -> list[Cause]:
    """The parts of `second[whole] - first[whole]`, largest first; what they leave is a part of its own, so that they sum to it exactly.

    A part that one of the two lacks is left to the rest: causes({"w": 3, "a": 1}, {"w": 7, "a": 4}, "w", {"a": "A"}) are A +3 and +1.
    """
    known = [name for name in parts if name in first and name in second]
    found = [Cause(name, parts[name], first[name], second[name], second[name] - first[name]) for name in known]
    rest = second[whole] - first[whole] - sum(one.difference for one in found)
    found = sorted((one for one in found if one.difference), key=lambda one: -abs(one.difference))
    return [*found, Cause("", REST, None, None, rest)] if rest else found
