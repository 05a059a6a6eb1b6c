"""Scores and their differences as they are read. No torch."""

from refta_profiler.task.bootstrap import Interval


def score_words(metric: str, value: float) -> str:
    """'80.3%' of an accuracy, '0.803' of a correlation."""
    return f"{100 * value:.1f}%" if metric == "accuracy" else f"{value:.3f}"


def range_words(metric: str, found: Interval) -> str:
    """'78.9 to 81.6%', or '0.78 to 0.81'."""
    if metric == "accuracy":
        return f"{100 * found.low:.1f} to {100 * found.high:.1f}%"
    return f"{found.low:.3f} to {found.high:.3f}"


def points_words(found: Interval) -> str:
    """'+0.31 points (−0.52 to 1.10)': hundredths of an accuracy or of a correlation."""
    return f"{signed(found.value)} points ({signed(found.low)} to {signed(found.high)})"


def signed(value: float) -> str:
    """A hundredfold with its sign: 0.0031 is +0.31; what rounds to nothing has none."""
    text = f"{abs(100 * value):.2f}"
    return text if text == "0.00" else ("−" if value < 0 else "+") + text
