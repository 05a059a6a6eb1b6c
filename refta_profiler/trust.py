"""How far predictions of each kind have been from measurements: trust.yaml as checked values. No torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from refta_profiler import devices

DATA = Path(__file__).with_name("trust.yaml")
ANY = "any"


@dataclass(frozen=True)
class Trust:
    """What is known of the error of one metric on one kind of device; `error` is None where nothing was held against a measurement."""

    metric: str
    kind: str
    precision: str
    error: float | None
    cases: int
    against: str
    check: str
    limits: str


@cache
def entries() -> tuple[Trust, ...]:
    """Every entry of trust.yaml."""
    found = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return tuple(Trust(**{key: value for key, value in one.items() if key != "except"}, limits=one["except"]) for one in found)


def of(metric: str, target: str, precision: str) -> Trust | None:
    """What is known of a metric's error on a device (by its kind) and precision; None where there is no such entry."""
    kind = devices.get(target).kind
    found = (one for one in entries() if one.metric == metric and one.kind in (kind, ANY) and one.precision in (precision, ANY))
    return next(found, None)
