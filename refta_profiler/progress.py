"""How far a run is: a rich bar on a terminal, plain lines elsewhere. Writes to standard error."""

from __future__ import annotations

import sys
import time

from refta_profiler.units import format_seconds


class Lines:
    """A line per point: stage, count, point, time left."""

    def __init__(self) -> None:
        self.what, self.total, self.count, self.started = "", 0, 0, 0.0

    def start(self, what: str, total: int) -> None:
        """A stage of that many points begins."""
        self.what, self.total, self.count, self.started = what, total, 0, time.monotonic()
        print(f"{what}: {total} points" if total else f"{what}: nothing left to do", file=sys.stderr)

    def done(self, point: str, note: str = "") -> None:
        """A point is finished."""
        self.count += 1
        left = (time.monotonic() - self.started) / self.count * (self.total - self.count)
        reason = f"  {note}" if note else ""
        print(f"{self.what} {self.count}/{self.total}  {point}  (about {format_seconds(left)} left){reason}", file=sys.stderr)

    def say(self, text: str) -> None:
        """A line that is no point's."""
        print(text, file=sys.stderr)


class Bar:
    """A rich progress bar with the point just finished and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.fields[what]:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[point]}"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = None

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def start(self, what: str, total: int) -> None:
        """A stage of that many points begins."""
        self.task = self.bar.add_task("", total=total, what=what, point="")

    def done(self, point: str, note: str = "") -> None:
        """A point is finished."""
        if self.task is not None:
            self.bar.update(self.task, advance=1, point=point)
        if note:
            self.bar.console.print(f"{point}: {note}", markup=False, highlight=False)

    def say(self, text: str) -> None:
        """A line that is no point's, above the bars."""
        self.bar.console.print(text, markup=False, highlight=False)
