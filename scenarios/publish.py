"""Put a finished run into a folder that is ready to commit, without paths of this machine, and make its report there.

    python scenarios/publish.py RUN OUT [--formats html,latex] [--without points,traces]

RUN is a run's folder. OUT stands as it was until all of it is there. Chrome traces and allocator histories (some MB a point) stay behind.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from refta_profiler import report
from refta_profiler.errors import ScenarioError
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import write_whole

LEFT = (".lock", "traces", "report.html", "paper")  # the reports are made anew
TEXTS = (".json", ".yaml", ".csv")


def publish(run: Path, out: Path, *, formats: Sequence[str] = ("html",), without: Sequence[str] = ()) -> None:
    """Nothing; `out` is the run without what is left behind, and with its reports. A ScenarioError where `run` is not finished."""
    folder = RunFolder.open(run)
    if not (run / "results.csv").is_file():
        raise ScenarioError(f"{run}: is not finished; go on with: python -m refta_profiler run {run / 'scenario.yaml'} --resume {run}")
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        shutil.copytree(folder.path, new, ignore=shutil.ignore_patterns(*LEFT, *without))
        for path in new.rglob("*"):
            if path.suffix in TEXTS:
                write_whole(path, placeless(path.read_text(encoding="utf-8"), run))
        report.write(RunFolder(new), tuple(formats))
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def placeless(text: str, run: Path) -> str:
    """The text with paths as they are in the repository: /home/me/repository/refta is refta, /tmp/x/20260101T000000Z is RUN."""
    root = Path(__file__).resolve().parents[1]
    for path, words in ((run.resolve(), "RUN"), (run, "RUN"), (root, ".")):
        text = text.replace(f"{path}/", f"{words}/".removeprefix("./")).replace(str(path), words)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--formats", default="html")
    parser.add_argument("--without", default="", help="files and folders that stay behind too")
    asked = parser.parse_args(arguments)
    try:
        publish(asked.run, asked.out, formats=asked.formats.split(","), without=[one for one in asked.without.split(",") if one])
    except ScenarioError as fault:
        parser.exit(2, f"publish.py: {fault}\n")
    size = sum(path.stat().st_size for path in asked.out.rglob("*") if path.is_file())
    sys.stdout.write(f"{asked.out}: {size / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
