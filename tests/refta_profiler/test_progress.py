"""Progress: plain lines, and the bar on a terminal."""

import pytest

from refta_profiler import progress


def test_lines_name_stage_count_point_and_time_left(capsys, monkeypatch):
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = progress.Lines()
    lines.start("predict", 3)
    lines.done("vit-1")
    lines.done("vit-2", "out of memory")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "predict: 3 points",
        "predict 1/3  vit-1  (about 20.0 s left)",
        "predict 2/3  vit-2  (about 10.0 s left)  out of memory",
    ]


def test_nothing_to_do_is_said(capsys):
    progress.Lines().start("measure", 0)
    assert capsys.readouterr().err == "measure: nothing left to do\n"


def test_a_second_stage_counts_from_one(capsys):
    lines = progress.Lines()
    for stage in ("predict", "measure"):
        lines.start(stage, 1)
        lines.done("one")
    assert [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()[1::2]] == ["predict 1/1", "measure 1/1"]


def test_the_bar_writes_to_standard_error_alone(capsys):
    with progress.Bar() as bar:
        bar.done("before any stage")
        bar.start("predict", 2)
        bar.done("vit-1")
        bar.done("vit-2", "killed [by] the system")
    out, err = capsys.readouterr()
    assert out == ""
    assert "vit-2: killed [by] the system" in err
    assert "2/2" in err


def test_the_bar_is_put_away_after_an_error(capsys):
    bar = progress.Bar()
    with pytest.raises(KeyboardInterrupt), bar:
        bar.start("predict", 2)
        raise KeyboardInterrupt
    assert bar.bar.finished or not bar.bar.live.is_started
