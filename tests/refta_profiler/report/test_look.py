"""Style files: what they change, and what is said of a wrong one."""

import matplotlib
import pytest

from refta_profiler.errors import ScenarioError
from refta_profiler.report import look
from refta_profiler.report.document import build
from refta_profiler.report.palette import Style, css_colour
from refta_profiler.report.plates import paper_settings, save


def written(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_a_colour_given_to_a_label_is_its_colour_throughout(run, tmp_path):
    path = written(tmp_path, "mine.yaml", "lora: '#123456'\nrefta/shared: {colour: navy, marker: D, dash: [4, 2]}\n")
    document = build(run, look.read([path]))
    lora, shared = document.styles["lora"], document.styles["refta/shared"]
    assert isinstance(lora, Style) and lora.light == "#123456" and css_colour(lora) == "--given, #123456"
    assert isinstance(shared, Style) and (shared.light, shared.marker, shared.dash) == ("#000080", "D", (4, 2))
    assert document.styles["head"] == 0 and css_colour(0) == "--m0"
    peaks = next(figure for figure in document.figures() if figure.key == "peaks")
    assert "#123456" in save(document, peaks.panels[:1], tmp_path / "peaks.svg").read_text()


def test_a_matplotlib_style_file_is_put_over_ours(run, tmp_path):
    path = written(tmp_path, "mine.mplstyle", "font.size: 10\nfigure.figsize: 5.5, 3\n")
    document = build(run, look.read([path]))
    with paper_settings(document.settings):
        assert matplotlib.rcParams["font.size"] == 10 and matplotlib.rcParams["pdf.fonttype"] == 42
        assert list(matplotlib.rcParams["figure.figsize"]) == [5.5, 3.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "lora: nocolour", "lora: 'nocolour' is no colour; write e.g."),
        ("a.yaml", "lora: #123456", "lora: None is no colour"),
        ("a.yaml", "- lora", "is not a mapping of labels"),
        ("a.yaml", "lora: [", "is not YAML"),
        ("a.yaml", "lora: {color: red}", "unknown key 'color'; there are colour, marker, dash"),
        ("a.yaml", "lora: {marker: q}", "marker 'q' is none of"),
        ("a.yaml", "lora: {dash: [1]}", "is not a list of strokes and gaps"),
        ("a.yaml", "lroa: red", "'lroa' is no label of this run; did you mean 'lora'?"),
        ("a.mplstyle", "font.sise: 9", "font.sise"),
        ("a.mplstyle", "font.size: huge-ish", "font.size"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(run, tmp_path, name, text, message):
    with pytest.raises(ScenarioError, match=r"a\.(yaml|mplstyle)") as told:
        build(run, look.read([written(tmp_path, name, text)]))
    assert message in str(told.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ScenarioError, match="no such file"):
        look.read([tmp_path / "none.yaml"])
