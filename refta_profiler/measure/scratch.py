"""Folders for what the driver and a measuring process hand each other; those of drivers that were killed are deleted by the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from refta_profiler.errors import StorageError

PREFIX = "refta-profiler-"
# held as long as the folder is somebody's: a process's number says nothing where several containers share the files. No run has such a file
LOCK = ".refta-profiler-scratch"
LEFT_S = 60.0  # before which a folder may be one that is just being made


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder, gone afterwards; StorageError where none can be made, as on a full disk."""
    try:
        made = tempfile.TemporaryDirectory(prefix=PREFIX)
    except OSError as fault:
        raise StorageError(f"no folder for temporary files can be made ({fault.strerror}); TMPDIR names another place for them") from fault
    with made as name, open(Path(name) / LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Path(name)


def sweep() -> None:
    """What killed drivers of this user have left is deleted, as far as it can be."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody's, or gone meanwhile, or never ours: nothing is lost by leaving it
            found = path.stat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > LEFT_S:
                _delete(path)


def _delete(path: Path) -> None:
    """The folder is deleted; an OSError where its lock is held, or it has none."""
    with open(path / LOCK) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
