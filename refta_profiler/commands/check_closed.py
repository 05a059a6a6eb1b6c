"""`check`'s answer where no step could be dry-run: what the adapters add in each order, from the closed form alone. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from refta.operands import AUTOMATIC
from refta_profiler.commands import order_table
from refta_profiler.commands.answer import table as as_table
from refta_profiler.commands.check_runs import Question
from refta_profiler.commands.order_table import Crossover, OrderTable, Scope
from refta_profiler.units import format_bytes, format_flops, format_percent

NOTE = "the adapters alone: the share of a whole step's peak is not known without a dry run"
CHECKPOINTING = "; of what is kept, checkpointing keeps one block's alive at a time, and step FLOPs are without the forward that it repeats"


@dataclass(frozen=True)
class Added:
    """What the adapters of one order add at the asked tokens, beyond the frozen model."""

    order: str
    kept_bytes: int
    temporary_bytes: int
    step_flops: int

    @property
    def memory_bytes(self) -> int:
        """What is kept, and one largest temporary."""
        return self.kept_bytes + self.temporary_bytes


@dataclass(frozen=True)
class ClosedAnswer:
    """The orders by what they add in memory, least first; where each quantity of the subject crosses the others'."""

    question: Question
    reason: str  # why there is no dry run
    subject: str
    added: list[Added]
    crossovers: list[Crossover]
    tokens: int
    seq: int

    @property
    def best_other(self) -> Added | None:
        """The order of least memory that is not the subject."""
        return next((one for one in self.added if one.order != self.subject), None)

    def of(self, order: str) -> Added:
        """What that order adds."""
        return next(one for one in self.added if one.order == order)


def of(question: Question, table: OrderTable, reason: str, order: str | None) -> ClosedAnswer:
    """The answer for `order`, which is what was asked about, or else the method's published one."""
    scope = table.scope("model")[0]
    tokens = question.batch * table.seq
    added = [_added(scope, order, tokens) for order in scope.costs]
    added.sort(key=lambda one: (one.memory_bytes, one.step_flops))
    subject = order or next(name for name, aliases in table.aliases.items() if "published" in (name, *aliases))
    crossed = [one for name in ("kept_bytes", "step_flops") for one in order_table.crossovers(table, scope, name)]
    return ClosedAnswer(question, reason, subject, added, [one for one in crossed if subject in (one.lower, one.higher)], tokens, table.seq)


def _added(scope: Scope, order: str, tokens: int) -> Added:
    cost = scope.costs[order]
    return Added(order, cost.kept_bytes.at(tokens), cost.temporary_bytes(tokens), cost.step_flops.at(tokens))


def entries(found: ClosedAnswer) -> list[dict[str, Any]]:
    """The answer as JSON takes it."""
    best, other = found.added[0], found.added[1] if len(found.added) > 1 else None
    margin = None if other is None else other.memory_bytes - best.memory_bytes
    winner = {"kind": "winner", "order": best.order, "runner_up": other and other.order, "margin_bytes": margin}
    return [
        {"kind": "question", **asdict(found.question)},
        *({"kind": "closed_form", "source": "contraction", **asdict(one), "memory_bytes": one.memory_bytes} for one in found.added),
        {**winner, "source": "contraction", "margin_fraction_of_peak": None, "note": f"{_note(found)}: {found.reason}"},
        *(_crossover(found, one) for one in found.crossovers),
    ]


def _crossover(found: ClosedAnswer, one: Crossover) -> dict[str, Any]:
    tokens = None if one.tokens is None else int(one.tokens)
    place = {"tokens": tokens, "batch": None if tokens is None else tokens // found.seq}
    return {"kind": "crossover", "quantity": one.quantity, "lower": one.lower, "higher": one.higher, **place}


def _note(found: ClosedAnswer) -> str:
    return NOTE + (CHECKPOINTING if found.question.checkpointing else "")


def text(found: ClosedAnswer) -> str:
    """The answer in words."""
    one = found.question
    head = f"{one.method} on {one.model}, batch {one.batch}, {found.tokens:,} tokens, on {' and '.join(one.targets)}"
    lines = [
        f"{head}; no step could be dry-run: {found.reason}",
        f"From the closed form, {_note(found)}.",
        _verdict(found),
        *(f"  - {_sentence(found, crossing)}" for crossing in found.crossovers),
        _table(found),
    ]
    return "\n\n".join([lines[0] + "\n" + lines[1], "\n".join(lines[2:-1]), lines[-1]])


def _verdict(found: ClosedAnswer) -> str:
    ours, other = found.of(found.subject), found.best_other
    named = f" (what `{found.question.order}` takes here)" if found.question.order in AUTOMATIC else ""
    kept = f"`{ours.order}`{named} adds {_parts(ours)}"
    if other is None:
        return f"{kept}; the method has no other order"
    difference = other.memory_bytes - ours.memory_bytes
    share = f" ({format_percent(abs(difference) / other.memory_bytes)})" if other.memory_bytes else ""
    words = f"{format_bytes(abs(difference))}{share} {'less' if difference > 0 else 'more'} than" if difference else "the same as"
    return f"{kept}: {words} the best other order, `{other.order}`, which adds {_parts(other)}"


def _parts(one: Added) -> str:
    return f"{format_bytes(one.memory_bytes)} ({format_bytes(one.kept_bytes)} kept, {format_bytes(one.temporary_bytes)} at once)"


def _sentence(found: ClosedAnswer, one: Crossover) -> str:
    what = "keeps less than" if one.quantity == "kept_bytes" else "needs fewer step FLOPs than"
    if one.tokens is None:
        return f"`{one.lower}` {what} `{one.higher}` at every batch"
    batch = int(one.tokens) // found.seq
    if batch < 1:
        return f"`{one.higher}` {what} `{one.lower}` at every batch"
    return f"`{one.lower}` {what} `{one.higher}` up to {int(one.tokens):,} tokens (batch {batch:,} of {found.seq:,})"


def _table(found: ClosedAnswer) -> str:
    rows = [["order", "kept", "largest temporary", "step FLOPs"]]
    rows += [
        [one.order, format_bytes(one.kept_bytes), format_bytes(one.temporary_bytes), format_flops(one.step_flops)] for one in found.added
    ]
    return as_table(rows, indent="  ")
