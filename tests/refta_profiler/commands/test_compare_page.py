"""The differences of runs as a page."""

from dataclasses import replace
from pathlib import Path

import pytest

from refta_profiler.commands import compare
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder

BAD = "<script>x</script>"


def rows(peak, seconds, label="lora"):
    same = {"point": f"p-{len(label)}", "model": "m", "label": label, "method": "lora", "order": None, "rank": 4, "batch": 8, "seq": None}
    same |= {"precision": "fp32", "checkpointing": False, "target": "cpu", "source": "measured"}
    values = {"peak_allocated_bytes": peak, "step_seconds": seconds, "step_seconds_p10": seconds * 0.99, "step_seconds_p90": seconds * 1.01}
    return [Row(**same, metric=name, unit=METRICS[name].unit, value=value) for name, value in values.items()]


@pytest.fixture
def make(tmp_path):
    def run(found, environment=None):
        folder = RunFolder.create(tmp_path, "model: m\n")
        folder.write_environment(environment or {"device": "cpu"})
        for row in found:
            folder.write_point(row.point, "measured", [one for one in found if one.point == row.point])
        return folder.path

    return run


def page(tmp_path, runs, **options):
    path = tmp_path / "pages" / "difference.html"
    answer = compare.command(runs, html=path, **options)
    assert str(path) in answer.text
    return path.read_text(), answer


def test_what_changed_stands_first(make, tmp_path):
    text, answer = page(tmp_path, [make(rows(1000, 1.0)), make(rows(1030, 1.005))], tolerance="1%")
    card = text.index("larger")
    assert card < text.index("Marks on the line") < text.index('id="environments"')
    assert "what changed?" in text and "does it pay off" not in text
    assert "1 of 2 numbers differ and can be told apart: 1 are larger, 0 smaller." in text
    assert "<code>peak_allocated_bytes</code>" in text and "+3%" in text
    assert answer.failed and "The gate does not hold" in text


def test_no_difference_is_said(make, tmp_path):
    text, _ = page(tmp_path, [make(rows(1000, 1.0)), make(rows(1000, 1.0))])
    assert "no difference" in text and "at most 0% apart" in text


def test_the_figures_caption_is_of_what_is_drawn(make, tmp_path):
    kept = [replace(rows(1, 1.0)[0], metric="peak_reserved_bytes", value=value) for value in (1000, 1500)]
    text, _ = page(tmp_path, [make([*rows(1000, 1.0), kept[0]]), make([*rows(1030, 1.0), kept[1]])])
    assert "at most 3% apart" in text
    assert "+50%" in text
    assert "of one run" not in text


def test_numbers_that_are_gone_have_a_table_and_stand_on_the_card(make, tmp_path):
    failed = [replace(one, value=None, status="oom", note="out of memory") for one in rows(1000, 1.0)[:2]]
    text, answer = page(tmp_path, [make(rows(1000, 1.0)), make(failed)], tolerance="1%")
    assert answer.failed and "numbers missing" in text and 'id="table-run-1-lost"' in text
    assert "2 numbers of the first run are not in this one, of 1 points: <code>lora, batch 8</code> on cpu (oom: out of memory)." in text


def test_unlike_runs_say_so_on_the_page(make, tmp_path):
    runs = [make(rows(1000, 1.0)), make(rows(900, 1.0), {"device": "cuda"})]
    text, _ = page(tmp_path, runs, anyway=True)
    assert "also differ in the device (cpu and cuda)" in text and "smaller" in text


def test_names_are_escaped(make, tmp_path):
    runs = [make(rows(1000, 1.0, BAD)), make([replace(row, note="") for row in rows(1010, 1.0, BAD)])]
    text, _ = page(tmp_path, runs)
    assert BAD not in text and "&lt;script&gt;x" in text


def test_three_runs_have_a_section_each(make, tmp_path):
    text, _ = page(tmp_path, [make(rows(size, 1.0)) for size in (1000, 1010, 990)])
    assert 'id="run-1"' in text and 'id="run-2"' in text and Path(tmp_path / "pages").is_dir()
