"""The folder for a paper: complete, and compiled by a plain pdflatex."""

import dataclasses
import re
import shutil
import subprocess

import pytest

from refta_profiler import report
from refta_profiler.report.document import document_of
from refta_profiler.report.material import Material
from refta_profiler.report.writers import latex
from refta_profiler.run_folder import RunFolder

STRANGE = r"日 a_b%c&d#e$f{g}h~i^j\k × → ≤ Φᵀ <script> --x"


@pytest.fixture(scope="module")
def files(run):
    return report.write(run, ["latex"])


def test_every_table_and_figure_has_a_file_that_the_example_puts_in(run, document, files):
    example, *others = files
    assert example == run.path / "paper" / "example.tex"
    named = {path.relative_to(run.path / "paper").as_posix() for path in others}
    assert {f"tables/{table.key}.tex" for table in document.tables() if table.rows} <= named
    assert {f"figures/{figure.key}.{kind}" for figure in document.figures() for kind in ("tex", "pdf")} <= named
    put_in = set(re.findall(r"\\input\{\\paperfolder/([^}]+)\}", example.read_text()))
    assert put_in == {name.removesuffix(".tex") for name in named if name.endswith(".tex")}


def test_a_figure_of_several_panels_has_each_alone_as_well(run, document, files):
    peaks = next(figure for figure in document.figures() if figure.key == "peaks")
    alone = sorted(path.name for path in files if re.fullmatch(r"peaks-[a-z]\.pdf", path.name))
    assert len(alone) == len(peaks.panels) > 1


def test_type_is_embedded_as_truetype(run, files):
    content = next(path for path in files if path.name == "peaks.pdf").read_bytes()
    assert b"/Type3" not in content and b"STIXGeneral" in content and b"/CIDFontType2" in content


def test_labels_are_the_run_s_own(run, files):
    assert r"\label{tab:vit-l-peaks}" in (run.path / "paper" / "tables" / "peaks.tex").read_text()
    assert r"\label{fig:vit-l-peaks}" in (run.path / "paper" / "figures" / "peaks.tex").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("name", ["vit_l", STRANGE])
def test_the_example_compiles(run, tmp_path, name):
    material = Material.of(run)
    rows = [dataclasses.replace(row, label=row.label.replace("lora", name), note=f"{name} {row.note}") for row in material.rows]
    folder = RunFolder(tmp_path)
    latex.write(folder, document_of(dataclasses.replace(material, rows=rows)))
    for _ in range(2):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "example.tex"]
        done = subprocess.run(command, cwd=tmp_path / "paper", capture_output=True, timeout=240)
        log = (tmp_path / "paper" / "example.log").read_text(encoding="latin-1")
        assert done.returncode == 0, log[-3000:]
    assert (tmp_path / "paper" / "example.pdf").stat().st_size > 50_000
    for complaint in ("undefined references", "multiply defined", "Float too large", "Missing character", "Type 3"):
        assert complaint not in log, complaint
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0.0) < 40
