"""The accuracy line of the claims page: what this run's trainings say of the printed one, and what they do not show."""

from __future__ import annotations

from refta_profiler.report.material import Material
from refta_profiler.report.task import sure
from refta_profiler.task.summary import Difference, Summary
from refta_profiler.task.words import points_words
from refta_profiler.units import format_count
from refta_profiler.verdict_words import listing

CLAIM = "“More than 5% better than LoRA with about 96% fewer parameters” (article)"
FEWER = 0.90  # of the adapter's numbers: what counts as the printed kind of saving
POINTS = 0.05
UNMEASURED = "Accuracy is not measured in this run; scenarios/accuracy/ trains and tests the methods."


def accuracy_items(material: Material) -> list[str]:
    """The claim as found here, then what is not shown; that nothing was measured, where it was not."""
    summary = material.training
    if summary is None or not summary.scored:
        return [UNMEASURED]
    found = [one for one in summary.differences if is_claimed(summary, one)]
    return [claim_words(summary, found), not_shown(material, summary)]


def is_claimed(summary: Summary, one: Difference) -> bool:
    """Whether the difference is of ReFTA against a LoRA with at least ten times its numbers."""
    return (summary.named(one.subject).method, summary.named(one.against).method) == ("refta", "lora") and fewer(summary, one) >= FEWER


def fewer(summary: Summary, one: Difference) -> float:
    """The fraction of the other's adapter numbers that the subject saves: 1,538 against 73,728 is 0.979."""
    ours, theirs = (summary.adapter_parameters(summary.named(name)) for name in (one.subject, one.against))
    return 1 - ours / theirs if ours is not None and theirs else 0.0


def claim_words(summary: Summary, found: list[Difference]) -> str:
    """Whether the printed difference is found, with every comparison behind it."""
    if not found:
        return f"{CLAIM}: cannot be judged, no ReFTA entry of this run trains at most a tenth of a LoRA entry's numbers."
    if not found[0].interval.over_seeds:
        return f"{CLAIM}: cannot be judged, one seed says nothing of others."
    holding = [one for one in found if one.interval.low > POINTS]
    status = "reproduced" if len(holding) == len(found) else "reproduced only in part" if holding else "not reproduced"
    parts = [
        f"`{one.subject}`, {100 * fewer(summary, one):.1f}% fewer than `{one.against}`, is {one.outcome}, {points_words(one.interval)}"
        for one in found
    ]
    return f"{CLAIM}: {status} here, {len(holding)} of {len(found)} comparisons are above 5 points ({sure(summary)}). {'; '.join(parts)}."


def not_shown(material: Material, summary: Summary) -> str:
    """What these numbers do not show."""
    model = str(material.scenario.get("model") or "").rstrip("/").rsplit("/", 1)[-1]
    steps = format_count(summary.shared["steps"])
    images = [] if summary.shared.get("images") else ["no ViT weights and no images, which the printed table is of"]
    parts = [*images, f"one encoder ({model})", "one task", f"{steps} steps of training", "adapters on the roles of this scenario alone"]
    return f"What this does not show: {listing(parts)}. Other models, tasks and longer trainings may come out otherwise."
