"""What is known of predictions' errors: every entry can be read, and finds its device."""

import pytest

from refta_profiler import trust
from refta_profiler.results import METRICS


def test_every_entry_names_a_metric_and_says_what_it_was_held_against():
    for one in trust.entries():
        assert one.metric in METRICS and one.kind in ("cpu", "cuda", "any") and one.precision in ("fp32", "bf16", "amp-bf16", "any")
        assert one.ranks in (trust.ONE, trust.SEVERAL, trust.ANY)
        assert one.against and one.check and one.limits
        assert (one.error is None) == (one.cases == 0)  # no error without a case, no case without an error


@pytest.mark.parametrize(
    ("metric", "target", "precision", "parallel", "proved"),
    [
        ("peak_allocated_bytes", "cpu", "fp32", "", True),
        ("peak_allocated_bytes", "h100", "fp32", "", True),
        ("peak_allocated_bytes", "l4", "bf16", "", True),
        ("peak_reserved_bytes", "h100", "fp32", "", True),
        ("peak_reserved_bytes", "h100", "bf16", "", True),
        ("step_flops", "t4", "amp-bf16", "", True),
        ("step_flops", "t4", "fp32", "fsdp:4", True),
        ("peak_allocated_bytes", "cpu", "fp32", "ddp:2", True),
        ("peak_allocated_bytes", "h100", "fp32", "ddp:2", False),  # what one process needs was measured, what NCCL adds was not
        ("communicated_bytes", "cpu", "fp32", "ddp:8:view", True),
    ],
)
def test_the_entry_of_a_device_is_its_kinds_and_that_of_ranks_is_their_own(metric, target, precision, parallel, proved):
    found = trust.of(metric, target, precision, trust.ranks_of(parallel))
    assert found is not None and (found.error is not None) is proved


def test_what_has_no_entry_has_none():
    assert trust.of("setup_seconds", "cpu", "fp32") is None
    assert trust.of("peak_allocated_bytes", "cpu", "bf16", trust.ranks_of("ddp:2")) is None
