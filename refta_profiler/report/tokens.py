"""The section on peak against tokens: every order beside the head alone, which is the floor, and what each costs above that floor."""

from refta_profiler.evidence import Candidate
from refta_profiler.report.material import MIB, Material
from refta_profiler.report.parts import Figure, Panel, Section, Series
from refta_profiler.units import format_bytes

GIB = 2**30
FLOOR = "head"


def tokens_section(material: Material) -> Section | None:
    """A panel for each precision and checkpointing; None where no number of tokens is known."""
    groups = {title: sized(found) for title, found in material.in_panels(material.candidates(material.target)).items()}
    panels = [Panel(title, X, "peak memory (GiB)", lines(found, {}, GIB), y_scale="log") for title, found in groups.items() if found]
    if not panels:
        return None
    caption = f"Peak memory of a training step on {material.target} against its tokens, for every method and order. {floor_words(groups)}"
    return Section("tokens", "Peak memory against tokens", [Figure("tokens", caption, caption, panels), *above_floor(material, groups)])


X = "tokens of a step"


def sized(found: list[Candidate]) -> list[Candidate]:
    """Those whose peak and tokens are known."""
    return [one for one in found if one.known("peak_allocated_bytes") is not None and tokens(one)]


def tokens(one: Candidate) -> int:
    """Batch × tokens of an example; 0 where these are not known."""
    return one.setting.batch * one.setting.seq


def lines(found: list[Candidate], floor: dict[int, float], unit: float) -> list[Series]:
    """One line a label: its peak less the floor at those tokens, in that unit; without a floor the peak itself."""
    points: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        if not floor or (tokens(one) in floor and one.method != FLOOR):
            peak = float(one.known("peak_allocated_bytes") or 0) - floor.get(tokens(one), 0.0)
            points.setdefault(one.label, []).append((tokens(one), peak / unit))
    return [Series(label, sorted(values)) for label, values in points.items()]


def floor_of(found: list[Candidate]) -> dict[int, float]:
    """The peak of the head alone by tokens."""
    return {tokens(one): float(one.known("peak_allocated_bytes") or 0) for one in found if one.method == FLOOR}


def floor_words(groups: dict[str, list[Candidate]]) -> str:
    """How far the floor lies below the cheapest adapter at the most tokens of the first panel."""
    found = next(found for found in groups.values() if found)
    floor, most = floor_of(found), max(tokens(one) for one in found)
    peaks = [(float(one.known("peak_allocated_bytes") or 0), one.label) for one in found if tokens(one) == most and one.method != FLOOR]
    if most not in floor or not peaks:
        return "The head alone was not run, so the floor is not known."
    peak, label = min(peaks)
    return f"The head alone is the floor: at {most:,} tokens {format_bytes(floor[most])}, and `{label}`, next to it, {format_bytes(peak)}."


def above_floor(material: Material, groups: dict[str, list[Candidate]]) -> list[Figure]:
    """What each adapter costs above the head alone."""
    floors = {title: floor_of(found) for title, found in groups.items()}
    panels = [
        Panel(title, X, "above the head alone (MiB)", lines(found, floors[title], MIB), y_scale="log")
        for title, found in groups.items()
        if floors[title] and lines(found, floors[title], MIB)
    ]
    if not panels:
        return []
    ends = sorted((series.points[-1][1], series.name) for series in panels[0].series)
    (low, least), (high, most) = ends[0], ends[-1]
    at = f"at {panels[0].series[0].points[-1][0]:,.0f} tokens"
    words = f"{panels[0].title}, {at}: from {format_bytes(low * MIB)} (`{least}`) to {format_bytes(high * MIB)} (`{most}`)."
    caption = f"What adapters add to the peak of training the head alone on {material.target}. {words}"
    return [Figure("above-floor", caption, caption, panels)]
