"""The adapter's file and merging, after the steps."""

import struct

import pytest
import torch
from real_steps import tiny
from safetensors import SafetensorError
from worker_answers import answer

from refta.errors import SettingError
from refta_profiler import workload
from refta_profiler.measure import afterwards, rows, worker
from refta_profiler.measure.executors import EXECUTOR


def built(label: str) -> workload.Workload:
    return workload.build(tiny("vit-tiny", label), torch.device("cpu"))


def test_the_file_of_a_library_method_is_its_trained_tensors_and_a_header(tmp_path):
    work = built("lora")
    path = tmp_path / "adapter.safetensors"
    afterwards.save_trained(work.model, path)
    trained = sum(one.nbytes for one in work.model.parameters() if one.requires_grad)
    header = struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert afterwards.file_bytes(work) == path.stat().st_size == 8 + header + trained


def test_a_refta_file_is_larger_by_what_defines_its_residual():
    work = built("refta/shared")
    trained = sum(one.nbytes for one in work.model.parameters() if one.requires_grad)
    own = 4 * work.adapted.trainable_parameters
    assert trained + own < afterwards.file_bytes(work) < 2 * (trained + own)


@pytest.mark.parametrize("label", ["lora", "refta/fused"])
def test_merging_is_timed_and_leaves_a_plain_model_with_the_same_output(label):
    work = built(label)
    workload.training_step(work)
    work.model.eval()
    with torch.no_grad():
        before = work.model(**work.batch).logits
        found = afterwards.measure(work)
        after = work.model(**work.batch).logits
    assert found["merge_seconds"]["value"] > 0 and found["adapter_file_bytes"]["value"] > 0
    assert work.adapted.attached is None
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label", ["head", "full"])
def test_without_an_adapter_there_is_no_file_and_nothing_to_merge(label):
    assert afterwards.measure(built(label)) == {}


@pytest.mark.parametrize(
    ("error", "status", "note"),
    [
        (SettingError("lora: this layer cannot be merged\nfor a long reason"), "unsupported", "lora: this layer cannot be merged"),
        (RuntimeError("broke\nfor a long reason"), "error", "RuntimeError: broke"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom", "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_what_was_not_merged_is_a_row_with_its_reason(monkeypatch, error, status, note):
    def refuse(adapted):
        raise error

    monkeypatch.setattr("refta.adapter.merge", refuse)
    found = afterwards.measure(built("lora"))
    (row,) = [
        row for row in rows.of_processes(tiny("vit-tiny", "lora"), "cpu", {1: answer(afterwards=found)}) if row.metric == "merge_seconds"
    ]
    assert (row.value, row.status, row.note) == (None, status, note)


def test_a_full_disk_is_nobodys_fault_in_safetensors_words_too(monkeypatch):
    def full(work):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(afterwards, "file_bytes", full)
    with pytest.raises(SafetensorError):
        afterwards.measure(built("lora"))
    told = worker.describe_failure(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert told["by"] == EXECUTOR
    assert "by" not in worker.describe_failure(SafetensorError("I/O error: no such thing (os error 2)"))
