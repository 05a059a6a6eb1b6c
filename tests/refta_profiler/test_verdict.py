"""Three verdicts, kept apart, from rows written by hand."""

import pytest

from refta_profiler import method_entries
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import difference_errors, stem
from refta_profiler.results import METRICS, Row
from refta_profiler.verdict import headline, largest_batch, outcome, verdicts


def row(label, value, metric="peak_allocated_bytes", **change):
    """A row of `label`, whose order is what stands after its slash; `refta` unless the label says otherwise."""
    method, _, order = label.split(" ")[0].partition("/")
    fields = {"point": f"{label}-{change.get('batch', 8)}", "model": "vit-large", "label": label, "method": method, "order": order or None}
    fields |= {"rank": 15 if method != "head" else None, "batch": 8, "seq": 197, "precision": "fp32", "checkpointing": False}
    fields |= {"target": "h100", "source": "dryrun", "status": "ok", "note": ""} | change
    return Row(**fields, metric=metric, unit=METRICS[metric].unit, value=value)


def of_kind(kind, found):
    return [verdict for verdict in found if verdict.kind == kind]


def decisive(rows, **settings):
    return next(verdict for verdict in verdicts(rows, **settings) if verdict.kind == "order" and verdict.decisive)


@pytest.mark.parametrize(
    ("memory", "time", "expected"),
    [
        (-0.05, None, "pays"),
        (-0.13, 0.02, "pays"),
        (-0.13, 0.021, "costs"),
        (-0.0499, 0.0, "small"),
        (-0.01, 0.0, "small"),
        (-0.0099, None, "same"),
        (0.0099, 0.0, "same"),
        (0.0, 0.03, "costs"),
        (0.01, -0.2, "costs"),
        (-0.05, -0.3, "pays"),
    ],
)
def test_the_thresholds_are_the_designs(memory, time, expected):
    assert outcome(memory, time) == expected


def test_noise_and_prediction_error_widen_what_is_the_same():
    assert outcome(-0.06, None, indistinct=0.07) == "same"
    assert outcome(-0.06, 0.04, noise=0.05) == "pays"


@pytest.mark.parametrize(("against", "expected"), [(1000, "pays"), (999, "small")])
def test_exactly_five_per_cent_pays(against, expected):
    assert decisive([row("refta/shared", 950), row("refta/reconstruct", against)]).outcome == expected


def test_the_best_other_order_decides_and_the_weakest_does_not():
    rows = [row("refta/shared", 1000), row("refta/reconstruct_stack", 1500), row("refta/reconstruct_recompute", 1001)]
    found = of_kind("order", verdicts(rows))
    assert [(verdict.against, verdict.outcome, verdict.decisive) for verdict in found] == [
        ("refta/reconstruct_stack", "pays", False),
        ("refta/reconstruct_recompute", "same", True),
    ]
    assert "against its best other order (rebuilding with recomputation): the same at batch 8" in headline(found)[0]


def test_an_order_that_does_not_run_is_not_the_best_other():
    failed = row("refta/reconstruct", None, status="error", note="broke")
    found = decisive([row("refta/shared", 1000), failed, row("refta/reconstruct_stack", 1500)])
    assert found.against == "refta/reconstruct_stack"


def test_ties_are_broken_by_flops():
    rows = [row("refta/shared", 1000), row("refta/reconstruct", 900), row("refta/reconstruct_recompute", 900)]
    rows += [row("refta/reconstruct", 7, "step_flops"), row("refta/reconstruct_recompute", 6, "step_flops")]
    assert decisive(rows).against == "refta/reconstruct_recompute"


def test_any_method_with_orders_has_an_order_verdict():
    assert decisive([row("tt_lora/features", 1200), row("tt_lora/reconstruct", 1000)]).outcome == "costs"


def test_the_baseline_may_be_a_label():
    rows = [row("refta/shared", 1000), row("refta/reconstruct", 1100), row("refta/reconstruct_recompute", 1001)]
    found = decisive(rows, baseline="refta/reconstruct")
    assert (found.against, found.comparison) == ("refta/reconstruct", "the baseline of the scenario")
    best = [verdict for verdict in verdicts(rows, baseline="refta/reconstruct") if verdict.comparison == "best other order"]
    assert [verdict.against for verdict in best] == ["refta/reconstruct_recompute"]
    assert decisive(rows, baseline="refta/shared").subject == "refta/reconstruct"


def test_a_baseline_of_another_method_is_compared_with():
    rows = [row("refta/shared", 1000), row("head", 700)]
    found = [verdict for verdict in verdicts(rows, baseline="head") if verdict.against == "head"]
    assert [(verdict.kind, verdict.outcome) for verdict in found] == [("method", "costs")]


def test_what_others_are_compared_with_is_compared_with_a_baseline_alone():
    """`check --method pissa --against lora`: the verdict that was asked for, and nothing of what is missing."""
    rows = [row("pissa", 900, rank=8), row("lora", 1000, rank=8), row("head", 700), row("full", 5000, rank=None)]
    found = of_kind("method", verdicts(rows, baseline="lora"))
    assert [(verdict.subject, verdict.against, verdict.outcome) for verdict in found] == [
        ("pissa", "lora", "pays"),
        ("head", "lora", "pays"),
        ("full", "lora", "costs"),
    ]
    assert found[0].comparison == "equal rank and the baseline of the scenario"
    assert not of_kind("method", verdicts(rows))


def test_a_baseline_that_is_nowhere_names_the_labels():
    with pytest.raises(ScenarioError, match="refta/shared"):
        verdicts([row("refta/shared", 1)], baseline="lora")


def test_only_orders_of_one_function_are_compared():
    rows = [row("refta/shared r=4", 1000, rank=4), row("refta/reconstruct r=4", 1100, rank=4), row("refta/shared r=8", 2000, rank=8)]
    assert {(verdict.subject, verdict.against) for verdict in of_kind("order", verdicts(rows))} == {
        ("refta/shared r=4", "refta/reconstruct r=4")
    }


@pytest.mark.parametrize(
    ("label", "order", "expected"),
    [
        ("refta/shared", "shared", "refta"),
        ("refta/shared r=4", "shared", "refta r=4"),
        ("ours order=reconstruct", "reconstruct", "ours"),
        ("refta/reconstruct_stack", "reconstruct", ""),
        ("mine", "shared", ""),
        ("lora", None, ""),
    ],
)
def test_stem(label, order, expected):
    assert stem(label, order) == expected


def test_without_a_step_time_the_memory_verdict_stands_alone_and_says_so():
    rows = [row("refta/shared", 900), row("refta/reconstruct", 1000)]
    found = decisive(rows)
    assert (found.outcome, found.time_difference_fraction) == ("pays", None)
    assert "step time on h100 is not known" in found.sentence
    assert any("step time there is not known, so the memory verdict stands alone" in line for line in headline(verdicts(rows)))


def timed(label, memory, seconds, **change):
    return [row(label, memory, source="measured", **change), row(label, seconds, "step_seconds", source="measured", **change)]


def test_a_slower_step_does_not_pay():
    found = decisive(timed("refta/shared", 900, 1.05) + timed("refta/reconstruct", 1000, 1.0))
    assert (found.outcome, found.source) == ("costs", "measured")
    assert found.time_difference_fraction == pytest.approx(0.05)
    assert "its step takes 5% more time" in found.sentence


def test_time_measured_on_another_device_is_no_evidence():
    rows = [row("refta/shared", 900), row("refta/reconstruct", 1000)]
    rows += timed("refta/shared", 900, 9.0, target="cpu") + timed("refta/reconstruct", 1000, 1.0, target="cpu")
    assert decisive(rows).outcome == "pays"
    assert decisive(rows, target="cpu").outcome == "costs"


def test_measured_and_predicted_peaks_are_never_set_against_each_other():
    rows = [row("refta/shared", 1000), row("refta/reconstruct", 1010), row("refta/shared", 2000, source="measured")]
    found = decisive(rows)
    assert (found.source, found.subject_bytes, found.against_bytes) == ("dryrun", 1000, 1010)


def test_reserved_is_preferred_where_all_have_it():
    rows = [row(label, size) for label, size in (("refta/shared", 1000), ("refta/reconstruct", 1000))]
    reserved = [row(label, size, "peak_reserved_bytes") for label, size in (("refta/shared", 1800), ("refta/reconstruct", 2000))]
    assert decisive(rows + reserved).quantity == "peak_reserved_bytes"
    assert decisive(rows + reserved[:1]).quantity == "peak_allocated_bytes"


def test_a_difference_within_twice_its_prediction_error_is_the_same():
    rows = [row("refta/shared", 940), row("refta/reconstruct", 1000)]
    rows += [row("refta/shared", 940, target="cpu"), row("refta/reconstruct", 1000, target="cpu")]
    rows += [row("refta/shared", 980, target="cpu", source="measured"), row("refta/reconstruct", 1000, target="cpu", source="measured")]
    assert difference_errors(rows) == {frozenset(("refta/shared", "refta/reconstruct")): pytest.approx(0.04)}
    assert decisive(rows, target="h100").outcome == "same"
    for label, predicted, measured in (
        ("refta/shared", 1940, 1900),
        ("refta/reconstruct", 2000, 2090),
    ):  # −60 and −190
        rows += [row(label, predicted, "peak_reserved_bytes", target="l4")]
        rows += [row(label, measured, "peak_reserved_bytes", target="l4", source="measured")]
    assert difference_errors(rows) == {frozenset(("refta/shared", "refta/reconstruct")): pytest.approx(130 / 2090)}


def test_what_fits_where_the_other_does_not_pays():
    rows = [row("refta/shared", 1000), row("refta/reconstruct", None, status="oom", note="out of memory")]
    found = decisive(rows)
    assert (found.outcome, found.fits, found.memory_difference_fraction) == ("pays", "subject", None)
    assert "`refta/shared` fits where `refta/reconstruct` does not" in found.sentence
    assert "`shared` runs where rebuilding a layer at a time does not fit" in headline([found])[0]
    assert decisive([row("refta/shared", 1000), row("refta/reconstruct", 1004)], memory_bytes=1002).outcome == "pays"
    assert decisive([row("refta/shared", 1004), row("refta/reconstruct", 1000)], memory_bytes=1002).outcome == "costs"
    assert decisive([row("refta/shared", 1004), row("refta/reconstruct", 1003)], memory_bytes=1002).outcome == "unknown"


def equal(label, peak, parameters, flops, **change):
    numbers = [row(label, parameters, "adapter_parameters", source="contraction", **change)]
    return [row(label, peak, **change), row(label, flops, "step_flops", source="contraction", **change), *numbers]


def test_the_method_verdict_says_in_what_the_two_are_equal():
    rows = equal("refta/shared", 1000, 61_470, 10**9) + equal("lora", 1002, 1_572_864, 1.02e9, rank=16)
    compared, missing = of_kind("method", verdicts(rows))
    assert (compared.against, compared.comparison, compared.outcome) == ("lora", "equal rank and equal step cost", "same")
    assert (missing.comparison, missing.outcome) == ("equal parameters", "unknown")
    assert "61,470 parameters" in missing.sentence
    assert "at rank 384 `refta/shared` would have as many" in missing.sentence


def test_equal_parameters():
    rows = equal("refta/shared", 1000, 786_432, 5e9, rank=192) + equal("pissa", 900, 835_584, 1e9, rank=8)
    compared = of_kind("method", verdicts(rows))[0]
    assert (compared.comparison, compared.outcome) == ("equal parameters", "costs")


def test_a_run_without_lora_says_so_once():
    lines = [line for line in headline(verdicts([row("refta/shared", 1000, batch=batch) for batch in (1, 2)])) if line.startswith("Method")]
    assert lines == [
        "Method: No comparison at equal rank, parameters or step cost for `refta/shared`: the scenario has no lora or pissa entry."
    ]


def test_bounds_and_references_are_no_subjects():
    assert not of_kind("method", verdicts([row("head", 700), row("lora", 1000), row("full", 5000)]))


def test_accuracy_was_not_measured():
    found = verdicts([row("refta/shared", 1000)])
    assert [verdict.outcome for verdict in of_kind("task", found)] == ["unknown"]
    assert headline(found)[-1].startswith("Task: Accuracy was not measured")


def test_no_rows_give_verdicts_that_say_nothing_is_known():
    assert [line.split(":")[0] for line in headline(verdicts([]))] == ["Order", "Method", "Task"]


def test_the_headline_is_the_issues_example():
    sizes = {"shared": 2843, "reconstruct": 3026, "reconstruct_recompute": 2840, "reconstruct_stack": 3268}
    lines = headline(verdicts([row(f"refta/{order}", size * 2**20) for order, size in sizes.items()]))
    assert (
        "At batch 8 `shared` needs 13% less peak memory than rebuilding the whole stack and 6% less than rebuilding a layer at a time; "
        "against rebuilding with recomputation it is the same." in lines[0]
    )


def test_the_headline_names_outcomes_by_batch():
    sizes = {1: (940, 1000), 2: (970, 1000), 4: (999, 1000), 8: (1100, 1000)}
    rows = [
        row(f"refta/{order}", peak, batch=batch)
        for batch, peaks in sizes.items()
        for order, peak in zip(("shared", "slices"), peaks, strict=True)
    ]
    assert (
        "it pays off at batch 1, a small gain at batch 2, the same at batch 4, it does not pay off at batch 8."
        in headline(verdicts(rows))[0]
    )


def series(label, **peaks):
    return [row(label, peak, batch=int(batch[1:])) for batch, peak in peaks.items()]


@pytest.mark.parametrize(
    ("memory", "batch", "certainty"),
    [(4000, 2, "tried"), (6000, 3, "between"), (16_500, 8, "tried"), (20_000, 10, "beyond"), (10, 0, "tried")],
)
def test_largest_batch(memory, batch, certainty):
    # a peak of 2000 a batch: 4000 at batch 2, 8000 at batch 4, 16000 at batch 8
    found = largest_batch(series("refta/shared", b1=2500, b2=4000, b4=8000, b8=16_000), memory)
    assert [(fit.batch, fit.certainty) for fit in found] == [(batch, certainty)]


def test_largest_batch_stops_at_what_ran_out_of_memory():
    rows = [*series("refta/shared", b1=1000, b2=2000), row("refta/shared", None, batch=4, status="oom", note="out of memory")]
    assert [(fit.batch, fit.certainty) for fit in largest_batch(rows, 10**6)] == [(2, "at least")]  # three were not tried
    rows = [*series("refta/shared", b1=1000, b3=2000), rows[-1]]
    assert [(fit.batch, fit.certainty) for fit in largest_batch(rows, 10**6)] == [(3, "tried")]


@pytest.mark.parametrize(
    ("peaks", "memory", "batch", "certainty", "known"),
    [
        ({"b8": 1000}, 10**6, 8, "at least", 8),  # nothing says how the peak grows
        ({"b1": 1000, "b2": 1000}, 10**6, 2, "at least", 2),
        ({"b64": 1000, "b128": 2000}, 500, 64, "below", None),
        ({"b1": 1000}, 500, 0, "tried", 0),
    ],
)
def test_a_largest_batch_that_nothing_shows_is_not_said_to_be_one(peaks, memory, batch, certainty, known):
    (found,) = largest_batch(series("refta/shared", **peaks), memory)
    assert (found.batch, found.certainty, found.known) == (batch, certainty, known)


def test_a_method_that_ran_out_of_memory_at_the_smallest_batch_fits_below_it():
    (found,) = largest_batch([row("refta/shared", None, batch=64, status="oom", note="out of memory")], 10**6)
    assert (found.batch, found.certainty) == (64, "below")


def test_a_predicted_time_blocks_a_verdict_only_beyond_what_a_roofline_tells_apart():
    def found(seconds, launches=0.0):
        peaks = [row("refta/shared", 900), row("refta/reconstruct", 1000)]
        times = [row("refta/shared", seconds, "step_seconds"), row("refta/reconstruct", 1.0, "step_seconds")]
        return decisive([*peaks, *times, row("refta/shared", launches, "launch_bound_seconds")])

    assert found(1.08).outcome == "pays" and "predicted to take about the same time" in found(1.08).sentence
    assert found(1.15).outcome == "costs" and "predicted to take 15% more time" in found(1.15).sentence
    assert found(1.15, launches=0.6).outcome == "pays"  # launches bound the step: 30% is not told apart
    assert "a roofline's" in " ".join(headline([found(1.08)]))


def test_the_head_says_which_times_are_predicted_and_what_of_them_is_not_told_apart():
    """A measured time's noise is not the roofline's limit, and where launches bound the step that is wider."""

    def words(*batches):
        rows = []
        for batch, source, launches in batches:
            for label in ("refta/shared", "refta/reconstruct"):
                rows += [row(label, 900, batch=batch), row(label, 1.0, "step_seconds", batch=batch, source=source)]
                rows += [row(label, 0.004, "noise_fraction", batch=batch, source=source)]
                rows += [row(label, launches, "launch_bound_seconds", batch=batch)]
        return next(line for line in headline(verdicts(rows)) if "Peak memory is" in line)

    assert "measured at batch 1, otherwise a roofline's, in which a difference under 10% is" in words((1, "measured", 0), (8, "dryrun", 0))
    assert "step times are a roofline's, in which a difference under 10% to 30% is" in words((1, "dryrun", 0.6), (8, "dryrun", 0))
    assert "roofline" not in words((1, "measured", 0))


def test_a_measured_time_goes_before_a_predicted_one():
    peaks = [row("refta/shared", 900), row("refta/reconstruct", 1000)]
    times = [row(label, value, "step_seconds", source=source) for label, value, source in TIMES]
    found = decisive([*peaks, *times])
    assert (found.time_source, found.outcome) == ("measured", "costs") and "its step takes 5% more time" in found.sentence


@pytest.mark.parametrize(
    ("ours", "noise", "conclusion", "words"),
    [
        (0.27, 0.01, "shorter", "its step takes 73% less time: the same memory in a shorter step."),
        (0.97, 0.05, "same", "its step takes the same time within the noise (4.8%): no difference that counts."),
        (0.99, 0.001, "same", "its step takes 1% less time: no difference that counts."),
        (1.05, 0.01, "costs", "its step takes 5% more time: it does not pay off."),
    ],
)
def test_a_step_that_is_told_apart_as_shorter_is_a_difference(ours, noise, conclusion, words):
    peaks = [row("refta/shared", 1000), row("refta/reconstruct", 1000)]
    times = [row("refta/shared", ours, "step_seconds", source="measured"), row("refta/reconstruct", 1.0, "step_seconds", source="measured")]
    noises = [row(label, noise, "noise_fraction", source="measured") for label in ("refta/shared", "refta/reconstruct")]
    found = decisive([*peaks, *times, *noises])
    assert found.outcome == ("costs" if conclusion == "costs" else "same")
    assert found.conclusion == conclusion
    assert found.sentence.endswith(words)
    assert ("the same memory in a shorter step at batch 8" in headline([found])[0]) == (conclusion == "shorter")


def test_a_large_difference_of_times_is_named_whoever_it_is_against():
    sizes = {"shared": (1000, 1.0), "slices": (1200, 4.0), "reconstruct": (1001, 1.05), "reconstruct_stack": (1300, 1.1)}
    rows = [row(f"refta/{order}", peak) for order, (peak, _) in sizes.items()]
    rows += [row(f"refta/{order}", time, "step_seconds", source="measured") for order, (_, time) in sizes.items()]
    line = headline(verdicts(rows))[0]
    assert line.endswith("Its step takes 75% less time than going slice by slice and 4.8% less time than rebuilding a layer at a time.")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((1100, 1200, 1300), "At batch 8 `shared` does not fit, nor do rebuilding with recomputation and rebuilding a layer at a time."),
        ((1100, 1200, 900), "does not fit where rebuilding with recomputation does; neither it nor rebuilding a layer at a time fits."),
    ],
)
def test_what_does_not_fit_ran_all_the_same(sizes, words):
    rows = [row(f"refta/{order}", size) for order, size in zip(("shared", "reconstruct", "reconstruct_recompute"), sizes, strict=True)]
    line = headline(verdicts(rows, memory_bytes=1000))[0]
    assert words in line
    assert "not both ran" not in line


def test_measured_and_predicted_times_have_a_sentence_each():
    rows = [row(label, peak, batch=batch) for batch in (8, 16) for label, peak in (("refta/shared", 900), ("lora", 1000))]
    rows += [row(label, seconds, "step_seconds", source="measured") for label, seconds in (("refta/shared", 1.05), ("lora", 1.0))]
    rows += [row(label, seconds, "step_seconds", batch=16) for label, seconds in (("refta/shared", 1.5), ("lora", 1.0))]
    line = next(line for line in headline(verdicts(rows, baseline="lora")) if line.startswith("Method: Without"))
    assert (
        "Its step takes 5% more time than `lora` at batch 8. Its step is predicted to take 50% more time than `lora` at batch 16." in line
    )


TIMES = (
    ("refta/shared", 1.05, "measured"),
    ("refta/reconstruct", 1.0, "measured"),
    ("refta/shared", 0.5, "dryrun"),
    ("refta/reconstruct", 1.0, "dryrun"),
)


@pytest.mark.parametrize(
    ("entries", "compared"),
    [
        ([("dct", "shared"), ("lsm", "reconstruct")], []),
        ([("dct", "shared"), ("lsm", "shared"), ("dct", "reconstruct")], [("shared transform=dct", "reconstruct transform=dct")]),
        ([("dct", "shared"), ("dct", "reconstruct")], [("shared", "reconstruct")]),
    ],
)
def test_orders_are_compared_where_nothing_else_differs(entries, compared):
    methods = [{"name": "refta", "rank": 15, "transform": transform, "order": order} for transform, order in entries]
    variants, faults = method_entries.expand(methods)
    found = verdicts([row(one.label, 1000, method=one.method, order=one.order) for one in variants])
    assert not faults
    assert [(one.subject, one.against) for one in of_kind("order", found)] == [(f"refta/{a}", f"refta/{b}") for a, b in compared]


def test_labels_of_ones_own_that_do_not_name_their_order_are_not_taken_for_one_function():
    rows = [row("A", 1000, method="refta", order="shared"), row("B", 900, method="refta", order="reconstruct")]
    assert of_kind("order", verdicts(rows)) == []


def test_labels_that_are_their_orders_name_them():
    rows = [row(order, peak, method="refta", order=order) for order, peak in (("shared", 1000), ("reconstruct", 900))]
    assert {one.against for one in of_kind("order", verdicts(rows))} == {"reconstruct"}


def test_one_order_twice_is_two_functions_and_no_comparison_of_orders():
    rows = [row(label, peak, method="refta", order="shared") for label, peak in (("refta dct", 1000), ("refta lsm", 900))]
    rows.append(row("lora", 1100, method="lora", order=None))
    found = verdicts(rows)
    assert of_kind("order", found) == []
    assert {verdict.subject for verdict in of_kind("method", found) if verdict.against == "lora"} <= {"refta dct", "refta lsm"}
    assert {verdict.subject for verdict in of_kind("method", found)} == {"refta dct", "refta lsm"}
