"""Every format from one document."""

import csv
import dataclasses
import json
from importlib import import_module

import pytest

from refta_profiler import report
from refta_profiler.errors import ScenarioError
from refta_profiler.report.writers import md
from refta_profiler.results import from_csv


def test_the_folder_is_the_list_of_formats():
    assert report.formats() == ["csv", "html", "json", "latex", "md", "pdf", "png", "svg"]


def test_an_unknown_format_names_those_there_are(run):
    with pytest.raises(ScenarioError, match="docx is none of the formats csv, html"):
        report.write(run, ["docx"])


def test_html_is_what_is_written_by_default(run):
    assert report.write(run) == [run.path / "report.html"]


def test_csv_holds_every_row_and_every_table(run, document):
    table, *others = report.write(run, ["csv"])
    assert from_csv(table.read_text()) == run.rows()
    assert len(others) == len(document.tables())
    with open(run.path / "tables" / "pairs.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["predicted"]) > 2**20
    assert abs(float(first["error"])) < 0.01


def test_json_holds_the_report_and_the_rows(run):
    (path,) = report.write(run, ["json"])
    content = json.loads(path.read_text())
    assert [card["key"] for card in content["verdicts"]] == ["order", "method", "task"]
    assert content["rows"] == [row.to_dict() for row in run.rows()]
    assert {block["kind"] for section in content["sections"] for block in section["blocks"]} == {"text", "items", "code", "table", "figure"}


def test_markdown_holds_the_verdict_the_tables_and_the_figures(run):
    path, *figures = report.write(run, ["md"])
    text = path.read_text()
    assert "13% less peak memory than rebuilding the whole stack" in text
    assert "| refta/slices |" in text
    for figure in figures:
        assert f"(figures/{figure.name})" in text
        assert figure.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a&#124;b"),
        ("<b>*x*</b>", r"&lt;b>\*x\*&lt;/b>"),
        ("`a_b` c_d", r"`a_b` c\_d"),
        ("two\nlines", "two lines"),
        ("[x](y)", r"\[x\](y)"),
    ],
)
def test_markdown_is_escaped(text, expected):
    assert md.plain(text) == expected


@pytest.mark.parametrize(("kind", "head"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_figures_alone(run, document, kind, head):
    few = dataclasses.replace(document, sections=[section for section in document.sections if section.key in ("peaks", "flops")])
    paths = import_module(f"refta_profiler.report.writers.{kind}").write(run, few)
    assert [path.name for path in paths] == [f"peaks.{kind}", f"flops.{kind}"]
    assert all(path.read_bytes().startswith(head) for path in paths)
