"""How far predictions of each kind have been from measurements: trust.yaml as checked values. No torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from refta_profiler import devices

DATA = Path(__file__).with_name("trust.yaml")
ANY = "any"
ONE, SEVERAL = "one", "several"


@dataclass(frozen=True)
class Trust:
    """What is known of the error of one metric on one kind of device; `error` is None where nothing was held against a measurement.

    ranks: whether steps of one process, of several ranks or `any` were tried.
    """

    metric: str
    kind: str
    precision: str
    error: float | None
    cases: int
    against: str
    check: str
    limits: str
    ranks: str = ONE


@cache
def entries() -> tuple[Trust, ...]:
    """Every entry of trust.yaml."""
    found = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return tuple(Trust(**{key: value for key, value in one.items() if key != "except"}, limits=one["except"]) for one in found)


def of(metric: str, target: str, precision: str, ranks: str = ONE) -> Trust | None:
    """What is known of a metric's error on a kind of device, in a precision, on `one` or `several` ranks; None where no entry says."""
    asked = (metric, devices.get(target).kind, precision, ranks)

    def holds(one: Trust) -> bool:
        return all(there in (wanted, ANY) for there, wanted in zip((one.metric, one.kind, one.precision, one.ranks), asked, strict=True))

    return next((one for one in entries() if holds(one)), None)


def ranks_of(parallel: str) -> str:
    """`several` for a step that is spread over ranks, `one` for a process of its own."""
    return SEVERAL if parallel else ONE
