"""The section on cards: the largest batch of every method on every accelerator whose memory is known, from this run's peaks."""

from refta_profiler import devices
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import LargestBatch, largest_batch
from refta_profiler.report.material import Material
from refta_profiler.report.memory import SURENESS
from refta_profiler.report.parts import Column, Section, Table, Text
from refta_profiler.report.tables import ABSENT, count_cell, text_cell
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
        for fit in largest_batch(material.rows, card.tensor_bytes or 0, target=material.target):
            place = ", ".join(material.setting_parts(fit))
            found.setdefault(place, {}).setdefault(fit.label, {})[card.name] = fit
    if not found:
        return None
    parts = [cards[start : start + ACROSS] for start in range(0, len(cards), ACROSS)]
    places = enumerate(found.items(), start=1)
    tables = [card_table(f"cards-{index}-{part[0].name}", place, part, fits) for index, (place, fits) in places for part in parts]
    note = (
        f"Peaks are {material.target}'s: a card of another generation may take other kernels for attention, and bf16 is emulated before "
        "Ampere. A CUDA context is taken off where its size is known. ≥: between two batches of this run. ≈: beyond its largest, a guess."
    )
    return Section("cards", "The largest batch by card", [Text(note), *tables])


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
        cells = [count_cell(found[card.name].batch) if card.name in found else ABSENT for card in cards]
        signs = [SURENESS[found[card.name].certainty] if card.name in found else "" for card in cards]
        rows.append([text_cell(label), *(type(cell)(sign + cell.text, cell.value) for cell, sign in zip(cells, signs, strict=True))])
    smallest = cards[0].name
    most = max(fits, key=lambda label: fits[label][smallest].batch if smallest in fits[label] else 0)
    least = min(fits, key=lambda label: fits[label][smallest].batch if smallest in fits[label] else 0)
    caption = f"The largest batch that fits ({place}). On {smallest} `{most}` takes {fits[most][smallest].batch:,} examples, `{least}` "
    return Table(key, f"{caption}{fits[least][smallest].batch:,}.", columns, rows)
