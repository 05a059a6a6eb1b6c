"""The page in Chromium: nothing leaves it, nothing fails in it, tables sort and filter, and readers who do not see it are served."""

import csv
import io
import json
import runpy
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import chromium
import pytest

from refta_profiler.report.document import document_of
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Cell, Column, Document, Section, Table
from refta_profiler.report.writers.html import render

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium.found() is None, reason="chromium is not here")]
HERE = Path(__file__).parent
STEP = {"sizes": [[2**30, 2**21]], "initial": [0], "events": [0, -1], "products": [0, 0], "step_flops": [0, 10**9], "operations": []}
HOSTILE = ["</script><script>window.harmed = 1</script>", "\"'><img src=x onerror='window.harmed = 1'>", "\u202eabc שלום", "n" * 10_000]
NAMES = [  # all at once, and each by itself
    pytest.param("".join(HOSTILE[:3]), id="together"),
    *(
        pytest.param(one, id=words, marks=pytest.mark.slow)
        for one, words in zip(HOSTILE, ["script", "quotes", "right-to-left"], strict=False)
    ),
    pytest.param(HOSTILE[3], id="long"),
]


VIEWS = [(1200, "light"), (390, "dark"), *(pytest.param(*one, marks=pytest.mark.slow) for one in [(1200, "dark"), (390, "light")])]


def steps(labels):
    """A made-up step a label, as a run writes it."""
    same = {"model": "vit-large", "settings": {}, "rank": 15, "seq": 197, "precision": "fp32", "checkpointing": False, "target": "h100"}
    same |= {"targets": ["query"], "no_option": [], "trainable_parameters": 5, "adapter_parameters": 3, "own_step_flops": [1, 2]}
    same |= {"memory": "default", "workspace_bytes": 512, "rates": None, "first": STEP, "following": STEP}
    return [same | {"label": label, "method": "refta", "order": label.rpartition("/")[2]} for label in labels]


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    """The page of the made-up run, with a control."""
    material = replace(Material.of(run), steps=steps(["refta/shared", "refta/slices"]))
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_text(render(document_of(material)))
    return found


@pytest.fixture(scope="module")
def connection():
    with chromium.browser() as found:
        yield found


@pytest.fixture
def page(connection, path):
    found = chromium.Page(connection, path)
    found.until("!document.querySelector('.control').hidden")
    yield found
    found.close()


def column(page, table, index):
    """The texts of a column's rows that are shown."""
    return page.value(
        f"[...document.querySelectorAll('#table-{table} tbody tr:not([hidden])')].map((row) => row.cells[{index}].textContent)"
    )


def test_nothing_leaves_the_page_and_nothing_fails_in_it(page, path):
    page.value("for (const details of document.querySelectorAll('details')) details.open = true")
    page.value("for (const button of document.querySelectorAll('.copy-table, th button')) button.click()")
    assert page.value("document.querySelectorAll('details[open]').length") > 3
    assert page.requests == [f"file://{path}"]
    assert page.complaints == []


def test_the_policy_stops_what_would_leave(connection, path, tmp_path):
    text = path.read_text().replace("<footer>", '<img src="https://example.org/x.png"><footer>')
    changed = tmp_path / "changed.html"
    changed.write_text(text)
    page = chromium.Page(connection, changed)
    assert any("Content Security Policy" in json.dumps(one) for one in page.complaints)
    page.close()


def test_a_heading_sorts_up_then_down(page):
    page.value("document.querySelector('#table-numbers').closest('details').open = true")
    head = "document.querySelectorAll('#table-numbers thead button')[2]"
    before = sorted(map(int, column(page, "numbers", 2)))
    page.value(f"{head}.click()")
    assert list(map(int, column(page, "numbers", 2))) == before
    assert page.value(f"{head}.closest('th').getAttribute('aria-sort')") == "ascending"
    page.value(f"{head}.click()")
    assert list(map(int, column(page, "numbers", 2))) == before[::-1]
    assert page.value("document.querySelectorAll('#table-numbers [aria-sort]').length") == 1


def test_a_heading_sorts_by_keyboard(page):
    page.value("document.querySelector('#table-winners thead button').focus()")
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.value("document.querySelector('#table-winners th').getAttribute('aria-sort')") == "ascending"


def test_a_filter_leaves_the_rows_with_every_word_and_counts_them(page):
    whole = column(page, "winners", 2)
    page.value("""(() => { const box = document.querySelector('#table-winners-tools input'); box.value = 'WITHOUT checkpointing';
        box.dispatchEvent(new Event('input')); })()""")
    shown = column(page, "winners", 2)
    assert 0 < len(shown) < len(whole) and all("without checkpointing" in text for text in shown)
    assert page.value("document.querySelector('#table-winners-tools .count').textContent") == f"{len(shown)} of {len(whole)} rows"


def test_csv_is_what_is_shown(page):
    page.value("""(() => { const make = URL.createObjectURL; URL.createObjectURL = (blob) => { window.saved = blob; return make(blob); };
        HTMLAnchorElement.prototype.click = () => {};
        const tools = document.querySelector('#table-winners-tools'), box = tools.querySelector('input');
        box.value = 'without'; box.dispatchEvent(new Event('input')); tools.querySelector('.save-table').click(); })()""")
    rows = list(csv.DictReader(io.StringIO(page.value("window.saved.text()"))))
    assert [row["winner"] for row in rows] == column(page, "winners", 0)
    assert int(rows[0]["peak_bytes"]) > 2**20


def test_the_data_of_a_figure_is_behind_its_link(page):
    links = page.value("[...document.querySelectorAll('.figure-data a')].map((link) => [link.download, link.href])")
    assert len(links) == page.value("document.querySelectorAll('figure.drawn').length")
    assert all(name.endswith(".csv") and address.startswith("data:text/csv") for name, address in links)


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nothing_serious_keeps_readers_out(connection, path, scheme, width):
    page = chromium.Page(connection, path, width=width, scheme=scheme)
    page.until("!document.querySelector('.control').hidden")
    page.value("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.value((HERE / "accessible.js").read_text().rstrip()) == []
    assert page.value("document.documentElement.scrollWidth") <= width
    page.close()


WRONG = {
    "has no name": "<button></button>",
    "without a caption": "<table><tbody><tr><td>1</td></tr></tbody></table>",
    "without a scope": "<table><caption>c</caption><tbody><tr><th>1</th></tr></tbody></table>",
    "a heading of level 6": "<h6>too deep</h6>",
    "without a text": "<img src='data:,'>",
    "hidden from readers": "<div aria-hidden='true'><a href='#x'>x</a></div>",
    "an id twice": "<p id='control'>x</p>",
    "contrast 2.": "<p style='color: #999; background: #fff'>pale</p>",
    "not by keyboard": "<div class='scroll' style='width: 3rem'><p style='width: 30rem'>wide</p></div>",
    "2 main": "<main></main>",
}


@pytest.mark.parametrize("words", WRONG)
def test_the_check_finds_what_is_wrong(page, words):
    page.value(f"document.querySelector('footer').insertAdjacentHTML('beforeend', {json.dumps(WRONG[words])})")
    found = page.value((HERE / "accessible.js").read_text().rstrip())
    assert any(words in one for one in found), found


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(connection, path, tmp_path, scheme):
    """axe-core of the npm registry, where npm and the registry can be reached."""
    page = chromium.Page(connection, path, scheme=scheme)
    page.until("!document.querySelector('.control').hidden")
    page.value("for (const details of document.querySelectorAll('details')) details.open = true")
    page.value(axe(tmp_path))
    found = page.value("axe.run().then((found) => found.violations.map((one) => [one.impact, one.id, one.nodes.map((node) => node.html)]))")
    assert [one for one in found if one[0] in ("serious", "critical")] == []
    page.close()


def axe(folder):
    """The script of axe-core 4.10.3."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here, so axe-core cannot be fetched")
    fetched = subprocess.run(["npm", "pack", "axe-core@4.10.3", "--silent"], cwd=folder, capture_output=True, timeout=120)
    if fetched.returncode:
        pytest.skip(f"axe-core cannot be fetched: {fetched.stderr.decode().strip()[:200]}")
    with tarfile.open(folder / "axe-core-4.10.3.tgz") as package:
        return package.extractfile("package/axe.min.js").read().decode()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_wherever_it_comes_from(connection, run, tmp_path, name):
    """In rows, in the scenario, in errors, and in what the control computes from."""
    entries = [entry | {"label": f"{name}/{entry['order']}"} for entry in steps(["x/a", "x/b"])] + [
        {**steps(["x/c"])[0], "label": name, "reason": name, "first": None, "following": None}
    ]
    rows = [replace(row, label=f"{name}{row.label}", model=name, note=name) for row in run.rows()[:400]]
    material = replace(Material.of(run), rows=rows, steps=entries, scenario_text=f"model: {json.dumps(name)}\nname: {json.dumps(name)}")
    path = tmp_path / "report.html"
    path.write_text(render(document_of(material)))
    page = chromium.Page(connection, path)
    page.until("!document.querySelector('.control').hidden")
    assert page.value("window.harmed") is None
    assert page.value("document.images.length") == 0
    assert name in page.value("document.getElementById('control-table').textContent")
    assert page.requests == [f"file://{path}"] and page.complaints == []
    assert page.value("document.documentElement.scrollWidth") <= 1200
    page.close()


def test_a_table_of_ten_thousand_rows_sorts_and_filters(connection, tmp_path):
    rows = [[Cell(f"row {index * 7919 % 10_007}", None), Cell(str(index % 97), index % 97)] for index in range(10_000)]
    table = Table("long", "A long table.", [Column("name"), Column("number", "", "number", True)], rows)
    path = tmp_path / "report.html"
    path.write_text(render(Document("long", [], [], [Section("long", "Long", [table])])))
    page = chromium.Page(connection, path)
    page.value("document.querySelectorAll('#table-long thead button')[1].click()")
    numbers = list(map(int, column(page, "long", 1)))
    assert len(numbers) == 10_000 and numbers == sorted(numbers)
    page.value("document.querySelectorAll('#table-long thead button')[0].click()")
    names = [int(text.split()[1]) for text in column(page, "long", 0)]
    assert names == sorted(names)
    page.close()


@pytest.mark.slow
def test_a_run_of_many_rows_opens(connection, tmp_path):
    many = runpy.run_path(str(HERE / "fixture" / "many.py"))
    path = tmp_path / "report.html"
    path.write_text(render(document_of(Material(many["rows"](10_000), many["SCENARIO"]))))
    page = chromium.Page(connection, path)
    assert page.value("document.querySelectorAll('#table-numbers tbody tr').length") == 468
    assert page.complaints == []
    page.close()
