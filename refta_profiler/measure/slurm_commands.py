"""What SLURM's own commands are asked and say: its times, its queue, its nodes' devices. No torch."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from refta_profiler.errors import HardwareError, ScenarioError


def minutes(text: str) -> int:
    """SLURM's minutes, [days-]hours:minutes[:seconds] or minutes:seconds in whole minutes: '1:30:00' is 90, '1-0:0' a day, '0:90' two."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()) or len(parts) > 3:
        raise ScenarioError(f"--time {text}: write minutes, or hours:minutes:seconds, e.g. --time 90 or --time 1:30:00")
    numbers = [int(part) for part in parts]
    hours, minute, second = [*numbers, 0, 0][:3] if days or len(numbers) == 3 else [0, *numbers, 0][:3]
    return -(-(((int(days or 0) * 24 + hours) * 60 + minute) * 60 + second) // 60)


def said(command: Sequence[str]) -> str:
    """What a SLURM command prints; HardwareError with its own words where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except subprocess.CalledProcessError as error:
        raise HardwareError(f"SLURM does not answer: {command[0]}: {' '.join(error.stderr.split())}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(f"SLURM does not answer: {command[0]}: {error}") from error


def queued(*only: str) -> set[str]:
    """The ids of all jobs of this user that wait or run: 123, and 123_4 in an array; only: further options of squeue's."""
    return set(said(["squeue", "-h", "-r", "--me", "-o", "%F_%K %A", *only]).split())


def gpus(offered: str) -> int:
    """How many GPUs a node has by sinfo's words: gpus('gpu:h100:8(S:0-1),gpu:l4:2') is 10, gpus('(null)') 0."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^,:(]+)?:(\d+)", offered))
