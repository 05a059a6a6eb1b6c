"""A run as a `Document`: the three verdicts at the head, then the sections that bear them out, then what lets a reader check."""

from collections.abc import Sequence

from refta_profiler.headline import OUTCOMES, head
from refta_profiler.report import (
    accuracy,
    claims,
    control,
    cost,
    coverage,
    crossovers,
    fairness,
    maps,
    memory,
    modules,
    ranks,
    recipe,
    record,
    residuals,
    setup,
    task,
    time,
    timeline,
    tokens,
    trust,
)
from refta_profiler.report.cards import cards_section
from refta_profiler.report.look import Look
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Card, Document, Panel, Section
from refta_profiler.results import STATUSES
from refta_profiler.run_folder import RunFolder
from refta_profiler.verdict import verdicts

SECTIONS = (
    control.control_section,
    claims.claims_section,
    task.task_section,
    memory.savings_section,
    memory.peaks_section,
    ranks.ranks_section,
    tokens.tokens_section,
    accuracy.accuracy_section,
    trust.trust_section,
    memory.categories_section,
    timeline.timeline_section,
    modules.kept_section,
    memory.fits_section,
    cards_section,
    fairness.fairness_section,
    cost.flops_section,
    time.time_section,
    modules.kernels_section,
    cost.parameters_section,
    setup.setup_section,
    residuals.residuals_section,
    crossovers.crossovers_section,
    maps.maps_section,
    record.failures_section,
    coverage.coverage_section,
    record.notes_section,
    record.rules_section,
    record.numbers_section,
    recipe.recipe_section,
    record.environment_section,
    record.reproduce_section,
)
QUESTIONS = {
    "order": ("Order", "The same function, computed in another order: does it save memory?"),
    "method": ("Method", "Against LoRA and PiSSA: is the step cheaper?"),
    "task": ("Task", "Is it as accurate?"),
}
BADGES = OUTCOMES | {"pays": "pays off", "small": "small gain", "costs": "does not pay off", "unknown": "not known"}
TASK_BADGES = {"pays": "better", "same": "not worse", "costs": "worse", "unknown": "not told apart"}
BEST_FIRST = ("pays", "small", "same", "costs", "unknown")


def build(run: RunFolder, look: Look | None = None) -> Document:
    """The document of a stored run."""
    return document_of(Material.of(run), look)


def document_of(material: Material, look: Look | None = None) -> Document:
    """The document of what is known of a run, its figures as `look` says."""
    look = look or Look()
    sections = [section for make in SECTIONS if (section := make(material))]
    title = str(material.scenario.get("name") or material.scenario.get("model") or "a run")
    used = look.styles(styles(material, sections))
    return Document(title, facts(material), cards(material), sections, used, look.settings, control=control.data(material))


def facts(material: Material) -> list[tuple[str, str]]:
    """What the run was, in a line."""
    models = ", ".join(dict.fromkeys(row.model for row in material.rows))
    batches = ", ".join(str(batch) for batch in material.batches)
    device = str(material.environment.get("device") or "")
    targets = ", ".join(material.measured_targets)
    measured = (device if device.startswith(targets) else f"{targets} ({device})" if device else targets) if targets else "nothing"
    points = {row.point for row in material.rows} | set(material.planned)
    broken = [f"{count} {status}" for status in STATUSES if status != "ok" and (count := len(broken_points(material, status)))]
    counted = f"{len(points)}, of them {', '.join(broken)}" if broken else f"{len(points)}"
    found = [
        ("model", models),
        *([("predicted for", material.target)] if any(row.source == "dryrun" for row in material.rows) else []),
        ("measured on", measured),
        ("batches", batches),
        ("points", counted),
    ]
    return found + [(name, str(material.environment[name])) for name in ("started",) if material.environment.get(name)]


def broken_points(material: Material, status: str) -> set[str]:
    """The points without a peak for that reason; 'oom' are also those whose predicted peak is beyond the device."""
    return {row.point for row in material.rows if row.status == status and (row.metric == "peak_allocated_bytes" or status == "oom")}


def cards(material: Material) -> list[Card]:
    """The three verdicts, kept apart."""
    lines = head(material.verdicts)
    return [card(material, kind, [(line.lead, line.detail) for line in lines[kind]]) for kind in QUESTIONS]


def card(material: Material, kind: str, lines: Sequence[tuple[str, str]]) -> Card:
    """One verdict: the outcome of its decisive comparisons, and its lines; then what was measured where that is another device."""
    decisive = [verdict for verdict in material.verdicts if verdict.kind == kind and verdict.decisive]
    outcomes = sorted({verdict.outcome for verdict in decisive} or {"unknown"}, key=BEST_FIRST.index)
    badges = TASK_BADGES if kind == "task" and any(verdict.subject for verdict in decisive) else BADGES
    words = " to ".join([badges[outcomes[0]], badges[outcomes[-1]]] if len(outcomes) > 1 else [badges[outcomes[0]]])
    alone = kind != "task" and decisive and all(verdict.time_difference_fraction is None for verdict in decisive)
    words += " (memory alone)" if alone and outcomes != ["unknown"] else ""
    title, question = QUESTIONS[kind]
    return Card(kind, title, question, words, outcomes[0] if len(outcomes) == 1 else "mixed", lines, measured_lines(material, kind))


def measured_lines(material: Material, kind: str) -> dict[str, list[tuple[str, str]]]:
    """The verdict's lines for every device that measured but was not the target, from what ran there alone."""
    found = {}
    for target in material.measured_targets:
        if target != material.target and kind != "task":
            ran = [
                row
                for row in material.rows
                if row.source == "contraction" or (row.target == target and row.source == "measured" and row.status in RAN)
            ]
            known = [verdict for verdict in verdicts(ran, target=target) if verdict.against and verdict.outcome != "unknown"]
            lines = head(known)[kind] if any(verdict.kind == kind for verdict in known) else []
            found |= {target: [(line.lead, line.detail) for line in lines]} if lines else {}
    return found


RAN = ("ok", "oom", "error")


def styles(material: Material, sections: Sequence[Section]) -> dict[str, int]:
    """The style number of every name in a figure: one method, one colour throughout."""
    names = dict.fromkeys(material.labels)
    document = Document("", [], [], sections)
    for panel in (panel for figure in document.figures() for panel in figure.panels):
        names |= dict.fromkeys([series.name for series in panel.series] if isinstance(panel, Panel) else panel.names)
    return {name: index for index, name in enumerate(names)}
