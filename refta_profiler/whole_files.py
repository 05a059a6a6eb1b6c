"""Files that appear whole or not at all, and what is said where one cannot be written or read."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refta_profiler.errors import StorageError


def write_whole(path: Path, content: str | bytes) -> Path:
    """`path`, written so that a reader, or a machine that loses power, sees the old content or the new one and nothing between.

    A StorageError names a path that cannot be written.
    """
    with writing(path):
        return _replace(path, content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, what the system has against writing there is a StorageError that names the path."""
    try:
        yield
    except OSError as fault:
        raise StorageError(f"{path}: cannot be written: {fault.strerror or fault}") from fault


def made(folder: Path) -> Path:
    """The folder, which is there now; a StorageError where it cannot be made."""
    with writing(folder):
        folder.mkdir(exist_ok=True)
    return folder


def _replace(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it has its name now, or could not be made: what went wrong then is on its way up
            temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def file_name(key: str) -> str:
    """A key as a file name that every system and TeX take: letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9-]", "-", key)


def read_json(path: Path) -> Any:
    """What the JSON file holds; a StorageError names a file that is cut short or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as fault:
        raise StorageError(f"{path}: cannot be read ({fault}); delete it and resume the run, and it is made again") from fault
