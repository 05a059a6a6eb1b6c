"""A run of 10,000 rows: how much is looked at, how large the page is. What it takes is in the commit's message, not in a test."""

import runpy
from pathlib import Path

import pytest

from refta_profiler import evidence
from refta_profiler.report import material as materials
from refta_profiler.report.document import document_of
from refta_profiler.report.material import Material
from refta_profiler.report.writers.html import MOST_PANELS, drawn, render

MANY = runpy.run_path(str(Path(__file__).parent / "fixture" / "many.py"))


@pytest.fixture(scope="module")
def rows():
    return MANY["rows"](10_000)


@pytest.fixture(scope="module")
def document(rows):
    return document_of(Material(rows, MANY["SCENARIO"]))


@pytest.fixture(scope="module")
def text(document):
    return render(document)


def test_there_are_that_many(rows):
    assert len(rows) >= 10_000
    assert len({row.point for row in rows}) >= 300


def test_the_page_is_under_three_megabytes(text):
    assert len(text.encode()) < 3_000_000


def test_long_tables_are_folded(document):
    assert not [table.key for table in document.tables() if len(table.rows) > 100 and not table.folded]


def test_no_row_is_left_out(rows, document):
    numbers = next(table for table in document.tables() if table.key == "numbers")
    assert len(numbers.rows) == len({(row.point, row.source) for row in rows if row.source != "contraction"})


class Counted(list):
    """Rows that count how often all of them are walked over."""

    walks = 0

    def __iter__(self):
        Counted.walks += 1
        return super().__iter__()


def test_rows_are_walked_over_a_few_times_and_not_once_a_cell(rows):
    Counted.walks = 0
    document_of(Material(Counted(rows), MANY["SCENARIO"]))
    assert Counted.walks < 150


def test_candidates_are_gathered_once_a_target(rows, monkeypatch):
    asked = []
    monkeypatch.setattr(materials, "candidates", lambda rows, target: asked.append(target) or evidence.candidates(rows, target))
    document_of(Material(rows, MANY["SCENARIO"]))
    assert len(asked) == len(set(asked))


def test_of_many_panels_the_first_are_drawn_and_the_page_says_so(document, monkeypatch):
    figure = next(one for one in document.figures() if len(one.panels) > 1)
    monkeypatch.setattr("refta_profiler.report.writers.html.MOST_PANELS", 1)
    assert len(drawn(document, figure)) == 1
    assert f"The first 1 of {len(figure.panels)} panels are drawn" in render(document)
    assert MOST_PANELS >= 8
