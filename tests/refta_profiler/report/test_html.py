"""report.html: its structure, what it may not hold, and that it can be read."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from refta_profiler.report.document import document_of
from refta_profiler.report.material import Material
from refta_profiler.report.palette import colour_variables
from refta_profiler.report.templates import TEMPLATES
from refta_profiler.report.writers.html import render
from refta_profiler.results import Row

VOID = {"wbr", "meta", "link", "br", "img", "input", "hr"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "`</code><svg onload=alert(3)>`",
    "{{ 7 * 7 }}{% raw %}",
    "$x_1^2$ & \\frac{1}{2}",
    "\u202eright to left\u202c שלום",
    "two\nlines\x00\x1b[31m",
    "]]>--><!--",
    "x" * 10_000,
]


class Page(HTMLParser):
    """The page's elements, with their attributes, and whether they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(document):
    return render(document)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_verdicts_stand_first(page):
    flat = " ".join(page.text.split())
    assert "At batch 8 shared needs 13% less peak memory than rebuilding the whole stack" in flat
    assert flat.index("Accuracy was not measured") < flat.index("What the order of contraction saves")


def test_every_element_is_closed(page):
    assert page.open == []


def test_nothing_is_fetched(text, page):
    addresses = set(re.findall(r"""https?://[^\s"'<]+""", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|url\((?!#)", text)
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:,", "data:text/csv"))
        assert not attributes.get("href", "#").startswith("data:text/csv") or attributes["download"].endswith(".csv")
        assert attributes.get("xlink:href", "#").startswith("#")
    policy = next(attributes["content"] for attributes in page.all("meta") if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "xlink:href", "aria-labelledby"):
            target = attributes.get(name, "").removeprefix("#")
            assert not target or target.startswith("data:") or target in ids, target


def test_headings_headers_and_pictures_are_told(page):
    assert len(page.all("h1")) == 1
    assert page.all("th") and all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    pictures = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert len(pictures) == len([attributes for attributes in page.all("figure") if attributes.get("class") == "drawn"])
    assert all(len(attributes["aria-label"]) > 40 for attributes in pictures)
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html")[0]["lang"] == "en"


def test_figures_take_the_pages_colours(text):
    assert "currentColor" in text and "var(--m2)" in text
    figures = re.findall(r'<svg [^>]*viewBox="0 0 \d{3}.*?</svg>', text, flags=re.DOTALL)
    assert len(figures) > 10
    assert not any(re.search(r"(fill|stroke): #(?!ffffff)[0-9a-f]{6}", figure) for figure in figures)


def test_it_is_made_the_same_twice(document, text):
    assert render(document) == text


def test_it_is_small(text):
    assert len(text.encode()) < 1_500_000


def hostile_material(name):
    shared = ("p", name, f"{name}/shared", name, "shared", 4, 1, None, name, False, name, "dryrun", "peak_allocated_bytes", "B")
    other = ("q", name, f"{name}/b", name, "b", 4, 1, None, name, False, name, "dryrun", "peak_allocated_bytes", "B")
    third = ("r", name, f"{name}/c", name, "c", 4, 1, None, name, False, name, "measured", "peak_allocated_bytes", "B")
    rows = [Row(*shared, 900), Row(*other, 1000, note=name), Row(*third, None, "error", name)]
    rows += [replace(row, source="measured") for row in rows[:2]]
    rows += [replace(row, metric="step_seconds", unit="s", value=1.5) for row in rows[3:]]
    entry = {"label": name, "order": name, "role": name, "layers": 1, "n": 1, "d": 1, "kept_bytes": [1, 2], "seq": 3}
    crossover = {"crossover": {"quantity": "kept_bytes", "sentence": name, "batch": 2}}
    return Material(rows, f"name: |\n  {name}", {"device": name, name: {name: name}}, [entry, crossover], [name], name)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_text_and_nothing_else(name):
    page = Page(render(document_of(hostile_material(name))))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    assert "49" not in page.text.split("environment")[0][:200]
    if "\x00" not in name and "`" not in name:
        assert name.split("\n")[0] in page.text


def luminance(colour):
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def page_variables():
    """The page's colours: on white, on black."""
    style = (TEMPLATES / "style.css").read_text()
    blocks = [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6})", block)) for block in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)]
    return [
        {name: "#" + "".join(2 * digit for digit in value[1:]) if len(value) == 4 else value for name, value in block.items()}
        for block in blocks
    ]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_at_least_aa(theme):
    colours = page_variables()[theme]
    for text in ("--ink", "--soft", "--link"):
        for ground in ("--page", "--tint"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for tone in ("pays", "small", "same", "costs", "unknown"):
        assert contrast(colours[f"--{tone}"], colours[f"--{tone}-tint"]) >= 4.5, tone


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_lines_stand_out_from_the_page(theme):
    page = page_variables()[theme]["--page"]
    weak = {name: pair[theme] for name, pair in colour_variables().items() if name.startswith("--m") and contrast(pair[theme], page) < 3}
    assert not weak
