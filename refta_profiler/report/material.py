"""A run's rows made ready for the sections: what it was predicted for, where it was measured, its verdicts, and its settings in words."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

from refta_profiler.evidence import Candidate, Setting, candidates, head_target
from refta_profiler.headline import middle
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.task.summary import Summary
from refta_profiler.verdict import Verdict, verdicts
from refta_profiler.verdict_words import ranks_of

MIB = 2**20


@dataclass(frozen=True)
class Material:
    """Everything that a report is made from."""

    rows: list[Row]
    scenario_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    closed_form: list[dict[str, Any]] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)
    path: str = ""
    details: Callable[[str], dict[str, Any]] = field(default=lambda point: {}, compare=False)  # by a point's id, read when asked for
    steps: list[dict[str, Any]] = field(default_factory=list)  # of every variant, as a page replays them
    training: Summary | None = field(default=None, compare=False)  # what was trained and tested
    residuals: dict[str, Any] = field(default_factory=dict)  # what the pretrained weights are like

    @classmethod
    def of(cls, run: RunFolder) -> "Material":
        """What is stored in a run's folder."""
        return cls(
            run.rows(),
            run.scenario_text(),
            run.environment(),
            run.closed_form(),
            run.planned(),
            str(run.path),
            functools.cache(run.details),
            run.steps(),
            Summary.of(run),
            run.residuals(),
        )

    @cached_property
    def scenario(self) -> dict[str, Any]:
        """The scenario as a mapping; empty where its text is none."""
        try:
            content = yaml.safe_load(self.scenario_text)
        except yaml.YAMLError:
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def target(self) -> str:
        """The device that the predictions are for: the scenario's, where there are rows of it."""
        named = str(self.scenario.get("target", ""))
        return named if any(row.target == named for row in self.rows) else head_target(self.rows)

    @cached_property
    def measured_targets(self) -> list[str]:
        """The devices that something was measured on, the scenario's target first."""
        found = {row.target for row in self.rows if row.source == "measured" and row.status == "ok"}
        return sorted(found, key=lambda target: (target != self.target, target))

    @cached_property
    def memory_bytes(self) -> int | None:
        """What the target has for tensors: its memory less the CUDA context where that is known; None where its memory is not known."""
        device = self.environment.get("target_device") or {}
        known = device.get("key", self.target) == self.target and device.get("memory_bytes")
        return int(device["memory_bytes"]) - int(device.get("context_bytes") or 0) if known else None

    @property
    def context_bytes(self) -> int | None:
        """What the CUDA context takes of the target's memory; None where that is not known."""
        return (self.environment.get("target_device") or {}).get("context_bytes")

    @cached_property
    def labels(self) -> list[str]:
        """The labels in the scenario's order."""
        return list(dict.fromkeys(row.label for row in self.rows))

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdicts for the target."""
        return verdicts(self.rows, baseline=self.baseline, target=self.target, memory_bytes=self.memory_bytes)

    @property
    def baseline(self) -> str:
        """'best' or the label that the scenario compares with."""
        return str(self.scenario.get("baseline") or "best")

    def candidates(self, target: str) -> list[Candidate]:
        """What is known of each label and setting on that target."""
        if target not in self._candidates:
            self._candidates[target] = candidates(self.rows, target)
        return self._candidates[target]

    @cached_property
    def _candidates(self) -> dict[str, list[Candidate]]:
        """Filled by `candidates`: sections ask for the same again and again."""
        return {}

    @cached_property
    def batches(self) -> list[int]:
        """The batch sizes, ascending."""
        return sorted({row.batch for row in self.rows})

    def notable_batch(self, target: str) -> int | None:
        """The batch to look closer at: the middle one of those with a known peak; None where there is none."""
        known = {found.setting.batch for found in self.candidates(target) if found.known("peak_allocated_bytes") is not None}
        return middle(sorted(known)) if known else None

    def in_panels(self, found: Sequence[Candidate]) -> dict[str, list[Candidate]]:
        """The candidates by what a panel holds together, under its title: everything of the setting but the batch."""
        panels: dict[str, list[Candidate]] = {}
        for candidate in found:
            panels.setdefault(self.setting_words(candidate.setting), []).append(candidate)
        return panels

    def setting_words(self, setting: Setting) -> str:
        """'fp32, without checkpointing', and the model and sequence length where the run has several."""
        return ", ".join(self.setting_parts(setting))

    def setting_parts(self, setting: Any) -> list[str]:
        """The parts of a setting (or of what has one, a verdict) that must be named.

        That is what differs in the run, always the precision and the checkpointing, and the ranks where there are several.
        """
        parts = [setting.model] if "model" in self.several else []
        parts += [f"sequence {setting.seq}"] if "seq" in self.several and setting.seq else []
        return [*parts, setting.precision, f"{'with' if setting.checkpointing else 'without'} checkpointing", *ranks_of(setting)]

    @cached_property
    def several(self) -> set[str]:
        """Which of model and sequence differ in the run, and so must be named."""
        return {name for name in ("model", "seq") if len({getattr(row, name) for row in self.rows}) > 1}


def mebibytes(count: float) -> str:
    """Bytes as a number of MiB to read in a column: 2,843, or 0.06 where it is small."""
    size = count / MIB
    return f"{size:,.0f}" if abs(size) >= 100 else f"{size:,.1f}" if abs(size) >= 1 or size == 0 else f"{size:.2g}"
