"""A stored run to work with in a notebook: its rows, verdicts and tables; shown as a summary. Nothing is run, and no torch is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from refta_profiler import results
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas

    from refta_profiler.report.material import Material
    from refta_profiler.report.parts import Card, Document, Table
    from refta_profiler.verdict import Verdict

SHOWN = 20  # rows of the summary's table


def load_run(path: str | Path) -> LoadedRun:
    """The run in that folder; a ScenarioError where the path is no run folder."""
    return LoadedRun(RunFolder.open(Path(path)))


@dataclass(frozen=True)
class LoadedRun:
    """One stored run."""

    folder: RunFolder

    @cached_property
    def rows(self) -> list[Row]:
        """Every row, in the scenario's order."""
        return self.folder.rows()

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Every verdict for the target: order, then method, then task."""
        return self._material.verdicts

    @cached_property
    def document(self) -> Document:
        """The whole report as data: sections, tables, figures."""
        from refta_profiler.report.document import document_of

        return document_of(self._material)

    @cached_property
    def _material(self) -> Material:
        from refta_profiler.report.material import Material

        return Material.of(self.folder)

    def to_pandas(self) -> pandas.DataFrame:
        """Every row as a data frame."""
        return results.to_pandas(self.rows)

    def table(self, key: str) -> pandas.DataFrame:
        """A table of the report as a data frame, its numbers unrounded; a KeyError names the tables there are."""
        import pandas

        found = {table.key: table for table in self.document.tables()}
        if key not in found:
            raise KeyError(f"no table {key!r} in this report; there is {', '.join(found)}")
        rows = [[cell.text if cell.value is None else cell.value for cell in row] for row in found[key].rows]
        return pandas.DataFrame(rows, columns=[column.key or column.name for column in found[key].columns])

    def __repr__(self) -> str:
        points = len({row.point for row in self.rows})
        return f"<run {self.document.title!r} in {self.folder.path}: {points} points, {len(self.rows)} rows>"

    def _repr_html_(self) -> str:
        """The verdicts and peak memory as HTML for a notebook; every name is escaped."""
        document = self.document
        facts = " · ".join(f"{escape(name)}: {escape(value)}" for name, value in document.facts)
        cards = "".join(card_html(card) for card in document.cards)
        peaks = next((table for table in document.tables() if table.key == "peaks"), None)
        head = f"<h3>{escape(document.title)}: does it pay off?</h3><p><small>{facts}</small></p>"
        return f"<div>{head}{cards}{table_html(peaks) if peaks else ''}</div>"


def card_html(card: Card) -> str:
    """One verdict: its outcome, and its first lines."""
    lines = "".join(f"<p>{ticks(lead)} {ticks(detail)}</p>" for lead, detail in card.lines[:3])
    more = f"<p><small>{len(card.lines) - 3} more in the report</small></p>" if len(card.lines) > 3 else ""
    return f"<details open><summary><b>{escape(card.title)}: {escape(card.outcome)}</b></summary>{lines}{more}</details>"


def ticks(text: str) -> str:
    """The text escaped, names between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def table_html(table: Table) -> str:
    """The table's first rows."""
    head = "".join(f"<th>{escape(column.name)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell.text)}</td>' for cell in row)}</tr>" for row in table.rows[:SHOWN])
    rest = len(table.rows) - SHOWN
    more = f"<p><small>{rest} more rows: run.table({table.key!r})</small></p>" if rest > 0 else ""
    return f"<table><caption>{ticks(table.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"
