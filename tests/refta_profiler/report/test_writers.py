"""Every format from one document."""

import csv
import json

import pytest

from refta_profiler import report
from refta_profiler.errors import ScenarioError
from refta_profiler.report.writers import latex, md
from refta_profiler.results import from_csv


def test_the_folder_is_the_list_of_formats():
    assert report.formats() == ["csv", "html", "json", "latex", "md"]


def test_an_unknown_format_names_those_there_are(run):
    with pytest.raises(ScenarioError, match="pdf is none of the formats csv, html"):
        report.write(run, ["pdf"])


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


def test_latex_has_a_file_a_table_and_a_figure(run, document):
    main, *others = report.write(run, ["latex"])
    text = main.read_text()
    assert main.name == "report.tex"
    for name in (path.name for path in others):
        assert path_is_used(name, text), name
    assert sum(path.suffix == ".pdf" for path in others) == sum(len(figure.panels) for figure in document.figures())


def path_is_used(name, text):
    return rf"\input{{{name.removesuffix('.tex')}}}" in text or name in text


def test_latex_is_escaped():
    assert latex.marked(r"`a_b` 5% of $x & {y} \z") == r"\texttt{a\_\allowbreak{}b} 5\% of \$x \& \{y\} \textbackslash{}z"
    assert latex.escape("−6% of 日") == r"$-$6\% of ?"
