"""The command line as a person meets it: exit codes, one message on standard error, nothing imported that is not needed, Ctrl-C."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refta_profiler import cli as command_line
from refta_profiler import plan, run
from refta_profiler.errors import StorageError
from refta_profiler.results import Row

ROOT = Path(__file__).parents[2]
GOOD = """
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: cpu
methods: [{name: head}, {name: refta, rank: 5, order: shared}]
batch: [2]
measure: {on_cpu: {batch: [2], warmup: 1, steps: 1, repeats: 1}}
"""
BAD = {
    "a wrong key": (
        "model: vit-tiny\nmethodss: []\nmethods: [{name: head}]\nbatch: [1]\n",
        "unknown key 'methodss'; did you mean 'methods'?",
    ),
    "a wrong key of a method": (
        "model: vit-tiny\nmethods: [{name: head}, {name: refta, rnk: 4}]\nbatch: [1]\n",
        "methods[1]: unknown key 'rnk'; did you mean 'rank'?",
    ),
    "a negative rank": ("model: vit-tiny\nmethods: [{name: refta, rank: -1}]\nbatch: [1]\n", "methods[0]: rank: -1; it must be"),
    "an unknown model": ("model: vit-tinyy\nmethods: [{name: head}]\nbatch: [1]\n", "unknown model 'vit-tinyy'; did you mean 'vit-tiny'?"),
    "an unknown method": ("model: vit-tiny\nmethods: [{name: reftaa}]\nbatch: [1]\n", "did you mean 'refta'?"),
    "an unknown order": ("model: vit-tiny\nmethods: [{name: refta, rank: 2, order: sharde}]\nbatch: [1]\n", "did you mean 'shared'?"),
    "an unknown card": ("model: vit-tiny\ntarget: h10\nmethods: [{name: head}]\nbatch: [1]\n", "h100"),
    "a rank above all components": ("model: vit-tiny\nmethods: [{name: refta, rank: 2305}]\nbatch: [1]\n", "at most 2304 components"),
    "a batch of nothing": ("model: vit-tiny\nmethods: [{name: head}]\nbatch: [0]\n", "batch"),
    "an empty file": ("", "the file is empty"),
    "a list": ("- model\n- batch\n", "holds a list, not a mapping"),
    "not YAML": ("model: [\n", "not YAML"),
}


def cli(*arguments, cwd=None, timeout=300):
    command = [sys.executable, "-m", "refta_profiler", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd or ROOT)


def assert_complains(found, code, *words):
    """One message on standard error that has the words, no traceback, nothing on standard output."""
    assert found.returncode == code, found.stderr
    assert found.stderr.count("error: ") == 1
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    for word in words:
        assert word in found.stderr


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("verb", ["run", "predict"])
def test_a_bad_scenario_is_named_with_its_place(tmp_path, case, verb):
    text, words = BAD[case]
    (tmp_path / "bad.yaml").write_text(text)
    options = ["--out", "out"] if verb == "run" else []
    assert_complains(cli(verb, "bad.yaml", *options, cwd=tmp_path), 2, "bad.yaml", words)
    assert not (tmp_path / "out").exists()


def test_a_missing_scenario_is_named(tmp_path, good):
    assert_complains(cli("run", "goood.yaml", cwd=tmp_path), 2, "goood.yaml: there is no such file; did you mean 'good.yaml'?")
    assert_complains(cli("run", tmp_path, cwd=tmp_path), 2, "is a folder")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runn"], "No such command 'runn'. Did you mean 'run'?"),
        (["run", "x.yaml", "--onyl", "predict"], "No such option: --onyl"),
        (["run"], "Missing argument 'SCENARIO'"),
        (["run", "good.yaml", "--only", "predct"], "--only: 'predct'; it must be one of predict, measure"),
        (["run", "good.yaml", "--retry-errors"], "--retry-errors: tries again what failed in a run's folder; name that with --resume"),
        (["run", "good.yaml", "--resume", "a", "--out", "b"], "--out b: is for a new run's folder, and --resume a goes on in that one"),
        (["validate", "a", "--less", "588MiB"], "--less: is of use with --published FILE and --scenario S alone"),
        (["validate", "a", "--allow-code"], "--allow-code: is of use with --published FILE and --scenario S alone"),
        (["run", "good.yaml", "--device", "gpu"], "it must be one of auto, cpu, cuda"),
        (["run", "good.yaml", "--format", "docx"], "it must be one of csv, html, json, latex, md, pdf, png, svg"),
        (["run", "good.yaml", "--set", "bach=[1]"], "did you mean 'batch'?"),
        (["run", "good.yaml", "--set", "batch"], "not of the form key=value"),
        (["run", "good.yaml", "--set", "methods=[{name: refta, rank: 9999}]"], "methods[0]: rank: 9999"),
        (["list"], "methods|models|devices|metrics"),
        (["list", "method"], "it must be one of methods, models, devices, metrics, settings"),
        (["list", "models", "vit-large"], "a name goes with methods alone, e.g. list methods refta"),
        (["list", "methods", "reftaa"], "unknown method 'reftaa'; did you mean 'refta'?"),
        (["report", "nowhere"], "nowhere: no such folder"),
        (["run", "good.yaml", "--resume", "nowhere"], "nowhere: no such folder"),
        (["run", "good.yaml", "--resume", "."], "is not a run folder"),
    ],
)
def test_usage_errors_say_what_would_be_right(tmp_path, good, arguments, words):
    assert_complains(cli(*arguments, cwd=tmp_path), 2, words)
    assert [path.name for path in tmp_path.iterdir()] == ["good.yaml"]


@pytest.mark.parametrize("out", ["good.yaml", "good.yaml/inside", "/proc/reports"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, good, out):
    assert_complains(cli("run", "good.yaml", "--out", out, cwd=tmp_path), 2, f"--out {out}: no folder can be made there")


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device", "/tmp/refta-profiler-x/request.json"), StorageError("results.csv: x")]
)
def test_a_run_that_its_disk_stops_says_how_to_go_on(monkeypatch, capsys, tmp_path, good, fault):
    def full(*_):
        raise fault

    monkeypatch.setattr(run, "run", full)
    monkeypatch.setattr(sys, "argv", ["refta_profiler", "run", str(good), "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert command_line.main() == 2
    told = capsys.readouterr().err
    (folder,) = (tmp_path / "out").iterdir()
    assert told.startswith(
        "error: results.csv: x; " if isinstance(fault, StorageError) else "error: /tmp/refta-profiler-x/request.json: cannot"
    )
    again = f"finished points are kept. Go on with: python -m refta_profiler run {folder}/scenario.yaml --resume {folder} --device cpu"
    assert told.strip().endswith(again)


def test_the_command_that_goes_on_takes_folders_with_spaces(tmp_path):
    folder = tmp_path / "my runs" / "it's"
    words = shlex.split(command_line._again(folder, ["--retry-errors"], {"device": "cpu"}, {}))
    assert words[3:] == ["run", f"{folder}/scenario.yaml", "--resume", str(folder), "--retry-errors", "--device", "cpu"]


def test_a_file_that_the_system_refuses_is_named_by_every_verb(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "app", lambda **_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system", "index.html")))
    assert command_line.main() == 2
    assert capsys.readouterr().err == "error: index.html: cannot be read or written: Read-only file system\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is writable for root")
def test_a_read_only_folder_is_named(tmp_path, good):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert_complains(cli("run", "good.yaml", "--out", "locked", cwd=tmp_path), 2, "--out locked", "Permission denied")


def test_a_gpu_that_is_not_there_is_exit_3_and_leaves_no_folder(tmp_path, good):
    probe = subprocess.run([sys.executable, "-c", "import torch; raise SystemExit(torch.cuda.is_available())"])
    if probe.returncode:
        pytest.skip("a CUDA device is here")
    assert_complains(cli("run", "good.yaml", "--device", "cuda", "--out", "out", cwd=tmp_path), 3, "no CUDA device is here")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["orders", "--help"],
        ["list", "methods"],
        ["list", "models"],
        ["list", "devices"],
        ["list", "metrics"],
        ["list", "settings"],
        ["list", "methods", "refta"],
        ["runn"],
        ["run", "nowhere.yaml"],
        ["run", "bad.yaml"],
        ["run", "good.yaml", "--set", "batch=0"],
    ],
    ids=" ".join,
)
def test_what_needs_no_tensors_does_not_import_torch(tmp_path, good, arguments):
    (tmp_path / "bad.yaml").write_text("model: vit-tiny\nmethods: [{name: refta, rank: 9999}]\nbatch: [1]\n")
    program = (
        "import sys\n"
        f"sys.argv = ['refta_profiler', *{arguments!r}]\n"
        "from refta_profiler.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.stdout.flush()\n"
        "print('loaded:', *sorted(heavy))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert found.stdout.splitlines()[-1].strip() == "loaded:", found.stdout + found.stderr


def test_help_names_every_verb():
    found = cli("--help")
    assert found.returncode == 0
    for verb in ("run", "predict", "report", "list", "orders", "check", "why", "validate"):
        assert f"\n  {verb}  " in found.stdout


def test_the_console_script_is_the_same_program():
    from refta_profiler import __main__ as module

    assert module.main is command_line.main


@pytest.mark.parametrize(
    ("what", "name"), [("methods", "refta"), ("models", "vit-large"), ("devices", "h100"), ("metrics", "peak_allocated_bytes")]
)
def test_list_shows_what_there_is(what, name):
    found = cli("list", what)
    assert found.returncode == 0
    assert any(line.startswith(f"{name} ") for line in found.stdout.splitlines())


def test_predictions_as_json_and_nothing_else_on_standard_output(good):
    found = cli("predict", good, "--json")
    assert found.returncode == 0, found.stderr
    rows = json.loads(found.stdout)
    assert {row["source"] for row in rows} == {"contraction", "dryrun"}
    assert {row["label"] for row in rows} == {"head", "refta/shared"}


@pytest.mark.slow
def test_predictions_as_a_table(good):
    found = cli("predict", good)
    assert found.returncode == 0, found.stderr
    assert "refta/shared" in found.stdout
    assert "KiB" in found.stdout


LARGE = {"refta/shared": 2**30, "refta/reconstruct": 2**40}  # peaks, of which a T4 has room for one


def peak_of(point, target="t4"):
    return Row.of(point, target, "dryrun", "peak_allocated_bytes", LARGE[point.label])


@pytest.fixture
def large(monkeypatch, good):
    """Options of a scenario whose peaks are LARGE; nothing is predicted."""

    def run_it(scenario, folder, options, progress):
        folder.order([point.id for point in plan.points(scenario)])
        for point in plan.points(scenario):
            folder.write_point(point.id, "dryrun", [peak_of(point)])
        folder.write_environment({"target_device": {"key": "t4", "memory_bytes": 15 * 2**30, "context_bytes": None}})
        return run.Finished(folder.rows(), [])

    monkeypatch.setattr(run, "run", run_it)
    monkeypatch.setattr(run, "spread", lambda jobs, _: ((job, ([], [peak_of(job[0])])) for job in jobs))
    monkeypatch.setattr(command_line, "_print_predictions", lambda *_: None)
    return [str(good), "--set", "target=t4", "--set", "methods=[{name: refta, rank: 5, order: [shared, reconstruct]}]"]


@pytest.mark.parametrize("verb", ["run", "predict"])
def test_what_is_said_is_what_the_report_says(monkeypatch, capsys, tmp_path, large, verb):
    """What does not fit the card does not run, in the terminal as on the page."""
    options = ["--out", str(tmp_path / "out"), "--device", "cpu"] if verb == "run" else []
    monkeypatch.setattr(sys, "argv", ["refta_profiler", verb, *large, *options])
    assert command_line.main() == 0
    assert "`shared` runs where rebuilding a layer at a time does not fit." in capsys.readouterr().out


def test_a_run_from_end_to_end(tmp_path, good):
    found = cli("run", good, "--out", tmp_path / "out", "--format", "html,csv")
    assert found.returncode == 0, found.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert found.stdout.splitlines()[-2:] == [f"report: {folder / 'report.html'}", f"report: {folder / 'results.csv'}"]
    rows = (folder / "results.csv").read_text().splitlines()
    predicted = {line.split(",")[0]: line for line in rows if ",dryrun,peak_allocated_bytes," in line}
    measured = {line.split(",")[0]: line for line in rows if ",measured,peak_allocated_bytes," in line}
    assert len(predicted) == len(measured) == 2
    for point, line in measured.items():
        assert line.split(",")[14] == predicted[point].split(",")[14]  # to the byte, through the real command line
    again = cli("run", good, "--resume", folder)
    assert again.returncode == 0
    assert (folder / "results.csv").read_text().splitlines() == rows
    assert "nothing left to do" in again.stderr
    made = cli("report", folder, "--format", "md")
    assert made.returncode == 0
    assert Path(made.stdout.splitlines()[0]) == folder / "report.md"
    assert (folder / "report.md").read_text()


def processes_of(session):
    """The processes that are alive in a session, by what they run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((status.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=120.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("only", "stage", "everyone"),
    [
        ("measure", "refta_profiler.measure.worker", False),
        pytest.param("predict", "spawn_main", True, marks=pytest.mark.slow),
        pytest.param("measure", "refta_profiler.measure.worker", True, marks=pytest.mark.slow),
        pytest.param("predict", "spawn_main", False, marks=pytest.mark.slow),
    ],
)
def test_an_interruption_ends_cleanly_and_says_how_to_go_on(tmp_path, good, only, stage, everyone):
    """A terminal sends the signal to the whole group; `kill -INT` to the one process."""
    options = ["--set", "batch=[2,4,8]"] if only == "predict" else []
    command = [sys.executable, "-m", "refta_profiler", "run", str(good), "--out", str(tmp_path / "out"), "--only", only, *options]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background inherit an ignored SIGINT
    )
    wait_for(lambda: any(stage in one for one in processes_of(running.pid)))
    (os.killpg if everyone else os.kill)(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert out == ""
    wait_for(lambda: not processes_of(running.pid), seconds=10)
    (folder,) = (tmp_path / "out").iterdir()
    asked = err.splitlines()[-1]
    assert asked.startswith("error: interrupted; finished points are kept. Go on with: python -m refta_profiler run ")
    resumed = cli(*asked.split("python -m refta_profiler ")[1].split(), "--only", only)
    assert resumed.returncode == 0, resumed.stderr
    rows = (folder / "results.csv").read_text().splitlines()
    assert len(rows) == len(set(rows))
    points = 6 if only == "predict" else 2
    peaks = [line for line in rows if ",peak_allocated_bytes," in line]
    assert len(peaks) == points
    assert all(",ok," in line for line in peaks)
