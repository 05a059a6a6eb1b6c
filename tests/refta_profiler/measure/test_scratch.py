"""Folders between driver and worker: gone afterwards, and those that a killed driver left are gone with the next one."""

import os
import subprocess
import sys
import tempfile
import time

import pytest

from refta_profiler.errors import StorageError
from refta_profiler.measure import scratch
from refta_profiler.run_folder import RunFolder

HOLDS = "from refta_profiler.measure import scratch\nwith scratch.folder() as path:\n    print(path, flush=True)\n    input()"


@pytest.fixture(autouse=True)
def there(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def age(path):
    """The folder was made an hour ago."""
    os.utime(path, (time.time() - 3600,) * 2)


def test_a_folder_is_gone_afterwards_and_in_use_is_nobody_elses(there):
    with scratch.folder() as path:
        (path / "answer.json").write_text("{}")
        age(path)
        scratch.sweep()
        assert (path / "answer.json").exists()
    assert list(there.iterdir()) == []


def test_what_a_killed_driver_left_is_deleted_and_what_has_no_lock_or_is_new_is_not(there):
    driver = subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    left = scratch.Path(driver.stdout.readline().strip())
    age(left)
    scratch.sweep()
    assert left.exists()
    driver.kill()
    driver.communicate()
    foreign, new, run = (there / f"refta-profiler-{name}" for name in ("x", "y", "z"))
    for path in (foreign, new, run):
        path.mkdir()
    (new / scratch.LOCK).write_text("")
    with RunFolder(run).lock():
        pass
    for path in (foreign, run):
        age(path)
    scratch.sweep()
    assert sorted(there.iterdir()) == [foreign, new, run]


def test_no_place_for_temporary_files_is_said(monkeypatch, there):
    monkeypatch.setattr(tempfile, "tempdir", str(there / "gone"))
    with pytest.raises(StorageError, match=r"No such file or directory.*TMPDIR"), scratch.folder():
        pass
