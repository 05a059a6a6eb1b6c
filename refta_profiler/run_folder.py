"""A run's folder: what was asked (scenario.yaml), what was found (a file a point and source, results.csv), on what (environment.json).

Every file appears whole or not at all, so that a killed run loses at most the point in flight and `--resume` takes up the rest.
"""

import contextlib
import fcntl
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from refta_profiler.errors import ProfilerError, ScenarioError, StorageError
from refta_profiler.results import SOURCES, Row, from_csv, to_csv
from refta_profiler.statistics import same
from refta_profiler.whole_files import made, read_json, write_whole, writing

VERSION = 1
LOOK_S = 0.1  # between two looks at a lock that another process has
STEP_IS = ("model", "label", "seq", "precision", "checkpointing", "parallel", "target")  # of steps, which one it is
LEFT_S = 60.0  # after which a temporary file counts as left by a process that was killed: writing one takes moments


class RunFolder:
    """One run under its folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.session: int | None = None  # which of environment.json's sessions writes now; None where none has begun
        self.written: Counter[str] = Counter()  # files of points by source without its suffix, and of `processes`, since it was opened

    @classmethod
    def create(cls, out: Path, scenario_text: str) -> "RunFolder":
        """A new folder out/<UTC stamp>, with scenario.yaml in it before anything is built."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        folder = cls(new_folder(Path(out), stamp))
        made(folder.path / "points")
        write_whole(folder.path / "scenario.yaml", scenario_text)
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run that is there; a ScenarioError where the path is no run folder."""
        path = Path(path)
        if not path.is_dir():
            raise ScenarioError(f"{path}: no such folder; give the folder of a run, the one that holds its scenario.yaml")
        if not (path / "scenario.yaml").is_file():
            inside = sorted(found.parent.name for found in path.glob("*/scenario.yaml"))
            hint = f"; did you mean {path / inside[-1]}?" if inside else "; give the folder of a run, DIR/<stamp>"
            raise ScenarioError(f"{path}: is not a run folder, it holds no scenario.yaml{hint}")
        return cls(path)

    @contextlib.contextmanager
    def lock(self, *, patience_s: float = 0.0) -> Iterator[None]:
        """Held by one process at a time; a second one waits that long, then gets a ScenarioError. Freed by the system at a process's end.

        A StorageError where the folder cannot be written, or its file system takes no locks. What killed processes left half written goes.
        """
        with contextlib.ExitStack() as stack:
            with writing(self.path / ".lock"):
                file = stack.enter_context(open(self.path / ".lock", "w"))
            try:
                _lock(file, patience_s)
            except BlockingIOError as fault:
                raise ScenarioError(
                    f"{self.path}: another process is running in this folder; wait for it, or start a new run without --resume"
                ) from fault
            except OSError as fault:
                why = f"{self.path}: cannot be locked ({fault.strerror}), so that two runs could write in it"
                raise StorageError(f"{why}; put the run on a file system that takes locks, with --out") from fault
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Temporary files of processes that were killed while they wrote are deleted; those of the last minute may be somebody's."""
        for pattern in (".*.tmp", ".*.json.gz"):
            for path in self.path.rglob(pattern):
                with writing(path), contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > LEFT_S:
                        path.unlink()

    def point_path(self, point_id: str, source: str) -> Path:
        """Where the rows of that point and source are. `source` may carry a suffix for a second target ('dryrun-cpu')."""
        if source.split("-")[0] not in SOURCES:
            raise ValueError(f"source {source!r} is none of {', '.join(SOURCES)}, with or without a suffix like '-cpu'")
        if Path(point_id).name != point_id or point_id.startswith("."):
            raise ValueError(f"point id {point_id!r} cannot be a file name")
        return self.path / "points" / f"{point_id}.{source}.json"

    def write_point(self, point_id: str, source: str, rows: Sequence[Row]) -> Path:
        """The file of that point and source, whole; written again it replaces the one before."""
        foreign = {row.point for row in rows} - {point_id} | {row.source for row in rows} - {source.split("-")[0]}
        if foreign:
            raise ValueError(f"rows of {', '.join(sorted(foreign))} do not belong to point {point_id}, source {source}")
        made_by = {} if self.session is None else {"session": self.session}
        content = {"version": VERSION, "point": point_id, "source": source, **made_by, "rows": [row.to_dict() for row in rows]}
        self.written[source.split("-")[0]] += 1
        path = self.point_path(point_id, source)
        made(path.parent)  # a published copy of a run has none
        return write_whole(path, json.dumps(content, indent=1, allow_nan=False))

    def write_process(self, point_id: str, number: int, asked: dict[str, Any], answer: dict[str, Any]) -> Path:
        """processes/<point>.<number>.json: what one measuring process was asked and answered, raw samples and all."""
        path = self.process_path(point_id, number)
        made(path.parent)
        content = {"version": VERSION, "point": point_id, "process": number, "asked": asked, "answer": answer}
        self.written["processes"] += 1
        return write_whole(path, json.dumps(content, indent=1))

    def process_path(self, point_id: str, number: int) -> Path:
        """Where that process's answer is."""
        return self.path / "processes" / f"{self.point_path(point_id, 'measured').name.removesuffix('.measured.json')}.{number}.json"

    def process(self, point_id: str, number: int) -> dict[str, Any] | None:
        """{asked, answer} of one measuring process, None where it was not run; a StorageError names a file that is not one."""
        path = self.process_path(point_id, number)
        if not path.exists():
            return None
        content = read_json(path)
        if not isinstance(content, dict) or (content.get("version"), content.get("point"), content.get("process")) != (
            VERSION,
            point_id,
            number,
        ):
            raise StorageError(f"{path}: is not the process's file that its name says; delete it and resume the run, and it is made again")
        return content

    def trace_path(self, point_id: str, ending: str) -> Path:
        """traces/<point><ending>, where an instrument may write; the folder is there."""
        return made(self.path / "traces") / f"{point_id}{ending}"

    def processes(self, point_id: str) -> dict[int, dict[str, Any]]:
        """The answers of a point's measuring processes, by number; none from before other steps were asked for, or another device.

        A changed scenario that asks for fewer processes leaves the last of them as they were.
        """
        stem = self.process_path(point_id, 1).name.removesuffix(".1.json")
        numbers = (path.name.removeprefix(f"{stem}.").removesuffix(".json") for path in (self.path / "processes").glob(f"{stem}.*.json"))
        read = {int(number): self.process(point_id, int(number)) for number in sorted(numbers) if number.isdigit()}
        found = {number: content for number, content in read.items() if content}
        wanted = steps_asked(found[1]) if 1 in found else {}
        return {number: one["answer"] for number, one in found.items() if same(wanted, steps_asked(one))}

    def write_details(self, point_id: str, details: dict[str, Any]) -> Path:
        """details/<point>.json: raw samples, operators and tracebacks of a measured point, which the table has no place for."""
        name = self.point_path(point_id, "measured").name.removesuffix(".measured.json")
        return write_whole(made(self.path / "details") / f"{name}.json", json.dumps(details, indent=1))

    def details(self, point_id: str) -> dict[str, Any]:
        """What write_details wrote of that point; empty where there is nothing."""
        path = self.path / "details" / f"{point_id}.json"
        return read_json(path) if path.is_file() else {}

    def finished(self, point_id: str, source: str) -> bool:
        """Whether that point has its rows of that source. A file cut short, or of something else, is named in a StorageError."""
        path = self.point_path(point_id, source)
        if not path.exists():
            return False
        read_point(path)
        return True

    def read(self, point_id: str, source: str) -> list[Row]:
        """The rows of that point and source; empty where there are none."""
        path = self.point_path(point_id, source)
        return read_point(path)["rows"] if path.exists() else []

    def order(self, point_ids: Sequence[str]) -> None:
        """Keeps the order of the scenario's points in plan.json; `rows` follows it."""
        write_whole(self.path / "plan.json", json.dumps(list(point_ids), indent=1))

    def planned(self) -> list[str]:
        """The ids of the scenario's points in its order; empty before `order`."""
        path = self.path / "plan.json"
        return read_json(path) if path.exists() else []

    def rows(self) -> list[Row]:
        """All rows of the scenario's points, in its order, then by source; from results.csv where a copy of a run holds no point files.

        What was found for points that a changed scenario no longer has stays in the folder and is left out here.
        """
        files = sorted((self.path / "points").glob("*.json"))
        table = self.path / "results.csv"
        if not files and table.exists():
            return read_table(table)
        place = {point: index for index, point in enumerate(self.planned())}
        contents = [content for content in map(read_point, files) if not place or content["point"] in place]
        contents.sort(key=lambda content: (place.get(content["point"], len(place)), content["point"], source_place(content["source"])))
        return [row for content in contents for row in content["rows"]]

    def write_table(self) -> Path:
        """results.csv, made anew from the point files."""
        return write_whole(self.path / "results.csv", to_csv(self.rows()))

    def write_environment(self, environment: dict[str, Any]) -> Path:
        """environment.json: what the run ran on and with."""
        return write_whole(self.path / "environment.json", json.dumps(environment, indent=1, default=str))

    def environment(self) -> dict[str, Any]:
        """What the run ran on and with; empty where nothing was written."""
        path = self.path / "environment.json"
        return read_json(path) if path.exists() else {}

    def scenario_text(self) -> str:
        """The scenario as it was when the run started."""
        return (self.path / "scenario.yaml").read_text(encoding="utf-8")

    def rescenario(self, text: str) -> None:
        """Take another scenario for the rest of the run; the one before is kept beside it, as scenario.1.yaml and so on."""
        before = self.scenario_text()
        if before == text:
            return
        number = 1 + len(list(self.path.glob("scenario.*.yaml")))
        write_whole(self.path / f"scenario.{number}.yaml", before)
        write_whole(self.path / "scenario.yaml", text)

    def closed_form(self) -> list[dict[str, Any]]:
        """The closed-form costs and crossovers that the run wrote (closed_form.json); empty where it wrote none."""
        path = self.path / "closed_form.json"
        return read_json(path) if path.exists() else []

    def write_closed_form(self, entries: Sequence[dict[str, Any]]) -> Path:
        """closed_form.json: costs as a + b·tokens, and crossovers."""
        return write_whole(self.path / "closed_form.json", json.dumps(list(entries), indent=1))

    def residuals(self) -> dict[str, Any]:
        """What the run found of the pretrained weights (residuals.json); empty where it did not look."""
        path = self.path / "residuals.json"
        return read_json(path) if path.exists() else {}

    def write_residuals(self, content: dict[str, Any]) -> Path:
        """residuals.json: captured energy and quantisation errors."""
        return write_whole(self.path / "residuals.json", json.dumps(content, indent=1))

    def has_steps(self, point_id: str) -> bool:
        """Whether the step of the variant that this point is the first of was written, with all that is written of one now."""
        path = self.path / "steps" / f"{point_id}.json"
        return path.exists() and all("reason" in entry or "scratch" in entry for entry in read_json(path))

    def write_steps(self, point_id: str, entries: Sequence[dict[str, Any]]) -> Path:
        """steps/<first point of a variant>.json: its step as data that a page replays at any batch."""
        name = self.point_path(point_id, "dryrun").name.removesuffix(".dryrun.json")
        return write_whole(made(self.path / "steps") / f"{name}.json", json.dumps(list(entries), separators=(",", ":")))

    def steps(self) -> list[dict[str, Any]]:
        """The steps of all variants in the scenario's order, each once; empty where the run wrote none.

        A changed scenario may begin a variant with another batch, whose file is a new one, and what it no longer has stays in the folder.
        """
        place = {point: index for index, point in enumerate(self.planned())}
        files = [path for path in (self.path / "steps").glob("*.json") if not place or path.stem in place]
        files.sort(key=lambda path: (place.get(path.stem, len(place)), path.name))
        found: dict[tuple, dict[str, Any]] = {}
        for entry in (entry for path in files for entry in read_json(path)):
            found.setdefault(tuple(entry.get(name) for name in STEP_IS), entry)
        return list(found.values())


def steps_asked(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a process was asked, but for what the first alone looks at beside the time."""
    return {name: one for name, one in content["asked"].items() if name not in ("passes", "instruments")}


def _lock(file: IO[str], patience_s: float) -> None:
    """Lock the file; a BlockingIOError where another process still has it after that time."""
    for left in range(math.ceil(patience_s / LOOK_S), -1, -1):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
        time.sleep(LOOK_S)


def new_folder(out: Path, stamp: str) -> Path:
    """A folder out/<stamp> that was not there before; a second one of the same second gets -2, and so on."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = out / (stamp if attempt == 1 else f"{stamp}-{attempt}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as fault:
        raise ScenarioError(f"--out {out}: no folder can be made there ({fault.strerror}); give one that can be written to") from fault
    raise ScenarioError(f"{out}: a thousand runs started within one second; give another folder with --out")


def source_place(source: str) -> tuple[int, str]:
    """Where a source stands in the table: as in SOURCES, a plain one before one with a suffix."""
    return SOURCES.index(source.split("-")[0]), source


def read_table(path: Path) -> list[Row]:
    """The rows of a results.csv; a StorageError names the file and the line of one that was edited into something else."""
    try:
        content = path.read_bytes()
        return from_csv(content.decode("utf-8-sig"))
    except UnicodeDecodeError as fault:
        line = fault.object.count(b"\n", 0, fault.start) + 1
        why = f"line {line}: byte {fault.object[fault.start]:#04x} is not UTF-8; save the table as UTF-8"
    except ValueError as fault:
        why = str(fault)
    except OSError as fault:
        why = f"cannot be read: {fault.strerror}"
    raise StorageError(f"{path}: {why}, or bring back the file that the run wrote")


def read_point(path: Path) -> dict[str, Any]:
    """The point file's content with its rows as `Row`s; a StorageError names a file that is not whole or not one of ours."""
    content = read_json(path)
    try:
        if content["version"] != VERSION or path.name != f"{content['point']}.{content['source']}.json":
            raise ValueError(f"it says version {content['version']}, point {content['point']}, source {content['source']}")
        return content | {"rows": [Row.from_dict(row) for row in content["rows"]]}
    except (KeyError, TypeError, ValueError, ProfilerError) as fault:
        raise StorageError(
            f"{path}: is not the point file that its name says ({fault!r}); delete it and resume the run, and it is made again"
        ) from fault
