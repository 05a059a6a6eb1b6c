"""A process per point, forked from one that has loaded the libraries and drawn the weights (nursery.py): seconds less for each on a GPU.

What cannot be forked, or not any more, is nobody's failure: isolate.py starts a fresh process for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

from refta_profiler import own_code, processes
from refta_profiler.errors import in_a_line
from refta_profiler.measure import isolate, memory_kills, nursery, scratch
from refta_profiler.measure.executors import Answer, Process

DEVICES = ("cuda",)  # on a CPU nothing that OpenMP does is to differ from a fresh process
COMMAND = ("-m", "refta_profiler.measure.nursery")
NOT_FORKED = "in a fresh process, not a forked one"
END_S = 10.0  # how long it may take to end a process, or itself
GRACE_S = 1.0  # that a nursery which is of no use has to end by itself


def takes(process: Process) -> bool:
    """Whether the process may be forked: one rank on a GPU, nobody's own code or weights, and the allocator that torch was loaded with."""
    point = process.point
    plain = point.weights == "random" and point.method != own_code.NAME and point.allocator == "default" and not point.parallel
    return plain and process.device in DEVICES and sys.platform == "linux"


class Forks:
    """The nursery of a run, started when a process first asks for it."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.errors: BinaryIO | None = None  # what the nursery writes to its error output
        self.lost = False
        self.loss = self.why = ""  # why it was lost; why the last process could not be forked, where it was one that may be
        self.took_s = 0.0  # that the last process had run when it was lost with the nursery
        self.running = False  # whether it has a process now
        self.round = 0  # of the processes that it was asked for: those of another round are not to be clones of the same one

    def measure(self, process: Process) -> Answer | None:
        """The worker's answer, as isolate.measure gives it; None where no process could be forked, and `why` then."""
        self.took_s, self.why = 0.0, self.loss if takes(process) else ""
        if self.lost or not takes(process):
            return None
        if self.round not in (0, process.number):
            self.close()
        self.round = process.number
        started = time.monotonic()
        with scratch.folder() as folder:
            try:
                return self._measure(process, folder)
            except (EOFError, OSError) as error:  # it could not be started, has died, or is stuck
                self.took_s = time.monotonic() - started if self.running else 0.0
                self._lose(told(error))
                return None
            except BaseException:
                self.close()
                raise

    def _measure(self, process: Process, folder: Path) -> Answer | None:
        ends, kills = time.monotonic() + process.limit_s, memory_kills.count()
        server, connection = self._started()
        request, answer, errors = (folder / name for name in ("request.json", "answer.json", "errors.txt"))
        isolate.write(request, process.point, isolate.content(process.device, process.asked, process.files), parent=server.pid)
        paths = {"request": str(request), "answer": str(answer), "errors": str(errors)}
        environment = isolate.environment(process.point, process.threads)
        connection.send({**paths, "environment": environment, "threads": process.threads})
        begun = received(connection, ends - time.monotonic())
        self.running = begun == nursery.BEGUN
        if not self.running:
            self.why = f"{NOT_FORKED}: {begun}"
            return None
        if not connection.poll(max(ends - time.monotonic(), 0.0)):
            self._end(connection)
            return isolate.in_time(answer) or isolate.late(process.limit_s)
        code, self.running = received(connection, END_S), False
        if code == nursery.NO_GPU and not answer.exists():
            raise ConnectionError(f"CUDA does not start in a process that is forked here ({isolate.said(errors).strip()})")
        found = isolate.outcome(code, answer, isolate.said(errors), kills)
        return {**found, "where": {**found["where"], "forked": True}} if "where" in found else found

    def _end(self, connection: Connection) -> None:
        """The process is late and is ended; one that cannot be is lost with its nursery, and the point has had its time all the same."""
        try:
            connection.send(nursery.END)
            received(connection, END_S)
            self.running = False
        except (EOFError, OSError):
            self._lose("a process that took too long could not be ended")

    def _lose(self, words: str) -> None:
        """The nursery is of no use any more; the words and the end of its error output, or its exit code, say why."""
        if self.server is not None and self.errors is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # what it has to say it says as it ends
                words += f", with code {self.server.wait(GRACE_S)}"
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").split("\n")
            words += next((f": {line.strip()}" for line in reversed(said) if line.strip()), "")
        self.lost, self.loss = True, f"{NOT_FORKED}: {words}"
        self.why = self.loss
        self.close()

    def _started(self) -> tuple[subprocess.Popen[bytes], Connection]:
        if self.server is not None and self.connection is not None:
            return self.server, self.connection
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        command = [sys.executable, *COMMAND, str(theirs.fileno()), str(os.getpid())]
        nothing, self.errors = subprocess.DEVNULL, tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        with theirs, processes.interruptions_held():  # Ctrl-C is the driver's to handle
            self.server = subprocess.Popen(
                command,
                stdin=nothing,
                stdout=nothing,
                stderr=self.errors,
                pass_fds=[theirs.fileno()],
                env=isolate.without_allocator(os.environ),
            )
        return self.server, self.connection

    def close(self) -> None:
        """The nursery is gone, and what it had forked."""
        server, connection, self.server, self.connection = self.server, self.connection, None, None
        errors, self.errors = self.errors, None
        if errors is not None:
            errors.close()
        if connection is not None:
            connection.close()  # it ends what runs, and itself
        if server is None:
            return
        if self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(END_S)
        server.kill()
        server.wait()
        self.running = False


def told(error: BaseException) -> str:
    """What became of the nursery."""
    if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
        return "what it would be forked from has ended"
    if isinstance(error, TimeoutError):
        return "what it would be forked from did not answer in time"
    return in_a_line(error)


def received(connection: Connection, limit_s: float) -> Any:
    """What is said next; TimeoutError where nothing is within the limit."""
    if not connection.poll(max(limit_s, 0.0)):
        raise TimeoutError
    return connection.recv()
