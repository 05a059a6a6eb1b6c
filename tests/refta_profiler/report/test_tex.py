"""Names as TeX takes them, tables as papers do."""

import pytest

from refta_profiler.report.parts import Cell, Column, Table
from refta_profiler.report.tex import escape, marked
from refta_profiler.report.tex_tables import COLUMN, MOST_ROWS, compact, is_long, layout, slug, table_text
from refta_profiler.report.writers.latex import items_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"5% of $x & {y} #1 \z", r"5\% of \$x \& \{y\} \#1 \textbackslash{}z"),
        ("a_b/c~^", r"a\_\allowbreak{}b/\allowbreak{}c\textasciitilde{}\textasciicircum{}"),
        (
            "−6 × Φᵀ → ≤",
            r"\ensuremath{-}6 \ensuremath{\times} \ensuremath{\Phi}\ensuremath{^{\mathsf{T}}} \ensuremath{\rightarrow} \ensuremath{\leq}",
        ),
        ("--format ,,x", "-{}-format ,{},x"),
        ("10² naïve", r"10\ensuremath{^{\mathrm{2}}} na\"{i}ve"),
        ("日\u202e\x00", "[U+65E5][U+202E][U+0000]"),
        ("<script>", r"\ensuremath{<}script\ensuremath{>}"),
    ],
)
def test_every_special_sign_is_written_out(text, expected):
    assert escape(text) == expected


def test_what_stands_between_backticks_is_typewriter():
    assert marked("`a_b` is 5%") == r"\texttt{a\_\allowbreak{}b} is 5\%"
    assert marked("one ` alone") == r"one {\`{}} alone"


def test_a_long_word_is_cut():
    assert len(escape("x" * 10_000)) < 70


def table(rows, *columns):
    return Table("key", "A caption.", columns, rows)


def test_a_small_table_fits_one_column_a_wide_one_both():
    small = table([[Cell("a"), Cell("1")]], Column("name"), Column("n", numeric=True))
    wide = table([[Cell("a"), *[Cell("1,000,000")] * 8]], Column("name"), *[Column(f"batch {n}", "MiB", numeric=True) for n in range(8)])
    assert (layout(small).wide, layout(wide).wide) == (False, True)
    assert r"\begin{table}" in table_text(small, "tab:x") and r"\begin{table*}" in table_text(wide, "tab:x")


def test_long_texts_are_broken_into_lines_that_fit():
    texts = table([[Cell("a"), Cell("word " * 60)]], Column("name"), Column("text"))
    (first, second) = layout(texts).widths
    assert first is None and COLUMN < second < 496
    assert r"p{" in table_text(texts, "tab:x") and r"\raggedright word" in table_text(texts, "tab:x")


def test_a_table_of_more_than_a_page_is_a_longtable():
    rows = [[Cell(f"a{n}"), Cell("1")] for n in range(MOST_ROWS + 1)]
    long = table(rows, Column("name"), Column("n", numeric=True))
    assert is_long(long) and not is_long(table(rows[:-1], *long.columns))
    assert r"\begin{longtable}{lr}" in table_text(long, "tab:x")


def test_what_every_row_says_is_said_once():
    rows = [[Cell(name), Cell("fp32"), Cell("1")] for name in "ab"]
    found = compact(table(rows, Column("name"), Column("precision"), Column("n", numeric=True)))
    assert [column.name for column in found.columns] == ["name", "n"]
    assert found.caption == "A caption. In every row: precision fp32."


def test_a_bracket_or_a_star_at_the_start_of_a_row_is_no_argument_of_the_line_before():
    """As a label 低秩 begins, whose signs are written by their numbers."""
    rows = [[Cell(name), Cell("1")] for name in ("低", "*starred", "plain")]
    text = table_text(table(rows, Column("[GiB]"), Column("a long heading [n] of_*many words", numeric=True)), "tab:x")
    lines = text.splitlines()
    assert lines[lines.index(r"\midrule") + 1 :][:3] == [
        r"{}[U+4F4E] & 1 \tabularnewline",
        r"{}*starred & 1 \tabularnewline",
        r"plain & 1 \tabularnewline",
    ]
    assert r"\toprule" + "\n{}[GiB] & " in text
    assert not any(sign in text for sign in (r"\\[", r"\\*"))
    assert r"\item {}[U+4F4E]" in items_text(["低"])


def test_labels_hold_nothing_that_tex_reads():
    assert slug("vit_l: 5% {x}") == "vit-l-5-x"
    assert slug("日") == "run"
