"""Which commit the code is at: git's where the code is git's, pip's where pip took it from a repository, a reason where neither says."""

import subprocess
from pathlib import Path

import pytest

from refta_profiler.measure import checkout, versions


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository that holds both packages, which counts as the one that this code lies in."""

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    for name in checkout.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setattr(checkout, "installed", dict)
    return tmp_path, git


def test_a_run_folder_in_the_tree_is_no_change_of_the_code(repository):
    folder, git = repository
    (folder / "reports").mkdir()
    (folder / "reports" / "results.csv").write_text("new")
    assert checkout.checked_out() == {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": False}
    (folder / "refta" / "__init__.py").write_text("changed")
    assert checkout.checked_out()["uncommitted_changes"] is True


def test_the_repository_of_who_installed_it_says_nothing_of_this_code(repository, monkeypatch):
    folder, _ = repository
    installed = folder / ".venv" / "lib"
    for name in checkout.PACKAGES:
        (installed / name).mkdir(parents=True)
    (folder / ".gitignore").write_text(".venv")
    monkeypatch.setattr(checkout, "ROOT", installed)
    assert checkout.checked_out() == {"commit_unknown": "the code is no part of the repository that it lies in"}


def test_what_git_says_is_the_reason(monkeypatch, tmp_path):
    def refuses(command, **_):
        raise subprocess.CalledProcessError(128, command, stderr="\nfatal: detected dubious ownership in repository\nmore")

    monkeypatch.setattr(checkout.subprocess, "run", refuses)
    assert checkout.checked_out() == {"commit_unknown": "git: fatal: detected dubious ownership in repository"}


class Distribution:
    def __init__(self, folder, text):
        self.folder, self.text = folder, text

    def read_text(self, name):
        return self.text if name == "direct_url.json" else None

    def locate_file(self, name):
        return Path(self.folder) / name


@pytest.mark.parametrize(
    ("text", "elsewhere", "expected"),
    [
        ('{"url": "https://github.com/a/b", "vcs_info": {"vcs": "git", "commit_id": "abc"}}', False, {"commit": "abc"}),
        ('{"url": "https://github.com/a/b", "vcs_info": {"vcs": "git", "commit_id": "abc"}}', True, {}),
        ('{"url": "file:///a", "dir_info": {"editable": true}}', False, {}),
        (None, False, {}),
    ],
)
def test_pip_knows_the_commit_of_what_it_took_from_a_repository(monkeypatch, tmp_path, text, elsewhere, expected):
    found = Distribution(tmp_path if elsewhere else checkout.ROOT, text)
    monkeypatch.setattr(checkout.importlib.metadata, "distribution", lambda name: found)
    assert checkout.installed() == expected


def test_the_sources_are_known_without_git(monkeypatch):
    monkeypatch.setattr(checkout, "checked_out", lambda: {"commit_unknown": "no git"})
    monkeypatch.setattr(checkout, "installed", dict)
    assert checkout.describe() == {"sources": versions.sources(), "commit_unknown": "no git"}
