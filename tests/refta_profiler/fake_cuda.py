"""A GPU that the host runs ahead of, for tests of clocks on machines without one."""

import time

import torch


class FakeCuda:
    """Its work is done when it is waited for, and events stand where it passed them."""

    def __init__(self, monkeypatch):
        self.host = self.queue = 0.0  # seconds
        self.waits, self.log = 0, []
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: device)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: FakeEvent(self, enable_timing))
        monkeypatch.setattr(time, "perf_counter", lambda: self.host)

    def launch(self, seconds):
        """The host takes a millisecond to hand over what the GPU takes so long for."""
        self.host += 1e-3
        self.queue = max(self.queue, self.host) + seconds

    def synchronize(self, device=None):
        self.log.append("wait")
        self.host = max(self.host, self.queue) + 1e-3


class FakeEvent:
    def __init__(self, device, enable_timing):
        assert enable_timing
        self.device = device

    def record(self, stream=None):
        self.device.log.append("mark")
        self.passed = max(self.device.queue, self.device.host)

    def elapsed_time(self, other):
        assert self.device.log[-1] == "wait"  # torch raises where the events may not have come yet
        return (other.passed - self.passed) * 1e3
