"""Several ranks' processes: their answers as one, one rank's failure, too many ranks; and DDP's real reducer in this process."""

import gc
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from real_steps import tiny
from torch.distributed import fsdp

from refta.errors import SettingError
from refta_profiler import collectives, distributed, models, run, workload
from refta_profiler.errors import HardwareError
from refta_profiler.measure import cluster, gpu, group, isolate, memory
from refta_profiler.measure.executors import Process, local
from refta_profiler.measure.rows import rank_notes
from refta_profiler.predict import ranks
from refta_profiler.predict.dryrun import dry_run
from refta_profiler.predict.storage import LiveStorages

POINT = replace(tiny("roberta-tiny", "lora"), parallel="ddp:2")
ASKED = {"warmup": 0, "steps": 1, "passes": ["time"]}


def answer(peak, seconds, others=0.5):
    return {
        "values": {"peak_allocated_bytes": peak, "step_flops": 7},
        "samples": [{"forward": seconds, "backward": 0.0, "optimizer": 0.0}],
        "loads": [{"others_fraction": others, "steal_fraction": 0.0, "load_average": 1.0}],
        "setup_seconds": seconds,
    }


def test_the_largest_rank_and_the_slowest_step_stand_for_the_cluster():
    found = cluster.together({0: answer(10, 2.0), 1: answer(12, 1.0)}, 2)
    assert found["values"] == {"peak_allocated_bytes": 12, "step_flops": 7}
    assert found["samples"] == [{"forward": 2.0, "backward": 0.0, "optimizer": 0.0}] and found["setup_seconds"] == 2.0
    assert found["loads"][0]["others_fraction"] is None  # the other rank would count among the others
    assert rank_notes(found["ranks"]) == {"peak_allocated_bytes": "the largest of 2 ranks: 10, 12"}
    assert rank_notes([]) == {}


def test_what_is_of_all_steps_is_told_as_of_each():
    whole = {"others_fraction": 0.5, "steal_fraction": 0.0, "load_average": 1.0}
    found = cluster.together({rank: {**answer(1, 1.0), "load": whole, "bare": [1.0 + rank]} for rank in (0, 1)}, 2)
    assert (found["load"]["others_fraction"], found["bare"]) == (None, [2.0])
    assert (cluster.together({0: answer(1, 1.0)}, 1)["load"], found["values"]["peak_allocated_bytes"]) == ({}, 1)


def test_the_rank_that_failed_first_is_the_reason():
    lost = {"failure": {"status": "error", "note": "Connection closed by peer", "at": 2.0}}
    cause = {"failure": {"status": "oom", "note": "out of memory", "at": 1.0}}
    assert cluster.together({0: lost, 1: cause}, 2)["failure"]["note"] == "rank 1 of 2: out of memory"
    killed = {"failure": {"status": "oom", "note": "killed"}}
    assert cluster.together({0: lost, 1: killed, 2: answer(1, 1.0)}, 3)["failure"] == {"status": "oom", "note": "rank 1 of 3: killed"}


def ranks_run(monkeypatch, tmp_path, script):
    """Put a shell script in the place of the Python that measures; its fourth argument is the answer's path, which tells its rank."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(isolate.sys, "executable", str(path))
    monkeypatch.setattr(cluster, "GRACE_S", 0.2)


def test_one_rank_that_fails_ends_the_others(monkeypatch, tmp_path):
    ranks_run(monkeypatch, tmp_path, 'case "$4" in *-1) echo "no such thing" >&2; exit 3;; *) exec sleep 60;; esac')
    started = time.monotonic()
    failure = cluster.measure(POINT, "cpu", limit_s=30.0, asked=ASKED)["failure"]
    assert time.monotonic() - started < 15
    words = "rank 1 of 2: the measuring process ended with code 3: no such thing"
    assert failure == {"status": "error", "note": words, "traceback": "no such thing\n"}


def test_ranks_that_wait_for_each_other_too_long_are_ended(monkeypatch, tmp_path):
    ranks_run(monkeypatch, tmp_path, "exec sleep 60")
    failure = cluster.measure(POINT, "cpu", limit_s=0.5, asked=ASKED)["failure"]
    assert failure == {"status": "error", "note": "took longer than 0 s (ranks 0, 1 of 2 not done)", "late": True, "limit_s": 0.5}


def test_more_ranks_than_there_are_places_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cluster.refusal(POINT, "cuda") == "DDP over 2 ranks needs 2 GPUs; 1 GPU is here"
    assert cluster.refusal(POINT, "cpu") == cluster.refusal(replace(POINT, parallel=""), "cuda") == ""
    assert "needs 4000 processes" in cluster.refusal(replace(POINT, parallel="fsdp:4000"), "cpu")
    process = Process(POINT, 1, "cuda", 60.0, ASKED, {}, "warn")
    assert local.spread_over_ranks(process) == {"failure": {"status": "skipped", "note": "DDP over 2 ranks needs 2 GPUs; 1 GPU is here"}}
    here = local.Local()
    assert here.refusal(POINT, local.HERE) == ""
    here.open(tmp_path, "cuda")
    assert here.refusal(POINT, local.HERE) == "DDP over 2 ranks needs 2 GPUs; 1 GPU is here"
    with pytest.raises(HardwareError, match="needs 2 GPUs; 1 GPU is here; leave --device out") as error:
        run.refuse_ranks([POINT], "cuda", local.Local())
    assert error.value.exit_code == 3
    assert run.refuse_ranks([POINT], "auto", local.Local()) is None
    assert run.refuse_ranks([POINT], "cuda", SimpleNamespace(name="ray")) is None


def test_what_slowed_any_rank_slowed_the_step():
    gpus = [{"temperature_c": 50, "throttle_reasons": []}, {"temperature_c": 90, "throttle_reasons": ["hardware thermal slowdown"]}]
    found = cluster.together({rank: {**answer(1, 1.0), "gpu": one} for rank, one in enumerate(gpus)}, 2)
    assert found["gpu"] == {"temperature_c": 50, "throttle_reasons": ["hardware thermal slowdown"]}
    assert cluster.conditions([None, None]) is None
    assert cluster.conditions([{"unknown": "why"}] * 2) == {"unknown": "why"}


def test_ranks_ask_who_uses_each_of_their_gpus(monkeypatch):
    monkeypatch.setattr(gpu, "settle", lambda setting, *, count: ("refuse", f"{setting} {count}"))
    for one, words in ((replace(POINT, parallel="fsdp:4"), "warn 4"), (replace(POINT, parallel=""), "warn 1")):
        with pytest.raises(HardwareError, match=words):
            local.run(Process(one, 1, "cuda", 60.0, ASKED, {}, "warn"))


def one_rank(folder):
    """What makes this process the only rank."""
    return group.joined({"device": "cpu", "group": {"rank": 0, "world": 1, "store": str(folder / "store"), "limit_s": 60}})


@pytest.mark.parametrize("label", ["full", "lora"])
def test_sharding_leaves_no_whole_parameter(label, tmp_path, monkeypatch):
    """Blocks are freed while others are still to come: what stayed would have to fit the GPU with the rest."""
    shard, left = fsdp.fully_shard, []

    def watched(module, **options):
        left.append(sum(one() is not None for one in whole))
        return shard(module, **options)

    monkeypatch.setattr(fsdp, "fully_shard", watched)
    with one_rank(tmp_path) as device:
        work = workload.build(tiny("roberta-tiny", label, parallel="fsdp:1"), device)
        whole = [weakref.ref(one.untyped_storage()) for one in work.model.parameters()]
        count = len(work.adapted.attached.parameters)
        distributed.spread(work)
        gc.collect()
        assert not any(one() for one in whole)
    assert left == sorted(set(left), reverse=True)
    own = work.adapted.attached.parameters
    assert len(own) == count and {id(one) for one in own} <= {id(one) for one in work.model.parameters() if one.requires_grad}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_trained_parameter_without_a_gradient_is_refused_by_both(tmp_path):
    """torch says it at the second step; the prediction before the first."""
    one = replace(tiny("roberta-tiny", "head"), parallel="ddp:1")
    with one_rank(tmp_path) as device:
        work = workload.build(one, device)
        work.model.register_parameter("mask_token", torch.nn.Parameter(torch.zeros(3)))
        with pytest.raises(SettingError, match="get no gradient") as predicted:
            ranks.spread(work, LiveStorages(), None, foreach=False)
        distributed.spread(work)
        workload.training_step(work)
        with pytest.raises(SettingError) as measured:
            workload.training_step(work)
    assert str(predicted.value).startswith(str(measured.value))


@pytest.mark.parametrize("how", ["ddp:1", "ddp:1:view", "fsdp:1"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_real_rank_needs_what_is_predicted(how, tmp_path):
    """The real reducer and gloo in this process, to the byte; two processes are in test_gloo.py."""
    one = replace(tiny("roberta-tiny", "refta/shared"), parallel=how)
    with one_rank(tmp_path) as device, models.without_packing():
        work = distributed.spread(workload.build(one, device))
        for _ in range(2):
            workload.training_step(work)
        gc.collect()
        static = memory.static_bytes(work)
        peaks = memory.cpu_peaks(work, lambda mark: workload.training_step(work, mark))
        with collectives.Counted() as counted:
            workload.training_step(work)
    found = dry_run(one, "cpu")
    assert found.static_bytes == static
    assert found.peak_allocated_bytes == peaks["peak_allocated_bytes"]
    assert found.sent_bytes == counted.sent.bytes(1) == 0 and counted.sent.unknown == []
