"""The training runs of a run's folder: training/<run>.json each, whole or not at all; test.json has what all share. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import read_json, write_whole

VERSION = 1
SHARED = "training.json"


@dataclass(frozen=True)
class Trained:
    """One training run: a method at one learning rate under one seed. A failed one has a reason and no scores."""

    point: str
    label: str
    method: str
    rate: float
    seed: int
    losses: tuple[float, ...] = ()  # of every step, before it
    step_seconds: float | None = None  # the median step's
    seconds: float | None = None  # of all steps
    validation: float | None = None
    outcomes: tuple[float, ...] = ()  # of every test item: 1 where right, or the prediction where a number is predicted
    parameters: int | None = None  # trained in all, the head included
    adapter_parameters: int | None = None  # of them the adapter's; runs stored by an earlier version do not tell it
    peak_bytes: int | None = None  # of the whole training, on CUDA
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is stored: outcomes of classes as a string of 0 and 1, losses to five digits."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        whole = all(one in (0.0, 1.0) for one in self.outcomes)
        coded = "".join(str(int(one)) for one in self.outcomes) if whole else [float(f"{one:.6g}") for one in self.outcomes]
        return {"version": VERSION, **values, "losses": [float(f"{one:.5g}") for one in self.losses], "outcomes": coded}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trained:
        """What `to_json` gave."""
        told = {"adapter_parameters": None, **values}
        known = {name: told[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "losses": tuple(values["losses"]), "outcomes": tuple(float(one) for one in values["outcomes"])})


def file_name(point: str, rate: float, seed: int, settings: Any) -> str:
    """The run's file: the point, what else determines the result as eight hex digits, learning rate and seed."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{point}.{digest}.lr{shown_rate(rate)}.seed{seed}.json"


def shown_rate(rate: float) -> str:
    """The learning rate as file names have it, to six digits: 0.001, 3e-05."""
    return f"{rate:g}"


def write(folder: RunFolder, name: str, trained: Trained) -> None:
    """The run's file, whole."""
    (folder.path / "training").mkdir(exist_ok=True)
    write_whole(folder.path / "training" / name, json.dumps(trained.to_json()))


def read(folder: RunFolder, name: str) -> Trained | None:
    """The run of that file; None where it was not made."""
    path = folder.path / "training" / name
    return Trained.from_json(read_json(path)) if path.exists() else None


def write_shared(folder: RunFolder, content: dict[str, Any]) -> None:
    """training.json: which files are of this scenario, the test items' truth, sizes of the splits."""
    write_whole(folder.path / SHARED, json.dumps(content, indent=1))


def read_shared(folder: RunFolder) -> dict[str, Any]:
    """What `write_shared` wrote; empty where nothing was trained."""
    path = folder.path / SHARED
    return read_json(path) if path.exists() else {}


def count(folder: RunFolder) -> int:
    """How many training runs the folder holds."""
    return sum(1 for _ in (folder.path / "training").glob("*.json"))


def read_all(folder: RunFolder, names: Sequence[str]) -> list[Trained]:
    """The runs of those files that are there, in that order."""
    return [found for name in names if (found := read(folder, name)) is not None]
