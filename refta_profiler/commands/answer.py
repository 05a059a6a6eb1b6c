"""What a command gives back, and tables as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from refta_profiler.units import format_bytes


@dataclass(frozen=True)
class Answer:
    """A command's answer as data (one JSON array) and in words; `failed` says why a gate that was asked for does not hold."""

    data: list[dict[str, Any]]
    text: str
    failed: str = field(default="")


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """The rows as columns of equal width, the first row being the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in rows)


def signed_bytes(count: float) -> str:
    """Bytes with their sign: '+24 MiB', '-1.5 GiB', '0 B'."""
    return f"{'+' if count > 0 else ''}{format_bytes(count)}"
