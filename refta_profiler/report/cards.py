"""The section on cards: the largest batch of every method on every accelerator whose memory is known, from this run's peaks."""

from refta_profiler import devices
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import LargestBatch, largest_batch
from refta_profiler.report.material import Material
from refta_profiler.report.memory import SIGNS, fit_cell, fit_words
from refta_profiler.report.parts import Column, Section, Table, Text
from refta_profiler.report.tables import text_cell
from refta_profiler.results import Row
from refta_profiler.units import format_bytes

ACROSS = 7  # cards side by side in one table


def cards_section(material: Material) -> Section | None:
    """A table a setting, a row a method and a column a card; None where the peaks are not a GPU's."""
    if kind_of(material.target) != "cuda":
        return None
    cards = [card for card in map(devices.get, devices.names()) if card.kind == "cuda" and card.tensor_bytes]
    cards = sorted(cards, key=lambda card: card.tensor_bytes or 0)
    found: dict[str, dict[str, dict[str, LargestBatch]]] = {}
    for card in cards:
        for fit in largest_batch(rows_for(material, card), card.tensor_bytes or 0, target=material.target):
            place = ", ".join(material.setting_parts(fit))
            found.setdefault(place, {}).setdefault(fit.label, {})[card.name] = fit
    if not found:
        return None
    parts = [cards[start : start + ACROSS] for start in range(0, len(cards), ACROSS)]
    places = enumerate(found.items(), start=1)
    tables = [card_table(f"cards-{index}-{part[0].name}", place, part, fits) for index, (place, fits) in places for part in parts]
    note = (
        f"Peaks are {material.target}'s: a card of another generation may take other kernels for attention, and bf16 is emulated before "
        f"Ampere. A CUDA context is taken off where its size is known. {SIGNS}"
    )
    return Section("cards", "The largest batch by card", [Text(note), *tables])


def rows_for(material: Material, card: devices.Device) -> list[Row]:
    """The rows that say something of that card: what ran out of memory on a smaller one does not."""
    larger = (card.tensor_bytes or 0) > (devices.get(material.target).tensor_bytes or 0)
    return [row for row in material.rows if not (larger and row.status == "oom")]


def kind_of(target: str) -> str:
    """'cuda' or 'cpu'; '' for a device that is not of devices.yaml."""
    try:
        return devices.get(target).kind
    except ScenarioError:
        return ""


def card_table(key: str, place: str, cards: list[devices.Device], fits: dict[str, dict[str, LargestBatch]]) -> Table:
    """One setting; its caption says what the smallest card takes."""
    columns = [Column("method")]
    columns += [Column(card.name, format_bytes(card.tensor_bytes or 0), f"largest_batch_{card.name}", True) for card in cards]
    rows = []
    for label, found in fits.items():
        rows.append([text_cell(label), *(fit_cell(found.get(card.name)) for card in cards)])
    return Table(key, f"The largest batch that fits ({place}).{smallest_words(cards[0].name, fits)}", columns, rows)


def smallest_words(card: str, fits: dict[str, dict[str, LargestBatch]]) -> str:
    """' On l4 `head` takes 64 examples, `full` < 8.': the most and the least there; nothing where no peak is known."""
    known = {label: found[card] for label, found in fits.items() if card in found}
    if not known:
        return ""
    most, least = (choose(known, key=lambda label: known[label].known or 0) for choose in (max, min))
    return f" On {card} `{most}` takes {fit_words(known[most])} examples, `{least}` {fit_words(known[least])}."
