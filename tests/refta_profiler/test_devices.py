"""devices.yaml as checked values: every entry is complete and plausible, and a slip in a name is answered with the right one."""

import pytest

from refta_profiler import devices
from refta_profiler.errors import ScenarioError

WANTED = ["t4", "v100", "rtx3090", "rtx4090", "a10", "a100-40", "a100-80", "l4", "l40s", "h100", "h100-pcie", "h200", "b200", "cpu"]
ALIASES = [("h100-sxm", "h100"), ("H100", "h100"), ("a100", "a100-80"), ("3090", "rtx3090"), ("v100-16", "v100")]
CARDS = [name for name in devices.names() if name != "cpu"]


def test_every_wanted_device_is_there():
    assert set(WANTED) <= set(devices.names())


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_complete_and_plausible(name):
    card = devices.get(name)
    assert card.kind == "cuda" and card.source and card.title.startswith("NVIDIA")
    assert isinstance(card.memory_bytes, int) and 2**33 < card.memory_bytes < 2**38
    # what torch hands out is below the marketing figure, which is decimal or binary GB, and not far below
    marketing = int(card.title.split()[-2]) * 10**9
    assert 0.95 * marketing < card.memory_bytes < marketing * 1.0737
    assert card.bandwidth_bytes_per_second is not None and 2e11 < card.bandwidth_bytes_per_second < 1e13
    assert list(card.peak_flops) == ["fp32", "tf32", "fp16", "bf16"]
    assert card.peak_flops["fp32"] is not None and card.peak_flops["fp16"] is not None
    assert card.peak_flops["fp32"] < card.peak_flops["fp16"] < 3e15
    # TF32 and bfloat16 units came with compute capability 8
    assert card.compute_capability is not None
    for dtype in ("tf32", "bf16"):
        assert (card.peak_flops[dtype] is not None) == (card.compute_capability >= (8, 0))


@pytest.mark.parametrize("name", CARDS)
def test_its_multiprocessors_reach_the_peak_at_a_clock_that_there_is(name):
    card = devices.get(name)
    cores = 64 if card.compute_capability in ((7, 0), (7, 5), (8, 0)) else 128  # float32 units of one
    assert 1.35e9 < (card.peak_flops["fp32"] or 0) / (2 * cores * (card.multiprocessors or 1)) < 2.6e9


def test_peaks_are_dense():
    """The H100's datasheet prints 1,979 TFLOPS of bf16 with sparsity; torchtitan's assumption of it made every utilisation half."""
    assert devices.get("h100").peak_flops["bf16"] == pytest.approx(1979e12 / 2, rel=1e-3)


def test_the_cpu_has_no_numbers_of_its_own():
    cpu = devices.get("cpu")
    assert cpu.kind == "cpu" and cpu.memory_bytes is None and cpu.bandwidth_bytes_per_second is None and cpu.context_bytes == 0


@pytest.mark.parametrize(("alias", "name"), ALIASES)
def test_aliases_and_capitals(alias, name):
    assert devices.get(alias).name == name


def test_no_name_or_alias_is_there_twice():
    called = [call for name in devices.names() for call in (name, *devices.get(name).aliases)]
    assert len(called) == len(set(called))


def test_a_slip_is_answered_with_the_right_name():
    with pytest.raises(ScenarioError, match=r"unknown device 'h10O'; did you mean 'h100'\? \(devices: t4, .*cpu\)"):
        devices.get("h10O")
    with pytest.raises(ScenarioError, match=r"unknown device 'abacus'; \(devices: "):
        devices.get("abacus")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "nvidia a10g"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA Something New", "nvidia something new"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "nvidia geforce rtx 4090 laptop gpu"),  # 16 GB
        ("NVIDIA GeForce RTX 4090 D", "nvidia geforce rtx 4090 d"),
        ("NVIDIA GeForce RTX 3090 Ti", "nvidia geforce rtx 3090 ti"),
        ("NVIDIA H100 NVL", "nvidia h100 nvl"),  # 94 GB
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "nvidia a100-sxm4-40gb mig 1g.5gb"),
    ],
)
def test_a_gpus_name_is_looked_up(name, key):
    assert devices.named_device(name) == key
