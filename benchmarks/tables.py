"""The comparison as Markdown: a table a cell, and what must hold over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cells import Measured, by_label
from benchmarks.contenders import EQUAL_RANK, FLOOR, HEAD, NAIVE, SMALL
from refta_profiler.units import format_bytes

FUSED, FOLD, AUTO = "refta/fused", "refta/fused_fold", "refta/auto"
TOLERATED, ROUNDS = 1.02, 15  # of LoRA's step time, and over how many interleaved steps
JUDGED = 5  # rounds below which the machine's noise decides which of two is slower


@dataclass
class Cell:
    """One model at one batch. `predicted`: peaks by dry run of what was too long to measure here."""

    model: str
    batch: int
    tokens: int
    measured: list[Measured]
    floor_flops: int
    predicted: dict[str, int]

    @property
    def peaks(self) -> dict[str, int]:
        """Peak bytes by label."""
        return {one.label: one.peak_bytes for one in self.measured} if self.measured else self.predicted


@dataclass(frozen=True)
class Claim:
    """Something that must hold, whether it does (None: not tried in this run), and the figures."""

    sentence: str
    holds: bool | None
    figures: str


def cell_table(cell: Cell) -> str:
    """The cell's contenders, a row each; times are ratios to LoRA of equal rank, memory stands above the head-only floor."""
    head = f"{cell.model}, batch {cell.batch} ({cell.tokens:,} tokens)"
    if not cell.measured:
        rows = [[label, _above(peak, cell.peaks)] for label, peak in cell.predicted.items()]
        return f"### {head}: peaks by dry run, equal to the profiler's to the byte\n\n{_markdown(['', 'peak above head'], rows)}"
    found = by_label(cell.measured)
    rounds = len(cell.measured[0].samples)
    titles = ["", f"step / {EQUAL_RANK}", "step / floor", "peak above head", "peak above floor", "kept beyond x", "adapter FLOPs / least"]
    rows = [_row(one, cell, found) for one in cell.measured]
    seconds = f", {found[EQUAL_RANK].seconds:.3g} s" if EQUAL_RANK in found else ""
    return f"### {head}: {rounds} interleaved steps ({EQUAL_RANK}{seconds})\n\n{_markdown([*titles, 'trained', 'set-up, s'], rows)}"


def _row(one: Measured, cell: Cell, found: dict[str, Measured]) -> list[str]:
    floor = found.get(FLOOR)
    adapter = one.flops - floor.flops if floor and one.label not in (HEAD, FLOOR) else None
    is_refta = one.label.startswith("refta/") or one.label == NAIVE  # the least is that of ReFTA's rank
    return [
        one.label,
        _ratio(one, found.get(EQUAL_RANK)),
        _ratio(one, floor),
        _above(one.peak_bytes, cell.peaks),
        _signed(one.peak_bytes - floor.peak_bytes) if floor else "",
        format_bytes(one.kept_bytes),
        f"{adapter / cell.floor_flops:.2f}" if adapter is not None and is_refta else "",
        f"{one.trained:,}",
        "" if one.setup_seconds is None else f"{one.setup_seconds:.2f}",
    ]


def _ratio(one: Measured, other: Measured | None) -> str:
    return f"{one.ratio(other):.3f}" if other and one.samples and other.samples else ""


def _above(peak: int, peaks: dict[str, int]) -> str:
    return _signed(peak - peaks[HEAD]) if HEAD in peaks else format_bytes(peak)


def _signed(difference: int) -> str:
    return ("+" if difference >= 0 else "-") + format_bytes(abs(difference))


def _markdown(titles: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(one) + " |" for one in [titles, ["---"] * len(titles), *rows])


def claims(cells: Sequence[Cell]) -> list[Claim]:
    """What this project says of its own ReFTA, against the run's figures."""
    return [_memory(cells), _kept(cells), _time(cells), _never_slower(cells)]


def _memory(cells: Sequence[Cell]) -> Claim:
    pairs = [(one, one.peaks[FUSED], one.peaks[SMALL]) for one in cells if {FUSED, SMALL} <= one.peaks.keys()]
    figures = ", ".join(f"{one.model} × {one.batch}: {_signed(fused - lora)}" for one, fused, lora in pairs)
    return Claim(f"the peak of `{FUSED}` is at most that of {SMALL}", _all(fused <= lora for _, fused, lora in pairs), figures)


def _kept(cells: Sequence[Cell]) -> Claim:
    found = [one for cell in cells for one in cell.measured if one.label in (FUSED, FOLD)]
    figures = f"{len(found)} cells, at most {format_bytes(max((one.kept_bytes for one in found), default=0))}"
    return Claim(f"`{FUSED}` and `{FOLD}` keep nothing beyond x", _all(one.kept_bytes == 0 for one in found), figures)


def _time(cells: Sequence[Cell]) -> Claim:
    ratios = {}
    for cell in cells:
        found = by_label(cell.measured)
        known = FUSED in found and EQUAL_RANK in found
        if cell.model == "roberta-base" and cell.batch == 8 and known and len(found[FUSED].samples) >= ROUNDS:
            ratios[f"{cell.tokens:,} tokens"] = found[FUSED].ratio(found[EQUAL_RANK])
    sentence = f"on roberta-base at batch 8 a step of `{FUSED}` takes at most {TOLERATED} of {EQUAL_RANK}'s, over {ROUNDS} steps"
    return Claim(sentence, _all(one <= TOLERATED for one in ratios.values()), ", ".join(f"{k}: {v:.3f}" for k, v in ratios.items()))


def _never_slower(cells: Sequence[Cell]) -> Claim:
    ratios = {}
    for cell in cells:
        found = by_label(cell.measured)
        if {AUTO, NAIVE} <= found.keys() and len(found[AUTO].samples) >= JUDGED:
            ratios[f"{cell.model} × {cell.batch}"] = found[AUTO].ratio(found[NAIVE])
    figures = ", ".join(f"{key}: {value:.3f}" for key, value in ratios.items())
    return Claim(f"a step of `{AUTO}` takes no longer than the naive rebuild's", _all(one <= 1 for one in ratios.values()), figures)


def _all(values) -> bool | None:
    found = list(values)
    return all(found) if found else None
