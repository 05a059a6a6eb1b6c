"""Entries of the user's own code in a scenario: refused unless allowed, what is said of mistakes, labels, ids that follow the code."""

import subprocess
import sys
from pathlib import Path

import pytest
from user_module import folder, forget
from worker_answers import answer

from refta_profiler import own_code, plan, run
from refta_profiler import scenario as scenarios
from refta_profiler.errors import ScenarioError
from refta_profiler.measure import isolate
from refta_profiler.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
BODY = "def lora(model, rank=4, alpha=8.0): ...\ndef dora(model, **options): ...\nPI = 3\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of a user's with mine.py, a package with modules that cannot be imported, and a module that leaves a trace."""
    folder(tmp_path, monkeypatch, "mine", BODY)
    (tmp_path / "traced.py").write_text("open('trace', 'w').close()\ndef f(model): ...\n")
    (tmp_path / "parts").mkdir()
    for name, text in {
        "__init__": "",
        "lacking": "import nothing_of_the_kind\n",
        "slip": "def f(:\n",
        "ends": "import sys\nsys.exit('bye')\n",
        "raises": "1 / 0\n",
    }.items():
        (tmp_path / "parts" / f"{name}.py").write_text(text)
    yield tmp_path
    forget("mine", "parts", "traced")


def load(methods, code=own_code.look_up, **values):
    settings = "".join(f"{key}: {value}\n" for key, value in values.items())
    Path("s.yaml").write_text(f"model: roberta-tiny\ntarget: cpu\nbatch: [2]\nseq: [8]\n{settings}methods:\n{methods}")
    return scenarios.load("s.yaml", code=code)


def complaint(entry, code=own_code.look_up):
    with pytest.raises(ScenarioError) as caught:
        load(f"  - {{name: head}}\n  - {entry}\n", code)
    return str(caught.value)


def test_without_leave_it_is_refused_and_nothing_of_it_is_imported(here):
    text = complaint("{name: python, call: 'traced:f'}", own_code.refuse)
    assert text == "s.yaml: methods[1].call: runs code of your own; add --allow-code to allow it"
    assert not (here / "trace").exists()
    load("  - {name: python, call: 'traced:f'}\n")
    assert (here / "trace").exists()


def test_refusing_is_the_default(here):
    Path("s.yaml").write_text("model: roberta-tiny\nbatch: [2]\nmethods: [{name: python, call: 'traced:f'}]\n")
    with pytest.raises(ScenarioError, match="--allow-code"):
        scenarios.load("s.yaml")
    with pytest.raises(ScenarioError, match="--allow-code"):
        scenarios.from_values({"model": "roberta-tiny", "batch": [2], "methods": [{"name": "python", "call": "traced:f"}]}, "fit")
    assert not (here / "trace").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: python}", "methods[1]: 'call' is missing; e.g. call: \"package.module:function\""),
        ("python", "methods[1]: 'python' is not a mapping; write {name: python, call: \"package.module:function\"}"),
        ("{name: pyhton, call: 'mine:lora'}", "methods[1].name: unknown method 'pyhton'; did you mean 'python'?"),
        ("{name: python, call: 3}", "methods[1].call: 3 names no function; write call: "),
        ("{name: python, call: 'mine:<lambda>'}", "methods[1].call: 'mine:<lambda>' names no function"),
        ("{name: python, call: mine.lora}", "methods[1].call: 'mine.lora' names no function; did you mean 'mine:lora'?"),
        ("{name: python, call: 'mime:lora'}", "methods[1].call: there is no module 'mime' in "),
        ("{name: python, call: 'mime:lora'}", "did you mean 'mine'?"),
        ("{name: python, call: 'mine.sub:f'}", "there is no module 'mine.sub': mine is a file, not a package"),
        ("{name: python, call: 'parts.slipp:f'}", "did you mean 'parts.slip'?"),
        ("{name: python, call: 'parts.lacking:f'}", "No module named 'nothing_of_the_kind' ("),
        ("{name: python, call: 'parts.lacking:f'}", "lacking.py:1)"),
        ("{name: python, call: 'parts.slip:f'}", "parts.slip cannot be imported: SyntaxError: invalid syntax (slip.py, line 1)"),
        ("{name: python, call: 'parts.ends:f'}", "parts.ends cannot be imported: SystemExit: bye ("),
        ("{name: python, call: 'parts.raises:f'}", "ZeroDivisionError: division by zero ("),
        ("{name: python, call: 'mine:loar'}", "methods[1].call: mine has no 'loar'; did you mean 'lora'? its functions are lora, dora ("),
        ("{name: python, call: 'mine:PI'}", "'PI' of mine is of type int, not a function ("),
        (
            "{name: python, call: 'mine:lora', arguments: [4]}",
            "arguments: [4] is not a mapping; write e.g. arguments: {rank: 4}",
        ),
        (
            "{name: python, call: 'mine:lora', arguments: {rnk: 4}}",
            "keyword argument 'rnk'; did you mean 'rank'? it is lora(model",
        ),
        (
            "{name: python, call: 'mine:lora', arguments: {model: 4}}",
            "arguments: mine:lora cannot be called so: multiple values",
        ),
        ("{name: python, call: 'mine:lora', arguments: {a b: 4}}", "the key 'a b' cannot name an argument"),
        ("{name: python, call: 'mine:lora', rank: 4}", "unknown key 'rank'; what the function takes is written as arguments: {rank: 4}"),
        ("{name: python, cal: 'mine:lora'}", "unknown key 'cal'; did you mean 'call'?"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_would_be_right(here, entry, said):
    assert said in complaint(entry)


def test_labels_differ_by_function_and_arguments_and_lists_stay_whole(here):
    found = plan.points(
        load(
            "  - {name: python, call: 'mine:lora'}\n"
            "  - {name: python, call: 'mine:lora', arguments: {rank: 2, alpha: 1}}\n"
            "  - {name: python, call: 'mine:lora', arguments: {rank: 8}, label: mine}\n"
            "  - {name: python, call: 'mine:dora', arguments: {targets: [query, value]}}\n"
        )
    )
    assert [point.label for point in found] == ["python/lora", "python/lora alpha=1 r=2", "mine", "python/dora"]
    assert [point.rank for point in found] == [None, 2, 8, None]
    assert {(point.method, point.order) for point in found} == {("python", None)}
    assert found[3].settings["arguments"] == {"targets": ["query", "value"]}
    assert len({point.id for point in found}) == 4


def test_the_same_twice_is_told_in_whatever_order_the_arguments_are(here):
    with pytest.raises(ScenarioError, match=r"methods\[1\]: the same point is in methods\[0\] already"):
        load(
            "  - {name: python, call: 'mine:lora', arguments: {rank: 2, alpha: 1}}\n"
            "  - {name: python, call: 'mine:lora', arguments: {alpha: 1, rank: 2}, label: x}\n"
        )


def test_labels_that_come_out_alike_are_told(here):
    with pytest.raises(ScenarioError, match=r"methods\[1\]: its label 'python/lora r=4' is that of methods\[0\] too; give it a label"):
        load("".join(f"  - {{name: python, call: 'mine:lora', arguments: {{rank: {rank}}}}}\n" for rank in ("4", "[4]")))


def test_a_frozen_scenario_loads_as_the_same_and_is_refused_again(here):
    loaded = load("  - {name: python, call: 'mine:lora', arguments: {rank: null, alpha: ['no', '1']}}\n")
    (here / "frozen.yaml").write_text(loaded.text)
    assert scenarios.load("frozen.yaml", code=own_code.look_up) == loaded
    with pytest.raises(ScenarioError, match="--allow-code"):
        scenarios.load("frozen.yaml")


def test_the_id_follows_the_code(here):
    methods = "  - {name: head}\n  - {name: python, call: 'mine:lora'}\n"
    before = [point.id for point in plan.points(load(methods))]
    assert [point.id for point in plan.points(load(methods))] == before
    (here / "mine.py").write_text(BODY + "# changed\n")
    after = [point.id for point in plan.points(load(methods))]
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert after[1][:-8] == before[1][:-8]


def test_a_resumed_run_does_what_the_changed_code_changes_and_no_more(here, monkeypatch):
    asked = []
    monkeypatch.setattr(isolate, "measure", lambda point, device, **_: asked.append(point.label) or answer())
    monkeypatch.setattr(run, "predict_job", lambda job: ([], [run.Row.of(job[0], job[1], "dryrun", "static_bytes", 1)]))
    loaded = load("  - {name: head}\n  - {name: python, call: 'mine:lora'}\n")
    folder = RunFolder.create(here / "out", loaded.text)

    class Silent:
        start = done = staticmethod(lambda *_: None)

    first = run.run(loaded, folder, run.Options(device="cpu"), Silent()).rows
    assert asked == ["head", "python/lora"]
    run.run(loaded, folder, run.Options(device="cpu"), Silent())
    assert asked == ["head", "python/lora"]
    (here / "mine.py").write_text(BODY + "# changed\n")
    again = run.run(loaded, folder, run.Options(device="cpu"), Silent()).rows
    assert asked == ["head", "python/lora", "python/lora"]
    assert [(row.label, row.source, row.metric) for row in again] == [(row.label, row.source, row.metric) for row in first]
    assert {row.point for row in again if row.label == "head"} == {row.point for row in first if row.label == "head"}
    old = next(row.point for row in first if row.label == "python/lora")
    assert old not in {row.point for row in again}
    assert folder.point_path(old, "measured").exists()  # nothing is lost


def test_a_run_of_own_code_alone_goes_on_after_the_code_was_changed(here, monkeypatch):
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: answer())
    monkeypatch.setattr(run, "predict_job", lambda job: ([], [run.Row.of(job[0], job[1], "dryrun", "static_bytes", 1)]))
    silent = type("Silent", (), {"start": staticmethod(lambda *_: None), "done": staticmethod(lambda *_: None)})()
    loaded = load("  - {name: python, call: 'mine:lora'}\n")
    folder = RunFolder.create(here / "out", loaded.text)
    first = run.run(loaded, folder, run.Options(device="cpu"), silent).rows
    (here / "mine.py").write_text(BODY + "# changed\n")
    again = run.run(loaded, folder, run.Options(device="cpu"), silent).rows
    assert {row.point for row in first}.isdisjoint(row.point for row in again)


def test_predictions_of_own_code_come_last(here, monkeypatch):
    monkeypatch.setattr(run, "predict_job", lambda job: ([], []))
    found = plan.points(load("  - {name: python, call: 'mine:lora'}\n  - {name: head}\n"))
    done = [job[0].label for job, _ in run.in_processes([(point, "cpu", "dryrun") for point in found])]
    assert done == ["head", "python/lora"]


def test_looking_at_a_scenario_without_own_code_imports_no_torch(here):
    Path("s.yaml").write_text("model: roberta-tiny\nbatch: [2]\nmethods: [{name: head}, {name: python, call: 'mine:lora'}]\n")
    program = (
        "import sys\nfrom refta_profiler import own_code, plan, scenario\n"
        "plan.points(scenario.load('s.yaml', code=own_code.look_up))\nassert 'torch' not in sys.modules and 'mine' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=here, env={"PYTHONPATH": str(ROOT)}, timeout=120)
