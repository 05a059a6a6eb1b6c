"""The sessions of a run's folder, also of one from before they were kept, and what a report says of them."""

import pytest

from refta_profiler import sessions
from refta_profiler.report import record
from refta_profiler.report.material import Material

FIRST = {"command": "run a.yaml", "commit": "aaa", "uncommitted_changes": False, "versions": {"torch": "2.13.0"}, "device": "cpu: x"}
FIRST |= {"started": "2026-01-01T00:00:00+00:00", "wall_seconds": 60.0, "did": {"predictions": 3, "processes": 2, "trainings": 0}}
SECOND = FIRST | {"commit": "bbb", "uncommitted_changes": True, "started": "2026-01-02T00:00:00+00:00"}
IDLE = FIRST | {"commit": "ccc", "did": {"predictions": 0, "processes": 0, "trainings": 0}}


def environment(*found):
    return {"device": "cpu: x", "commit": "bbb", "sessions": list(found)}


def test_a_folder_from_before_sessions_were_kept_has_one_that_says_so():
    (older,) = sessions.of({"device": "cpu: x", "commit": "aaa", "command": "run a.yaml", "cpu": {"cores": 2}})
    assert older == {"device": "cpu: x", "commit": "aaa", "command": "run a.yaml", "note": sessions.OLDER}
    assert sessions.of({}) == []
    assert len(sessions.begun({"commit": "aaa"}, {"commit": "bbb", "started": "now"})) == 2


def test_a_session_ends_with_its_time_and_what_it_did():
    _, last = sessions.ended([FIRST, {"started": "2026-01-01T00:00:00+00:00"}], {"predictions": 3})
    assert last["did"] == {"predictions": 3}
    assert last["wall_seconds"] > 0
    assert last["ended"] > last["started"]


@pytest.mark.parametrize(
    ("session", "words"),
    [
        (FIRST, "3 predictions, 2 processes"),
        (IDLE, "nothing was left to do but the report"),
        ({"started": "now"}, "it was stopped before its end"),
        ({"note": sessions.OLDER}, "not recorded"),
    ],
)
def test_what_a_session_did_in_words(session, words):
    assert sessions.did(session) == words


def test_a_report_says_which_code_made_which_part():
    assert record.code_lines(environment(FIRST, FIRST, IDLE)) == ["# the code: commit aaa"]
    assert record.code_lines(environment(FIRST, SECOND, IDLE, FIRST)) == [
        "# the code of sessions 1, 4: commit aaa",
        "# the code of session 2: commit bbb, with uncommitted changes",
    ]
    assert record.code_lines({"commit": "aaa"}) == ["# the code: commit aaa"]
    assert record.code_lines({"sources": "12345678", "started": "now"}) == ["# the code: sources 12345678 (no commit is known)"]
    assert record.code_lines({}) == []


def test_a_report_lists_the_sessions_beside_the_environment():
    section = record.environment_section(Material([], environment=environment(FIRST, SECOND)))
    assert section is not None
    facts, listed = section.blocks
    assert [row[0].text for row in facts.rows] == ["device", "commit"]
    assert [row[4].text for row in listed.rows] == ["commit aaa", "commit bbb, with uncommitted changes"]
    assert [row[3].text for row in listed.rows] == ["3 predictions, 2 processes"] * 2
    older = record.environment_section(Material([], environment={"device": "cpu: x", "commit": "aaa"}))
    assert older is not None
    assert len(older.blocks) == 1


def test_the_users_own_code_is_told_beside_the_profilers():
    assert sessions.code(FIRST | {"own_code": {"mine:lora": "1a2b3c4d"}}) == "commit aaa; mine:lora of sources 1a2b3c4d"
    (session,) = sessions.begun({}, FIRST | {"own_code": {"mine:lora": "1a2b3c4d"}})
    assert session["own_code"] == {"mine:lora": "1a2b3c4d"}
