"""The errors that the profiler raises on purpose, with the exit code of each.

ReftaError (refta)
├── SettingError (refta)   2   a method's setting, role or shape
└── ProfilerError
    ├── ScenarioError      2   a bad scenario, usage or run folder
    │   └── StorageError   2   a run's files cannot be written, or read back
    ├── OwnCodeError       2   a method's code that is the user's own
    ├── HardwareError      3   the hardware asked for is not there
    └── GateError          4   check --exit-code, validate or compare failed
"""

import errno

from refta.errors import ReftaError

# what the system says where files cannot be written or read, which is nobody's mistake in the code: POSIX, errno.h
FULL = (errno.ENOSPC, errno.EDQUOT)  # what a system says of a disk without room
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOLCK, errno.ESTALE, errno.EFBIG)


class ProfilerError(ReftaError):
    """What the profiler raises on purpose; `exit_code` is what the command line exits with."""

    exit_code = 2


class ScenarioError(ProfilerError):
    """A bad scenario, usage or run folder."""


class StorageError(ScenarioError):
    """A run's files that cannot be written, or read back: a full disk, a read-only folder, a file that was cut short."""


class OwnCodeError(ProfilerError):
    """Code of the user's own, as a method of a scenario, that cannot be used."""


class HardwareError(ProfilerError):
    """The hardware asked for is not there."""

    exit_code = 3


class GateError(ProfilerError):
    """A gate was asked for and did not hold."""

    exit_code = 4


def is_of(error: BaseException, numbers: tuple[int, ...]) -> bool:
    """Whether the system said one of these numbers (errno.h), itself or as the cause; also in Rust's words: `… (os error 28)`."""
    if isinstance(error, OSError):
        return error.errno in numbers
    if error.__cause__ is not None and is_of(error.__cause__, numbers):
        return True
    return any(f"(os error {number})" in str(error) for number in numbers)


def first_line(error: BaseException) -> str:
    """The first line of what the error says, or its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def in_a_line(error: BaseException) -> str:
    """'ValueError: ' and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else ''}"
