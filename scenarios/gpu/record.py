"""Run the scenarios of this folder on the GPU at hand and leave their runs ready to commit; `make gpu` does, and then runs the tests.

    python scenarios/gpu/record.py [SCENARIO …] [--out reports/published/gpu] [--device cuda]

The device is calibrated, all scenarios are predicted side by side, and then measured one after the other. What fails is named and the
others go on; what stood under OUT for a scenario stays until its new run is whole. Exit code 1 where something failed, or a scenario took
longer than 8 minutes with start-up and prediction. On another card than the scenarios' own it is that card that is predicted, where
devices.yaml has it, and its runs lie under OUT-<card>.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OWN = "h100"  # the card of the scenarios
LIMIT_S = 480.0
PROFILER = (sys.executable, "-m", "refta_profiler")


@dataclass
class Recording:
    """One scenario: where its run is made, how long it has taken, and what failed."""

    scenario: Path
    folder: Path
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    is_predicted: bool = False

    @property
    def name(self) -> str:
        """vit_l of scenarios/gpu/vit_l.yaml."""
        return self.scenario.stem

    @property
    def run(self) -> Path:
        """The run's folder within the one that it was made in."""
        return max(self.folder.iterdir())

    def step(self, what: str, *command: str) -> int:
        """Run a command, its words on the terminal, and keep that it failed; its exit code."""
        started = time.monotonic()
        code = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
        self.seconds += time.monotonic() - started
        self.ended(what, code)
        return code

    def ended(self, what: str, code: int) -> None:
        """Keep that it failed, where it did."""
        if code:
            self.failures.append(f"{what} ended with exit code {code}")


def record(scenarios: Sequence[Path], out: Path, device: str, work: Path) -> list[Recording]:
    """All scenarios recorded; what failed is in each."""
    card, known = card_at_hand(device)
    target = ["--set", f"target={card}"] if known and card not in (OWN, "cpu") else []
    out = out if card in (OWN, "cpu") else out.with_name(f"{out.name}-{card}")
    subprocess.run([*PROFILER, "calibrate", "--device", device], cwd=ROOT, check=True)
    found = [Recording(path, work / path.stem) for path in scenarios]
    predict(found, target)
    for one in found:
        if one.is_predicted:
            measure(one, [*target, "--device", device], out / one.name)
        if one.seconds > LIMIT_S:
            one.failures.append(f"took longer than {LIMIT_S:.0f} s")
    subprocess.run([*PROFILER, "index", str(out.parent)], cwd=ROOT)
    return found


def predict(found: Sequence[Recording], target: Sequence[str]) -> None:
    """The predictions of all, side by side: each takes some of the cores some of the time."""
    started = time.monotonic()
    asked = [[*PROFILER, "run", str(one.scenario), *target, "--only", "predict", "--out", str(one.folder)] for one in found]
    running = [subprocess.Popen(command, cwd=ROOT) for command in asked]
    for one, process in zip(found, running, strict=True):
        code = process.wait()
        one.seconds = time.monotonic() - started
        one.ended("predicting", code)
        one.is_predicted = code in (0, 1)  # 1: some point's prediction failed


def measure(one: Recording, options: Sequence[str], out: Path) -> None:
    """Measured, and published with what points failed: a run that holds a failed point ends with exit code 1 and is whole all the same."""
    asked = ["run", str(one.scenario), "--only", "measure", "--resume", str(one.run), *options]
    before = sessions(one.run)
    if one.step("measuring", *PROFILER[1:], *asked) not in (0, 1) or sessions(one.run)[len(before) :] == []:
        return
    one.step("publishing", str(ROOT / "scenarios" / "publish.py"), str(one.run), str(out))
    one.step("validating", *PROFILER[1:], "validate", str(out))


def sessions(run: Path) -> list[dict[str, Any]]:
    """What environment.json says of the run's sessions that came to their end."""
    told = json.loads((run / "environment.json").read_text(encoding="utf-8")).get("sessions", [])
    return [one for one in told if one.get("ended")]


def card_at_hand(device: str) -> tuple[str, bool]:
    """The card's name in devices.yaml, or its own, and which of the two; asked in another process, so that this one holds no GPU memory."""
    asked = f"from refta_profiler import devices; key = devices.device_key({device!r}); print(key, key in devices.names(), sep='\\n')"
    told = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return told[0].strip().replace(" ", "-"), told[1] == "True"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "published" / "gpu")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args(arguments)
    scenarios = [path.resolve() for path in asked.scenarios] or sorted(Path(__file__).parent.glob("*.yaml"))
    asked.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="refta-profiler-gpu-"))
    found = record(scenarios, asked.out.resolve(), asked.device, work)
    for one in found:
        sys.stdout.write(f"{one.name}: {one.seconds:.0f} s{''.join(f', {words}' for words in one.failures)}\n")
    failed = any(one.failures for one in found)
    if failed:
        sys.stdout.write(f"the runs as they were made, with their traces, are in {work}\n")
    else:
        shutil.rmtree(work)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
