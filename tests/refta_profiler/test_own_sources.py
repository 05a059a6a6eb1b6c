"""Which files a module of the user's own is made of, and that a change in any of them is seen."""

import pytest
from user_module import folder, forget

from refta_profiler import own_sources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """mine/adapters.py imports its neighbours in several ways; other.py is nobody's."""
    folder(tmp_path, monkeypatch, "beside", "import json\n")
    for name, text in {
        "mine/__init__.py": "",
        "mine/adapters.py": "import torch\nimport refta\nfrom . import parts\nfrom mine.deep.maths import rank\nimport beside\n",
        "mine/parts.py": "def late():\n    from .lazy import one\n",
        "mine/lazy.py": "from mine import adapters\n",
        "mine/deep/maths.py": "from ..broken import x\n",
        "mine/broken.py": "def f(:\n",
        "mine/other.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget("mine", "beside")
    yield tmp_path
    forget("mine", "beside")


def test_a_modules_files_are_its_own_and_those_it_imports_of_the_users(package):
    found = [str(path.relative_to(package)) for path in own_sources.files("mine.adapters")]
    assert found == [
        "beside.py",
        "mine/__init__.py",
        "mine/adapters.py",
        "mine/broken.py",
        "mine/deep/maths.py",
        "mine/lazy.py",
        "mine/parts.py",
    ]


@pytest.mark.parametrize("name", ["beside.py", "mine/adapters.py", "mine/lazy.py", "mine/broken.py"])
def test_a_change_in_any_of_them_changes_the_fingerprint(package, name):
    before = own_sources.fingerprint("mine.adapters")
    assert own_sources.fingerprint("mine.adapters") == before
    with open(package / name, "a") as file:
        file.write("# changed\n")
    assert own_sources.fingerprint("mine.adapters") != before


def test_a_change_elsewhere_does_not(package):
    before = own_sources.fingerprint("mine.adapters")
    (package / "mine" / "other.py").write_text("x = 1\n")
    assert own_sources.fingerprint("mine.adapters") == before


def test_of_an_installed_package_its_own_files_alone():
    assert {path.parts[path.parts.index("site-packages") + 1] for path in own_sources.files("pluggy._hooks")} == {"pluggy"}
    assert {path.name for path in own_sources.files("pluggy._hooks")} > {"__init__.py", "_hooks.py", "_manager.py"}
    assert [path.name for path in own_sources.files("typing_extensions")] == ["typing_extensions.py"]


def test_what_has_no_source_has_no_files():
    assert own_sources.files("math") == []
