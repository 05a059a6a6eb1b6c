"""The command line: the only code that prints or exits."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from refta.errors import ReftaError
from refta_profiler import commands, parallel
from refta_profiler.commands import options
from refta_profiler.errors import STORAGE, GateError, HardwareError, ProfilerError, ScenarioError, StorageError

app = typer.Typer(
    name="refta_profiler",
    help="Does ReFTA pay off for your model and batch size? Predicted before you own a GPU, measured when you do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. batch=[4,8]")]
CodeOption = Annotated[bool, typer.Option("--allow-code", help="run the code of your own that methods named python call")]
ScenarioArgument = Annotated[Path, typer.Argument(help="a scenario file (YAML)", metavar="SCENARIO")]


def main() -> int:
    """The exit code: 0 done, 1 some row is an error, 2 bad scenario or usage, 3 hardware missing, 4 a gate failed."""
    try:
        return app(standalone_mode=False) or 0
    except ReftaError as error:
        return _complain(str(error), error.exit_code if isinstance(error, ProfilerError) else 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except OSError as fault:
        if fault.errno not in STORAGE:
            raise
        return _complain(_storage(fault), StorageError.exit_code)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # click's own usage errors
            return _complain(error.format_message(), 2)  # type: ignore[attr-defined]
        if type(error).__name__ in ("Abort", "Exit"):
            return getattr(error, "exit_code", 1)
        raise


def _storage(fault: OSError) -> str:
    """Which file the system refuses, as far as it says so, and why."""
    place = f"{fault.filename}: " if fault.filename else ""
    return f"{place}cannot be read or written: {fault.strerror}"


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    from refta_profiler import progress

    if sys.stderr.isatty():
        with progress.Bar() as bar:
            yield bar
    else:
        yield progress.Lines()


@app.command()
def run(
    scenario: ScenarioArgument,
    out: Annotated[Path | None, typer.Option(help="where the run's folder goes (default reports/NAME)")] = None,
    resume: Annotated[Path | None, typer.Option(help="a run folder to go on with; finished points are not run again")] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="with --resume: what failed is tried again too")] = False,
    only: Annotated[str | None, typer.Option(help="predict or measure")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: what to measure on")] = "auto",
    formats: Annotated[str, typer.Option("--format", help="report formats, e.g. html,md,latex")] = "html",
    overrides: SetOption = None,
    allow_code: CodeOption = False,
    executor: options.ExecutorOption = "local",
    address: options.AddressOption = None,
    partition: options.PartitionOption = None,
    time: options.TimeOption = None,
    account: options.AccountOption = None,
    slurm: options.SlurmOption = None,
    cpus: options.CpusOption = None,
) -> int:
    """Predict, measure, report."""
    from refta_profiler import own_code
    from refta_profiler import run as running
    from refta_profiler import scenario as scenarios
    from refta_profiler.report.material import Material
    from refta_profiler.run_folder import RunFolder

    _one_of("--only", only, (None, "predict", "measure"))
    _one_of("--device", device, ("auto", "cpu", "cuda"))
    if retry_errors and not resume:
        raise ScenarioError("--retry-errors: tries again what failed in a run's folder; name that with --resume")
    if resume and out:
        raise ScenarioError(f"--out {out}: is for a new run's folder, and --resume {resume} goes on in that one; leave one of them out")
    loaded = scenarios.load(scenario, overrides or [], code=own_code.permission(allow_code))
    chosen = _formats(formats)
    asked = options.slurm_settings(partition, time, account, slurm)
    with _executor(executor, loaded, address, asked, cpus) as chosen_executor:
        chosen_executor.kind(device)  # a GPU that is not there is found out before a folder is made
        folder = RunFolder.open(resume) if resume else RunFolder.create(out or Path("reports") / loaded.name, loaded.text)
        given = {"executor": executor, "address": address, "cpus": cpus, "only": only, "device": device, "format": formats}
        flags = [*([own_code.OPTION] if allow_code else []), *(["--retry-errors"] if retry_errors else [])]
        again = f"finished points are kept. Go on with: {_again(folder.path, flags, given, asked)}"
        try:
            with _progress() as progress:
                done = running.run(loaded, folder, running.Options(only, device, chosen, retry_errors, chosen_executor), progress)
        except KeyboardInterrupt:
            return _complain(f"interrupted; {again}", 130)
        except HardwareError as error:  # a cluster that went away, a GPU that others use
            raise HardwareError(f"{error}; {again}") from error
        except StorageError as error:  # a disk that is full, a file that was cut short
            raise StorageError(f"{error}; {again}") from error
        except OSError as fault:  # the same, where no file of the run is written: the system's folder for temporary files
            if fault.errno not in STORAGE:
                raise
            raise StorageError(f"{_storage(fault)}; {again}") from fault
    _say(Material.of(folder).verdicts)
    for path in done.reports:
        print(f"report: {path}")
    return int(any(row.status == "error" for row in done.rows))


@contextlib.contextmanager
def _executor(name: str, loaded: Any, address: str | None, slurm: dict[str, str], cpus: int | None) -> Iterator[Any]:
    """The executor of that name for a scenario, which ends what it still runs when it is left; ScenarioError for another's options."""
    from refta_profiler import own_code
    from refta_profiler.measure import executors

    _one_of("--executor", name, tuple(executors.names()))
    ray, both = ("ray",), ("ray", "slurm")
    slurms = "--partition, --time, --account and --slurm"
    for option, given, owners in (("--address", address, ray), (slurms, slurm, ("slurm",)), ("--cpus", cpus is not None, both)):
        if given and name not in owners:
            raise ScenarioError(f"{option}: of use with --executor {' or '.join(owners)} alone")
    if cpus is not None and cpus < 1:
        raise ScenarioError(f"--cpus {cpus}: it must be at least 1")
    made = executors.make(name, executors.Settings(address, cpus or 1, slurm, own_code.modules(loaded.methods), loaded.model))
    with contextlib.closing(made):
        yield made


def _again(folder: Path, flags: list[str], given: dict[str, Any], slurm: dict[str, str]) -> str:
    """The command line that goes on with a run; flags: those it was given; given: what it was told by its other options, by name."""
    scenario, run_folder = (shlex.quote(str(path)) for path in (folder / "scenario.yaml", folder))
    parts = [f"python -m refta_profiler run {scenario} --resume {run_folder}", *flags]
    default = {"executor": "local", "device": "auto", "format": "html"}
    parts += [f"--{name} {shlex.quote(str(one))}" for name, one in given.items() if one not in (None, default.get(name))]
    return " ".join([*parts, *(f"--slurm {shlex.quote(f'{key}={value}')}" for key, value in slurm.items())])


def _say(verdicts: list) -> None:
    from refta_profiler import headline

    for line in headline.headline(verdicts):
        print(line)


def _one_of(option: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise ScenarioError(f"{option}: '{value}'; it must be one of {', '.join(str(one) for one in allowed if one)}")


def _formats(text: str) -> tuple[str, ...]:
    from refta_profiler import report as reports

    chosen = tuple(one.strip() for one in text.split(",") if one.strip())
    for one in chosen:
        _one_of("--format", one, tuple(reports.formats()))
    return chosen


@app.command()
def predict(
    scenario: ScenarioArgument,
    json_: Annotated[bool, typer.Option("--json", help="print the rows as one JSON array")] = False,
    overrides: SetOption = None,
    allow_code: CodeOption = False,
    executor: options.ExecutorOption = "local",
    address: options.AddressOption = None,
) -> int:
    """The predictions alone."""
    from refta_profiler import devices, own_code, plan, verdict
    from refta_profiler import run as running
    from refta_profiler import scenario as scenarios

    loaded = scenarios.load(scenario, overrides or [], code=own_code.permission(allow_code))
    points = plan.points(loaded)
    found: dict[str, list] = {}
    jobs = [(point, point.target, "dryrun") for point in points]
    with _executor(executor, loaded, address, {}, None) as chosen, _progress() as progress:
        progress.start("predict", len(points))
        for (point, _, _), (closed, dry) in running.spread(jobs, chosen):
            found[point.id] = [*closed, *dry]
            progress.done(point.id, next((row.note for row in dry if row.status != "ok"), ""))
    rows = [row for point in points for row in found[point.id]]
    if json_:
        from refta_profiler import results

        print(results.to_json(rows))
    else:
        _print_predictions(points, rows)
        memory = devices.get(loaded.target).tensor_bytes  # as a report of the same has it
        _say(verdict.verdicts(rows, baseline=loaded.baseline, target=loaded.target, memory_bytes=memory))
    return int(any(row.status == "error" for row in rows))


def _print_predictions(points: list, rows: list) -> None:
    from refta_profiler.units import format_bytes, format_count, format_flops

    by_point: dict[str, dict] = {}
    for row in rows:
        if row.source == "dryrun":
            by_point.setdefault(row.point, {})[row.metric] = row
    table: list[tuple[str, ...]] = [("label", "batch", "seq", "precision", "ckpt", "peak", "static", "step FLOPs", "trainable")]
    for point in points:
        cells = by_point[point.id]
        peak = cells["peak_allocated_bytes"]
        shown = [
            form(cells[name].value) if cells[name].value is not None else cells[name].status
            for name, form in (
                ("peak_allocated_bytes", format_bytes),
                ("static_bytes", format_bytes),
                ("step_flops", format_flops),
                ("trainable_parameters", format_count),
            )
        ]
        table.append((point.label, str(point.batch), str(point.seq or ""), point.precision, "on" if point.checkpointing else "off", *shown))
        if point.parallel:
            table.append((f"  {parallel.words(point.parallel)}: each rank's",))
        if peak.status != "ok":
            table.append((f"  {peak.note}",))
    _print_table(table)


def _print_table(table: list[tuple[str, ...]]) -> None:
    whole = [row for row in table if len(row) == len(table[0])]
    widths = [max(len(row[i]) for row in whole) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


def _register(name: str) -> None:
    """Adds a command of commands/: its docstring is the help, and what it answers is printed here."""
    module = importlib.import_module(f"refta_profiler.commands.{name}")
    answer: Callable[..., Any] = module.command

    @functools.wraps(answer)
    def answered(**given: Any) -> int:
        found = answer(**given)
        print(json.dumps(found.data, indent=1, allow_nan=False) if given.get("json_") else found.text)
        if found.failed:
            raise GateError(found.failed)
        return 0

    first = re.match(r".*?[.?](?=\s)", str(module.__doc__), re.DOTALL)
    app.command(name, help=module.__doc__, short_help=first and first[0])(answered)


for _name in commands.NAMES:
    _register(_name)
