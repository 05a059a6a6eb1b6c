"""CUDA's autocast in the place of the CPU's: torch's own lists, what they cast, and that nothing is left of it afterwards."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from refta_profiler.predict import autocast
from refta_profiler.predict.kernels import CudaKernels

HEADER = Path(torch.__file__).with_name("include") / "ATen" / "autocast_mode.h"
CELLS = {"_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}


@pytest.mark.parametrize(
    ("macro", "names"),
    [
        ("AT_FORALL_FP32", autocast.FLOAT32),
        ("AT_FORALL_FP32_SET_OPT_DTYPE", autocast.RESULT),
        ("AT_FORALL_PROMOTE", autocast.PROMOTE),
        ("AT_FORALL_LOWER_PRECISION_FP", autocast.LOWER),
    ],
)
def test_the_lists_are_those_of_the_installed_torch(macro, names):
    body = re.search(rf"#define {macro}\(_\)((?:.*\\\n)*.*\n)", HEADER.read_text()).group(1)
    found = {".".join(re.split(r",\s*", entry)) for entry in re.findall(r"_\(([^)]*)\)", body)}
    if macro == "AT_FORALL_LOWER_PRECISION_FP":
        found = {name for name in found - CELLS if "conv" not in name and "attention" not in name}
    assert found == set(names) and len(names) == len(set(names))


def test_every_name_is_an_operator_of_torch():
    for name in (
        *autocast.LOWER,
        *autocast.FLOAT32,
        *autocast.RESULT,
        *autocast.PROMOTE,
        *autocast.WITH_DTYPE,
        *autocast.WITH_DTYPE.values(),
    ):
        assert autocast._operator(name)


HALF = torch.ones(4, 16, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x**3,
        lambda x: torch.pow(x, 3.0),
        lambda x: x.pow(2),
        torch.rsqrt,
        torch.exp,
        lambda x: x.log(),
        F.softplus,
        lambda x: x.sum(-1),
        lambda x: x.cumsum(-1),
        lambda x: x.norm(),
        lambda x: x.norm(2, -1),
        lambda x: torch.linalg.vector_norm(x),
        lambda x: F.softmax(x, dim=-1),
        lambda x: F.log_softmax(x, dim=-1),
        lambda x: F.rms_norm(x, [16]),
        torch.nn.LayerNorm(16),
        lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.int64)),
        lambda x: F.mse_loss(x, x),
        lambda x: torch.tensordot(x, torch.ones(16, 2), dims=1),  # in the widest dtype of its operands
    ],
)
def test_what_cuda_runs_in_float32_is_run_so(function):
    with CudaKernels((9, 0)), torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(HALF).dtype == torch.float32


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.linear(x, torch.ones(8, 16)),
        lambda x: torch.einsum("td,rd->tr", x, torch.ones(3, 16)),
        lambda x: torch.mv(x, torch.ones(16)),
        lambda x: torch.tensordot(x, x, dims=2),
        lambda x: F.softmax(x, dim=-1, dtype=torch.bfloat16),  # what is asked for stays
        torch.tanh,
        lambda x: x * x,
    ],
)
def test_what_it_leaves_in_bfloat16_stays_so(function):
    with CudaKernels((9, 0)), torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(HALF).dtype == torch.bfloat16


def test_without_autocast_and_afterwards_nothing_is_cast():
    with CudaKernels((9, 0)):
        assert torch.exp(HALF).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.exp(HALF).dtype == (HALF**3).dtype == torch.nn.LayerNorm(16)(HALF).dtype == torch.bfloat16
        with CudaKernels((9, 0)), torch.autocast("cpu", enabled=False):
            assert torch.exp(HALF).dtype == torch.bfloat16


def test_doubles_and_whole_numbers_are_not_cast():
    with CudaKernels((9, 0)), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.exp(HALF.double()).dtype == torch.float64
        assert HALF.long().sum().dtype == torch.int64


class Casts(TorchDispatchMode):
    """Counts what is turned into bfloat16."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default and kwargs["dtype"] == torch.bfloat16
        return func(*args, **(kwargs or {}))


TRAINED = torch.nn.Parameter(torch.ones(16))


@pytest.mark.parametrize(
    ("vector", "enabled", "count"),
    [(TRAINED, True, 1), (TRAINED, False, 3), (TRAINED.detach(), True, 3), (torch.nn.Parameter(torch.ones(2, 16))[0], True, 3)],
    ids=["a trained parameter", "without a cache", "a frozen one", "a part of one"],
)
def test_a_trained_parameter_is_cast_once_until_autocast_is_left(vector, enabled, count):
    forward = torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=enabled)
    with CudaKernels((9, 0)), Casts() as casts:
        for times in (1, 2):
            with forward:
                for _ in range(3):
                    torch.mv(HALF, vector)
            assert casts.count == times * count


def test_leaving_autocast_is_torchs_own_affair_again():
    before = torch.clear_autocast_cache
    with CudaKernels((9, 0)):
        assert torch.clear_autocast_cache is not before
    assert torch.clear_autocast_cache is before
