"""How numbers are written for people, and read back from them.

MiB and GiB are binary (powers of 1024); GB is decimal (powers of 1000), as sellers of memory mean it.
"""

import re

from refta_profiler.errors import ScenarioError

BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
FACTORS = {"B": 1} | {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", start=1)}
FACTORS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGTP", start=1)}
BY_LOWER_CASE = {unit.lower(): factor for unit, factor in FACTORS.items()}


def significant(value: float, digits: int = 3) -> str:
    """`value` with about that many significant digits and a comma between thousands: 12345.6 is 12,346, 0.01234 is 0.0123."""
    if value == 0:
        return "0"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if whole:
        return f"{value:,.{max(digits - whole, 0)}f}"
    return f"{value:.{digits}g}"


def format_bytes(count: float) -> str:
    """Bytes in the largest binary unit that leaves at least 1: 1,771,674,009 is '1.65 GiB', 14,336 is '14 KiB'."""
    size, power = abs(count), 0
    while round(size) >= 1024 and power < len(BINARY) - 1:
        size, power = size / 1024, power + 1
    text = f"{size:,.0f}" if power == 0 or size >= 99.95 or size == int(size) else significant(size)
    return f"{'-' if count < 0 else ''}{text} {BINARY[power]}"


def parse_bytes(text: str | int) -> int:
    """Bytes of '24GiB' (binary), '24 GB' (decimal), '512' or 512; anything else is a ScenarioError that says what would be right."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    factor = BY_LOWER_CASE.get((found[2] or "B").lower()) if found else None
    if not found or factor is None:
        raise ScenarioError(
            f"{text!r} is not an amount of memory; write for example '24GiB' (binary), '24 GB' (decimal) or a whole number of bytes"
        )
    return int(float(found[1]) * factor) if "." in found[1] else int(found[1]) * factor


def format_count(count: float) -> str:
    """A count in full, with a comma between thousands: 61470 is '61,470'."""
    return f"{count:,.0f}"


def format_flops(flops: float) -> str:
    """FLOPs always in GFLOP (10⁹; a multiply-add is 2), four significant digits: 2,939,200,000,000 is '2,939 GFLOP'."""
    return f"{significant(flops / 1e9, 4)} GFLOP"


def format_seconds(seconds: float) -> str:
    """A time in the unit that suits it: '12.3 µs', '45.6 ms', '1.23 s', '4 min 05 s'."""
    if abs(seconds) >= 120:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if abs(seconds) * factor >= 0.9995:
            return f"{significant(seconds * factor)} {unit}"
    return "0 s" if seconds == 0 else f"{significant(seconds * 1e6)} µs"


AT_LEAST, AT_MOST = (1.0, 5.0), (2.0,)  # per cent at which a verdict turns: memory saved, and time lost


def format_percent(fraction: float) -> str:
    """A fraction in per cent, whole from 10% up: 0.134 is '13%', 0.0612 is '6.1%', 0.06 is '6%', 0.0004 is '0.04%'.

    It never rounds across 1, 2 or 5%, where verdicts turn: 0.0496 is '4.96%', not '5%'.
    """
    percent = abs(fraction) * 100
    decimals = 0 if percent >= 9.95 else 1 if percent >= 0.95 else 2 if percent >= 0.005 or percent == 0 else 4
    while decimals < 8 and crosses(percent, round(percent, decimals)):
        decimals += 1
    text = f"{percent:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{'-' if fraction < 0 and text != '0' else ''}{text}%"


def crosses(percent: float, rounded: float) -> bool:
    """Whether the rounded figure is on the other side of a threshold than the figure itself."""
    below = any(percent < edge - 1e-9 and rounded >= edge for edge in AT_LEAST)
    return below or any(percent > edge + 1e-9 and rounded <= edge for edge in AT_MOST)
