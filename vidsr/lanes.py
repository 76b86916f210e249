"""Queues of work on a device, and the events between them.

Note [Three kinds of lanes]
~~~~~~~~~~~~~~~~~~~~~~~~~~~
A device takes work that is done later, in the order of each queue, and what depends on another
queue's work waits for an event of it. Only here are CUDA's streams and events known; who submits
work (`pipeline.py`) sees three lanes and two kinds of memory, whatever the device:

    CUDA         a stream each for uploads, computation and downloads; host memory is pinned
    processor    one thread for all three; host and device memory are the same
    others, MPS  the device's one queue for all three

Errors of work come out where the host waits for it, or at a later submission.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vidsr.engines.torch_engine import device_errors
from vidsr.errors import DeviceError


class Event(Protocol):
    """A point in a lane's work."""

    def synchronize(self) -> None:
        """Let the host wait until the work before this point is done."""


class Lane(Protocol):
    """A queue of work on the device, done in order. Work submitted is not yet done."""

    def submit(self, work: Callable[[], None]) -> None:
        """Add work to the end of the queue."""

    def record(self) -> Event:
        """Mark the end of what was submitted so far."""

    def wait(self, event: Event) -> None:
        """Let this lane, not the host, wait for another lane's event."""


class Lanes(Protocol):
    """The three lanes of a device and its two kinds of memory."""

    @property
    def copy_in(self) -> Lane:
        """Uploads."""

    @property
    def compute(self) -> Lane:
        """Everything that calculates."""

    @property
    def copy_out(self) -> Lane:
        """Downloads."""

    def host_like(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory that the device copies from and to fastest."""

    def device_like(self, host: Tensor) -> Tensor:
        """Device memory of the same shape and type; the same memory where they share it."""

    def hand_back(self, memory: list[Tensor]) -> None:
        """A slot's memory is free for the next frame; tests overwrite it here."""

    def close(self) -> None:
        """No more work will come."""


def lanes_on(device: torch.device) -> Lanes:
    """Lanes of the kind that suits a device, which begin after what it has been given so far."""
    if device.type == "cpu":
        return _ThreadLanes()
    return _CudaLanes(device) if device.type == "cuda" else _ImmediateLanes(device)


class _ThreadLanes:
    """All three lanes are one thread; host and device memory are the same."""

    def __init__(self) -> None:
        self.copy_in = self.compute = self.copy_out = _ThreadLane()

    def host_like(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def device_like(self, host: Tensor) -> Tensor:
        return host

    def hand_back(self, memory: list[Tensor]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self.compute.close()


class _ThreadLane:
    """Work is done in order by a thread; an error of it is raised where the host waits."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vidsr-compute")
        self._last: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        before = self._last

        def after_what_came_before() -> None:
            if before is not None:
                before.result()  # done by now; raises its error, if it had one
            work()

        self._last = self._thread.submit(after_what_came_before)

    def record(self) -> Event:
        assert self._last is not None
        return _Done(self._last)

    def wait(self, event: Event) -> None:
        """The other lanes are this one, and it works in order."""

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Done:
    work: Future[None]

    def synchronize(self) -> None:
        self.work.result()


class _ImmediateLanes:
    """Work is queued by the device itself when it is submitted (MPS), which has one queue."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copy_in = self.compute = self.copy_out = _ImmediateLane()

    def host_like(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def device_like(self, host: Tensor) -> Tensor:
        return torch.empty_like(host, device=self.device)

    def hand_back(self, memory: list[Tensor]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class _ImmediateLane:
    def submit(self, work: Callable[[], None]) -> None:
        work()

    def record(self) -> Event:
        return self

    def wait(self, event: Event) -> None:
        """The device's one queue keeps the order."""

    def synchronize(self) -> None:
        if torch.backends.mps.is_available():
            torch.mps.synchronize()


class _CudaLanes:
    """One CUDA stream a lane, pinned host memory. CI has no card: `benchmarks/gpu.py` tries it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._lanes = [_CudaLane(device) for _ in range(3)]
        self.copy_in, self.compute, self.copy_out = self._lanes

    def host_like(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with device_errors(self.device):
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def device_like(self, host: Tensor) -> Tensor:
        with device_errors(self.device):
            return torch.empty_like(host, device=self.device)

    def hand_back(self, memory: list[Tensor]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Wait: the allocator gives a slot's memory to others, who know nothing of our streams.

        An error of work that somebody waited for was raised there, and is not raised again in the
        place of whatever ends the stream.
        """
        for lane in self._lanes:
            with contextlib.suppress(DeviceError):
                lane.synchronize()


class _CudaLane:
    """A stream that begins after all that the caller's stream has been given so far.

    Streams do not wait for the default one, where weights were converted a moment ago.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with device_errors(device):
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def submit(self, work: Callable[[], None]) -> None:
        with device_errors(self.device), torch.cuda.stream(self.stream):
            work()

    def record(self) -> _CudaEvent:
        with device_errors(self.device):
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self.stream)
        return _CudaEvent(self.device, event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        self.stream.wait_event(event.event)

    def synchronize(self) -> None:
        with device_errors(self.device):
            self.stream.synchronize()


@dataclass(frozen=True)
class _CudaEvent:
    device: torch.device
    event: torch.cuda.Event

    def synchronize(self) -> None:
        with device_errors(self.device):  # of work that was submitted long ago, too
            self.event.synchronize()
