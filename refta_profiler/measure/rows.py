"""A point's measurement, from one process or several, as rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from refta_profiler import parallel
from refta_profiler.categories import CATEGORIES
from refta_profiler.measure import timing
from refta_profiler.measure.load import Load, bursts, complaint
from refta_profiler.plan import Point
from refta_profiler.results import Row
from refta_profiler.statistics import OWN_CODE, Noise
from refta_profiler.units import format_seconds

FAILED_METRICS = ("peak_allocated_bytes", "step_seconds")
NOT_JUDGED = "differences of times are not judged"
NO_TURNS = f"timed after others of its setting, never in turn with them: {NOT_JUDGED} (in a new run they are)"
ONE_PROCESS = f"timed in one process, which gives no noise floor: {NOT_JUDGED}"
FEW_SIDE_BY_SIDE = "processes, too few of them side by side with others' for a noise floor"
NOT_SETTLED = f"the run has not measured to its end, so that no noise floor is known and {NOT_JUDGED}; `run --resume` goes on with it"


def of_processes(point: Point, key: str, processes: Mapping[int, dict[str, Any]]) -> list[Row]:
    """The rows of the point measured on that device, from what its processes answered; the first has every metric, all have times.

    Rows with the reason where the first failed; a later one that failed is said in the note of the time.
    """
    first = processes[1]
    if "failure" in first:
        return failed(point, key, first["failure"]["status"], first["failure"]["note"])
    timed = [one for one in processes.values() if "failure" not in one]
    values = {**timing.summary([one["samples"] for one in timed]), **first["values"], "setup_seconds": setup_seconds(timed)}
    notes = {
        "step_seconds": time_note(processes),
        **interval_notes(len(timed)),
        **setup_notes(point, timed),
        **rank_notes(first.get("ranks", [])),
    }
    made = [_row(point, key, metric, value, note=notes.get(metric, "")) for metric, value in values.items()]
    made += marks_rows(point, key, first) + fault_rows(point, key, first.get("faults", {}))
    return made + [_row(point, key, metric, **found) for metric, found in first.get("afterwards", {}).items()]


def unsettled(point: Point, key: str, processes: Mapping[int, dict[str, Any]]) -> list[Row]:
    """The same rows while others are still measured: of a time nothing is known of its noise, which the row in its place says."""
    made = of_processes(point, key, processes)
    timed = any(row.metric == "step_seconds" and row.value is not None for row in made)
    return [*made, _row(point, key, "noise_fraction", None, status="skipped", note=NOT_SETTLED)] if timed else made


def marks_rows(point: Point, key: str, first: Mapping[str, Any]) -> list[Row]:
    """What the marks between a timed step's phases cost, and whether that is more than chance; none of a process without bare steps."""
    pairs = min(len(first["samples"]), len(first.get("bare", [])))
    cost = timing.marks_cost(first["samples"], first.get("bare", []))
    if cost is None:
        return []
    fraction, low, high = cost
    if pairs == 1:
        return [_row(point, key, "marks_fraction", fraction, note="from one pair of steps, which has no interval: not judged")]
    words = "within noise" if low <= 0 <= high else "beyond noise"
    made = [_row(point, key, "marks_fraction", fraction, note=f"{words} at 95%; from {counted(pairs, 'pair')} of steps side by side")]
    return made + [_row(point, key, f"marks_fraction_{name}", value) for name, value in (("low", low), ("high", high))]


def fault_rows(point: Point, key: str, faults: Mapping[str, dict[str, str]]) -> list[Row]:
    """Rows without values for what instruments that failed would have said; none where all said something."""
    if not faults:
        return []
    told = {one["status"] for one in faults.values()}
    status = next(status for status in ("error", "oom", "unsupported") if status in told)
    made = [_row(point, key, "instruments_answered", None, status=status, note=fault_words(faults))]
    if timeline := faults.get("timeline"):
        note = fault_words({"timeline": timeline})
        made += [_row(point, key, f"peak_{name}_bytes", None, status=timeline["status"], note=note) for name in CATEGORIES]
    return made


def fault_words(faults: Mapping[str, dict[str, str]]) -> str:
    """'the instrument timeline failed (RuntimeError: why)', of several one after the other; '' of none."""
    return "; ".join(f"the instrument {name} failed ({one['note']})" for name, one in faults.items())


def interval_notes(count: int) -> dict[str, str]:
    """By metric: what the interval of a time from so many processes is over."""
    words = f"Student's t over {count} processes" if count > 1 else "within one process: a bootstrap over its steps, which knows no others"
    return dict.fromkeys(("step_seconds_low", "step_seconds_high"), words)


def rank_notes(ranks: Sequence[dict[str, int]]) -> dict[str, str]:
    """What each rank had of the values that are told rank by rank, the largest of which is the row's; {} for one process."""
    return {name: f"the largest of {len(ranks)} ranks: {', '.join(f'{one[name]:,}' for one in ranks)}" for name in (ranks or [{}])[0]}


def setup_seconds(timed: Sequence[dict[str, Any]]) -> float:
    """The median time of the set-ups that no instrument watched; of the watched one where there is no other."""
    return statistics.median([one["setup_seconds"] for one in timed if not one["setup_watched"]] or [timed[0]["setup_seconds"]])


def setup_notes(point: Point, timed: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By metric: that a sharded model is set up on the CPU, and that the memory profiler was on, where nothing else was timed."""
    place = ["on the CPU, from where FSDP2 shards the model"] if parallel.is_sharded(point.parallel) else []
    watched = ["timed under the memory profiler"] if all(one["setup_watched"] for one in timed) else []
    return {"setup_seconds": "; ".join([*place, *watched]), "setup_peak_bytes": "; ".join(place)}


def time_note(processes: Mapping[int, dict[str, Any]]) -> str:
    """How the step's time came about: processes and steps, what failed, whether the machine was busy."""
    timed = [one for one in processes.values() if "failure" not in one]
    medians = "mean of the medians" if len(timed) > 1 else "median"
    parts = [f"{medians} of {counted(len(timed), 'process')} × {counted(len(timed[0]['samples']), 'step')}"]
    parts += [f"process {number} failed: {one['failure']['note']}" for number, one in processes.items() if "failure" in one]
    of_steps = [Load(**load) for one in timed for load in one["loads"]]
    parts += [words for words in [complaint(average([load for one in timed for load in loads_of(one)])) or bursts(of_steps)] if words]
    parts += list(dict.fromkeys(words for one in timed if (words := throttled_words(one.get("gpu")))))
    parts += list(dict.fromkeys(one["gpu_others"] for one in timed if one.get("gpu_others")))
    parts += [words for words in [unlike_starts(processes)] if words]
    parts += [f"run at a low priority (nice {nice})" for nice in [max(one.get("where", {}).get("nice", 0) for one in timed)] if nice > 0]
    parts += [f"on {', '.join(nodes)}" for nodes in [nodes_of(timed)] if nodes]
    states = sorted({one["where"]["versions"][OWN_CODE] for one in timed if OWN_CODE in one.get("where", {}).get("versions", {})})
    if len(states) > 1:
        parts.append(f"its processes ran the profiler in {len(states)} states of its code (sources {', '.join(states)})")
    return "; ".join(parts)


def with_versions(rows: Sequence[Row], versions: str) -> list[Row]:
    """The rows, the time's with what others of the run were not measured with: 'torch 2.13.0'."""
    told = f"with {versions}, unlike others of this run"
    return [replace(row, note="; ".join(filter(None, (row.note, told)))) if row.metric == "step_seconds" else row for row in rows]


def unlike_starts(processes: Mapping[int, dict[str, Any]]) -> str:
    """Which of the processes were forked where others were fresh ones, and why those could not be forked; '' where all began alike."""
    timed = {number: one for number, one in processes.items() if "failure" not in one}
    forked = [number for number, one in timed.items() if one.get("where", {}).get("forked")]
    why = list(dict.fromkeys(one["not_forked"] for one in timed.values() if one.get("not_forked")))
    if not forked or len(forked) == len(timed):
        return "; ".join(why)
    numbers = ", ".join(map(str, forked))
    mixed = f"{'process' if len(forked) == 1 else 'processes'} {numbers} of {len(timed)} forked, the others fresh"
    return "; ".join([mixed, *why])


def nodes_of(answers: Sequence[dict[str, Any]]) -> list[str]:
    """The nodes of a cluster that the answers are from; none of answers from the driver's own machine."""
    return sorted({one["where"]["cluster_node"] for one in answers if "cluster_node" in one.get("where", {})})


def counted(count: int, thing: str) -> str:
    """'1 step', '3 processes'."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}{'es' if thing.endswith('s') else 's'}"


def throttled(answer: dict[str, Any]) -> list[str]:
    """Why the GPU's clocks were held down, before, after or for how long between; empty where they were not or nothing is known."""
    found = answer.get("gpu") or {}
    between = [f"{words} for {format_seconds(seconds)}" for words, seconds in found.get("throttled_s", {}).items()]
    return [*(found.get("throttle_reasons") or []), *between]


def throttled_words(conditions: dict[str, Any] | None) -> str:
    """The same as a note has it; '' where they were not held down."""
    reasons = throttled({"gpu": conditions})
    return f"the GPU slowed itself: {', '.join(reasons)}" if reasons else ""


def loads_of(answer: Mapping[str, Any]) -> list[Load]:
    """The load while the process timed its steps, over all of them; those of each where an older run kept nothing else.

    A single step may be too short for the kernel's counters.
    """
    return [Load(**load) for load in ([answer["load"]] if answer.get("load") else answer["loads"])]


def average(loads: Sequence[Load]) -> Load:
    """The mean of the loads that are known."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    return Load(*(mean([getattr(one, name) for one in loads]) for name in ("others_fraction", "steal_fraction", "load_average")))


def noise_row(point: Point, key: str, found: Noise | None, rounds: int, once: str) -> Row:
    """How much two measurements of this point would differ by chance, the A/A noise floor; `skipped` where too few processes timed it.

    once: why they were few, if they were.
    """
    if found is None or rounds < 2:
        why = ONE_PROCESS if rounds < 2 else f"timed in {rounds} {FEW_SIDE_BY_SIDE}: {NOT_JUDGED}"
        return _row(point, key, "noise_fraction", None, status="skipped", note=f"{why} ({once})")
    words = f"95%; from {rounds} interleaved processes a point, {found.degrees} degree{'s' * (found.degrees != 1)} of freedom"
    note = "; ".join(part for part in (words, found.words) if part)
    return _row(point, key, "noise_fraction", found.floor(rounds, rounds), note=note)


def no_turns_row(point: Point, key: str) -> Row:
    """The row in the place of the noise floor of a point that was timed after others, in a later session of the run."""
    return _row(point, key, "noise_fraction", None, status="skipped", note=NO_TURNS)


def failed(point: Point, key: str, status: str, note: str) -> list[Row]:
    """Rows that say why there are no values."""
    return [_row(point, key, metric, None, status=status, note=note) for metric in FAILED_METRICS]


def _row(point: Point, key: str, metric: str, value: Any, *, status: str = "ok", note: str = "") -> Row:
    return Row.of(point, key, "measured", metric, value, status=status, note=note)
