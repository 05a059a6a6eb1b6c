"""Which state of its code the profiler ran: the commit, from git or pip, and whether the code was changed since. No torch."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from refta_profiler.measure import versions

ROOT = Path(__file__).parents[2]  # where both packages lie
PACKAGES = ("refta", "refta_profiler")
LIMIT_S = 10


def describe() -> dict[str, Any]:
    """{sources, and commit, uncommitted_changes or, in their place, commit_unknown with the reason}.

    sources: a hash of the text of both packages, which is known without git. uncommitted_changes: of the two packages alone, since a run
    folder that was made a moment ago is no change of the code.
    """
    return {"sources": versions.sources(), **(installed() or checked_out())}


def installed() -> dict[str, Any]:
    """The commit that pip took the package from, as direct_url.json says it (PEP 610); empty where it was installed from elsewhere."""
    try:
        found = importlib.metadata.distribution("refta-profiler")
        text = found.read_text("direct_url.json")
        commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return {}
    inside = Path(str(found.locate_file("refta_profiler"))).resolve() == (ROOT / "refta_profiler").resolve()
    return {"commit": commit} if commit and inside else {}


def checked_out() -> dict[str, Any]:
    """What git says, where the package is under its control: one that only holds the environment it was installed in tells nothing."""
    try:
        if not git("ls-files", "--", "refta_profiler/__init__.py").strip():
            return {"commit_unknown": "the code is no part of the repository that it lies in"}
        changed = git("status", "--porcelain", "--", *PACKAGES).strip()
        return {"commit": git("rev-parse", "HEAD").strip(), "uncommitted_changes": bool(changed)}
    except subprocess.CalledProcessError as error:
        said = next((line.strip() for line in error.stderr.splitlines() if line.strip()), f"it ended with code {error.returncode}")
        return {"commit_unknown": f"git: {said}"}
    except (OSError, subprocess.SubprocessError) as error:
        return {"commit_unknown": f"git could not be asked: {error}"}


def git(*arguments: str) -> str:
    """What git says in the folder that both packages lie in; CalledProcessError with its error output where it refuses."""
    found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    return found.stdout
