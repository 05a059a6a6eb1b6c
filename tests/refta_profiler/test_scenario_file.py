"""Scenario files as plain values: `extends`, and what is said of a file that is none."""

import os

import pytest

from refta_profiler import scenario
from refta_profiler.errors import ScenarioError

GOOD = "model: vit-tiny\nmethods: [{name: head}]\nbatch: [1, 2]\n"


@pytest.fixture
def write(tmp_path):
    """Writes a file of this name and gives its path."""

    def written(text, name="s.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def refused(path):
    """What is said of a file that is no scenario: one line, and nothing behind it."""
    with pytest.raises(ScenarioError) as caught:
        scenario.load(path)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "s.yaml: the file is empty; a scenario has at least model, methods and batch"),
        ("# nothing yet\n---\n", "s.yaml: the file is empty"),
        ("- model: vit-tiny\n", "s.yaml: holds a list, not a mapping"),
        ("vit-tiny\n", "s.yaml: holds the single value 'vit-tiny', not a mapping"),
        ("model: [vit\nbatch: 3\n", "s.yaml: line 2, column 6: not YAML: "),
        ("model: vit-tiny\n\tbatch: 3\n", "s.yaml: line 2, column 1: not YAML: "),
        ("model: 'vit\n", "s.yaml: line 2, column 1: not YAML: "),
        ("model: a: b\n", "s.yaml: line 1, column 9: not YAML: mapping values are not allowed here (is a bracket"),
        ("model: vit-tiny\nbatch: 1\nmodel: vit-base\n", "s.yaml: line 3, column 1: the key 'model' is there twice, first on line 1"),
        ("task: {num_labels: 2, num_labels: 3}\n", "s.yaml: line 1, column 23: the key 'num_labels' is there twice, first on line 1"),
        ("model: !!python/object:os.system x\n", "s.yaml: line 1, column 8: not YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "s.yaml: line 2, column 1: not YAML: but found another document"),
        ("model: *base\n", "s.yaml: line 1, column 8: not YAML: found undefined alias"),
        ("? [a]\n: 1\n", "s.yaml: line 1, column 3: not YAML: found unhashable key"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "s.yaml: not a text file: byte 0 is not UTF-8"),
        (b"model: \x00\x01\n", "s.yaml: not a text file: character 7 is"),
        (b"\xff\xfem\x00o\x00", "s.yaml: not a text file: byte 0 is not UTF-8"),
        ("x: " + "[" * 5000, "s.yaml: not a scenario: "),
        ("x: " + "9" * 5000, "s.yaml: not a scenario: "),
        ("batch: &a [*a]\n", "s.yaml: "),
    ],
)
def test_a_file_that_is_no_scenario(write, text, says):
    with pytest.raises(ScenarioError) as caught:
        scenario.load(write(text))
    assert str(caught.value).startswith(says)


def test_a_byte_order_mark_is_no_mistake(write):
    assert scenario.load(write(b"\xef\xbb\xbf" + GOOD.encode())).batch == [1, 2]


def test_a_missing_file_and_its_neighbour(write, tmp_path):
    write(GOOD, "vit_l.yaml")
    says = refused(tmp_path / "vit_1.yaml")
    assert says == f"{tmp_path}/vit_1.yaml: there is no such file; did you mean '{tmp_path}/vit_l.yaml'?"
    assert refused(tmp_path / "nowhere" / "x.yaml").endswith("x.yaml: there is no such file")


def test_a_folder(tmp_path):
    assert refused(tmp_path) == f"{tmp_path}: is a folder; give a scenario file in it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(write):
    path = write(GOOD)
    path.chmod(0)
    assert refused(path).startswith("s.yaml: cannot be read: ")


def test_a_path_that_is_none():
    assert "cannot be read" in refused("a\0b")


# ---- extends


def test_extends(write):
    write(GOOD + "name: base\nmeasure: {steps: 4, on_cpu: {batch: [1], steps: 2}}\ntarget: l4\n", "base.yaml")
    made = scenario.load(write("extends: base.yaml\nbatch: [8]\nmeasure: {on_cpu: {steps: 5}}\n", "child.yaml"))
    assert made.name == "child"  # a report of its own
    assert (made.model, made.target, made.batch) == ("vit-tiny", "l4", [8])  # a list replaces a list
    assert (made.measure.steps, made.measure.on_cpu.batch, made.measure.on_cpu.steps) == (4, [1], 5)  # mappings are merged
    assert "extends" not in made.text


def test_extends_from_another_folder_and_twice(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write(GOOD, "base.yaml")
    write("extends: ../base.yaml\ntarget: l4\n", "deep/middle.yaml")
    assert scenario.load(write("extends: deep/middle.yaml\nbatch: [3]\n")).target == "l4"


def test_a_mistake_names_the_file_that_made_it(write):
    write(GOOD.replace("[1, 2]", "[1, 0]") + "targt: l4\nmeasure: {stps: 3}\n", "base.yaml")
    with pytest.raises(ScenarioError) as caught:
        scenario.load(write("extends: base.yaml\noptimizer: adam\nmeasure: {whn: auto}\n", "child.yaml"), ["seed=-1"])
    files = sorted(line.split(":")[0] for line in str(caught.value).splitlines())
    assert files == ["--set seed", "base.yaml", "base.yaml", "base.yaml", "child.yaml", "child.yaml"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"s.yaml": "extends: base.yaml\n"}, "s.yaml: extends: "),
        ({"s.yaml": "extends: s.yaml\n"}, "s.yaml: extends: goes round in a circle: s.yaml → s.yaml"),
        (
            {"s.yaml": "extends: a.yaml\n", "a.yaml": "extends: b.yaml\n", "b.yaml": "extends: a.yaml\n"},
            "s.yaml: extends: goes round in a circle: s.yaml → a.yaml → b.yaml → a.yaml",
        ),
        ({"s.yaml": "extends: [a]\n"}, "s.yaml: extends: ['a'] is not a file's name"),
        ({"s.yaml": "extends: a.yaml\n", "a.yaml": "- 1\n"}, "a.yaml: holds a list, not a mapping"),
        ({"s.yaml": "extends: a.yaml\n", "a.yaml": "x: [\n"}, "a.yaml: line 2, column 1: not YAML"),
    ],
)
def test_wrong_extends(write, files, says):
    paths = [write(text, name) for name, text in files.items()]
    assert refused(paths[0]).startswith(says)


def test_a_missing_base_is_named(write, tmp_path):
    write(GOOD, "bsae.yaml")
    says = refused(write("extends: base.yaml\n"))
    assert says == f"s.yaml: extends: {tmp_path}/base.yaml: there is no such file; did you mean '{tmp_path}/bsae.yaml'?"
