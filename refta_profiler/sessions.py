"""The sessions of a run's folder: what worked on it, with which versions, when, and what was done there. No torch.

A list in environment.json, the oldest first; a session goes by its place in it, from 1. What else stands in environment.json is of the
session that measured last. Point files and the answers of measuring processes name the session that made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Session = dict[str, Any]

KEY = "sessions"
CODE = ("commit", "uncommitted_changes", "commit_unknown", "sources")  # which state of the profiler ran
TOLD = ("command", *CODE, "own_code", "python", "versions", "libraries", "weights", "device", "executor", "started")
ENDED = ("ended", "wall_seconds")
OLDER = "from before sessions were kept: its command and commit are those of the last session until then, which may have measured nothing"


def of(environment: Mapping[str, Any]) -> list[Session]:
    """The sessions that environment.json has; of one from before they were kept a single one, which says so; none of an empty one."""
    if KEY in environment:
        return list(environment[KEY])
    told = {name: environment[name] for name in (*TOLD, *ENDED) if name in environment}
    return [{**told, "note": OLDER}] if told else []


def begun(earlier: Mapping[str, Any], found: Mapping[str, Any]) -> list[Session]:
    """The earlier environment's sessions and one that begins now; found: what it runs on and with. Without an end it was stopped."""
    return [*of(earlier), {name: found[name] for name in TOLD if name in found}]


def ended(sessions: Sequence[Session], did: Mapping[str, int]) -> list[Session]:
    """The same, the last of them ended now; did: how much of what it did, e.g. {"predictions": 24, "processes": 6}."""
    *before, last = sessions
    now = datetime.now(UTC)
    wall = (now - datetime.fromisoformat(last["started"])).total_seconds()
    return [*before, {**last, "ended": now.isoformat(timespec="seconds"), "wall_seconds": wall, "did": dict(did)}]


def code(session: Session) -> str:
    """Which state of the profiler a session ran, and of the user's own code: 'commit 1a2b…, with uncommitted changes'; '' where unsaid."""
    changed = ", with uncommitted changes" if session.get("uncommitted_changes") else ""
    ours = f"sources {session['sources']} (no commit is known)" if session.get("sources") else ""
    if session.get("commit"):
        ours = f"commit {session['commit']}{changed}"
    return "; ".join([*([ours] if ours else []), *(f"{call} of sources {one}" for call, one in session.get("own_code", {}).items())])


def did(session: Session) -> str:
    """What a session did, in words."""
    if "note" in session:
        return "not recorded"
    if "did" not in session:
        return "it was stopped before its end"
    parts = [f"{count} {name}" for name, count in session["did"].items() if count]
    parts += [f"labelled {session['label']}"] if "label" in session else []
    return ", ".join(parts) or "nothing was left to do but the report"


def made_something(session: Session) -> bool:
    """Whether a row of the run may be from the session."""
    return "did" not in session or any(session["did"].values())
