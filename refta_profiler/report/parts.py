"""What a report is made of, as data: a `Document` of sections, and in them text, tables, figures and code. Writers only set it in type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, what it is sorted by and exported as, and a tone (an outcome, with 'best' for what decides), if any."""

    text: str
    value: float | str | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """One column: its heading, the unit its cells are read in, and the name of its values where they are exported."""

    name: str
    unit: str = ""
    key: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    key: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph, names between backticks."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of short texts, names between backticks."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text set as it is."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class Series:
    """One line or set of marks. `name` is what its colour is by; `marks` says whether points are joined."""

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = True
    intervals: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Panel:
    """One set of axes with lines or marks. A band is (low, high, what it means); a limit is (y, what it is)."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_scale: str = "batch"
    y_scale: str = "linear"
    bands: Sequence[tuple[float, float, str]] = ()
    limits: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Bars:
    """A horizontal bar a name, stacked from `stacks`: category to one value a name. `intervals` are (low, high) of the sum."""

    title: str
    x_label: str
    names: Sequence[str]
    stacks: Mapping[str, Sequence[float]]
    intervals: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Map:
    """Which name is least where: regions are (x from, x to, y from, y to, name), marks (x, y, name, whether it was measured)."""

    title: str
    x_label: str
    y_label: str
    regions: Sequence[tuple[float, float, float, float, str]]
    marks: Sequence[tuple[float, float, str, bool]] = ()

    @property
    def names(self) -> list[str]:
        """The names that are least somewhere, or marked."""
        return list(dict.fromkeys([region[4] for region in self.regions] + [mark[2] for mark in self.marks]))


@dataclass(frozen=True)
class Areas:
    """Stacked areas over x: category to one value an x, the first at the bottom. The y axis is `y_range`; `marks` are (x, what ends there).

    The highest point is told as `peak`: (x, y, what it is).
    """

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    stacks: Mapping[str, Sequence[float]]
    y_range: tuple[float, float]
    marks: Sequence[tuple[float, str]] = ()
    peak: tuple[float, float, str] | None = None
    names: Sequence[str] = ()


Drawn = Panel | Bars | Map | Areas


@dataclass(frozen=True)
class Figure:
    """Panels side by side under one caption, which states what is found; `alternative` says it to those who do not see it."""

    key: str
    caption: str
    alternative: str
    panels: Sequence[Drawn]


Block = Text | Items | Code | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Card:
    """One of the three verdicts at the head: its name, its question, its outcome in two words with a tone, and its lines as (lead, detail).

    `elsewhere` holds, by the device that measured them, the same lines from measurement alone.
    """

    key: str
    title: str
    question: str
    outcome: str
    tone: str
    lines: Sequence[tuple[str, str]]
    elsewhere: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    facts: Sequence[tuple[str, str]]
    cards: Sequence[Card]
    sections: Sequence[Section]
    styles: dict[str, int] = field(default_factory=dict)

    def blocks(self) -> list[Block]:
        """All blocks in order."""
        return [block for section in self.sections for block in section.blocks]

    def tables(self) -> list[Table]:
        """All tables in order."""
        return [block for block in self.blocks() if isinstance(block, Table)]

    def figures(self) -> list[Figure]:
        """All figures in order."""
        return [block for block in self.blocks() if isinstance(block, Figure)]
