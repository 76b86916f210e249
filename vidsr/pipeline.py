"""stream(): frames in, frames out, with decode, upload, compute, download and encode overlapped.

Note [Two slots]
~~~~~~~~~~~~~~~~
A slot is the memory of one frame on its way: planes on the host (pinned on CUDA), planes on the
device, and the same for the result. There are two, so that while one frame is computed the next is
uploaded and the one before is downloaded. The order of things is kept by events, never by luck:

    host      copies the planes into the slot, submits everything below, goes on
    copy_in   upload;                     records `uploaded`
    compute   waits for `uploaded`;       planes -> RGB -> stages -> planes; records `computed`
    copy_out  waits for `computed`;       download; records `downloaded`
    host      waits for `downloaded`;     copies the result out; only now is the slot free again

Three waits, and each is needed: tests run this code on lanes that are threads with random delays
and that overwrite a slot's memory when it is handed back, and taking away any one wait gives wrong
pixels. On CUDA the lanes are three streams that both slots share.

On a processor every slot has a worker of its own, a thread with its own copy of the stages, and
there are as many as cores. Frames are independent, so several at once on one core each need no
barrier between cores; one frame on all cores has one at every layer, waits there for whichever core
the encoder is using, and took 1.5 times the processor time on two cores.

A stage that remembers the frame before cannot be one of several workers. So color is given in a
stream of its own, with one worker, whose frames go on to the stream that enlarges (Note [Stage
order]). Between the two they are 4:4:4 planes of 16 bits.

Decoding and encoding run beside all this in `Ahead`, which puts an iterator in a thread of its own
behind a bounded queue. Packets of copied streams pass through the same single queue, so badly
interleaved files cannot deadlock two of them.

A half-precision result may not be finite. The flag that says so travels with the download; the host
reads it where it waits anyway, and has that frame's bad tiles computed again in fp32.

Note [Stage order]
~~~~~~~~~~~~~~~~~~
Color first, then size: the colorizer looks at the small picture anyway, and the enlarging network
then sees colored edges where it would have seen grey ones. Luma comes from the enlargement.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vidsr.frame import ColorSpec, Frame, Packet, PixelLayout
from vidsr.media.color import ColorConverter
from vidsr.stages import Stage

SLOTS = 2
T = TypeVar("T", bound=Frame | Packet)


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


@dataclass
class Chain:
    """What happens to a frame on the device: planes -> RGB -> stages -> planes."""

    source: ColorConverter
    stages: list[Stage]
    target: ColorConverter
    layout: PixelLayout  # of the result
    color: ColorSpec  # of the result
    height: int  # of the result
    width: int

    @property
    def keeps_luma(self) -> bool:
        """Whether luma comes out to the bit: no stage changes it, and both sides store it alike."""
        ours, theirs = self.source, self.target
        return (
            all(stage.keeps_luma for stage in self.stages)
            and "rgb" not in {ours.layout.model, theirs.layout.model}
            and ours.layout.depth == theirs.layout.depth
            and (ours.color.matrix, ours.color.range) == (theirs.color.matrix, theirs.color.range)
        )

    def reset(self) -> None:
        """Let the stages forget earlier pictures."""
        for stage in self.stages:
            stage.reset()

    @torch.inference_mode()
    def run(self, planes: list[Tensor], out: list[Tensor], faulty: Tensor) -> None:
        """Compute one frame; `faulty` is set where a tile was not finite."""
        rgb = self.source.to_rgb(planes)
        faulty.zero_()
        for stage in self.stages:
            rgb = stage(rgb)
            if stage.faulty is not None:
                faulty.logical_or_(stage.faulty.any())
        self._store(rgb, planes, out)

    @torch.inference_mode()
    def run_again(self, planes: list[Tensor], out: list[Tensor]) -> None:
        """Compute the same frame with its bad tiles in fp32; may wait for the device."""
        rgb = self.source.to_rgb(planes)
        for stage in self.stages:
            rgb = stage.redo(rgb)
        self._store(rgb, planes, out)

    def _store(self, rgb: Tensor, planes: list[Tensor], out: list[Tensor]) -> None:
        self.target.from_rgb(rgb, out)
        if self.keeps_luma:
            out[0].copy_(planes[0])


@dataclass(frozen=True)
class Worker:
    """A chain and the lanes that it runs on. Each slot has one; on CUDA they share it."""

    chain: Chain
    lanes: Lanes


def workers_on(device: torch.device, make_chain: Callable[[], Chain], count: int) -> list[Worker]:
    """One worker for each slot: two slots on a device, `count` of them on a processor."""
    if device.type == "cpu":
        return [Worker(make_chain(), _ThreadLanes()) for _ in range(count)]
    lanes = _CudaLanes(device) if device.type == "cuda" else _ImmediateLanes(device)
    return [Worker(make_chain(), lanes)] * SLOTS


def stream(items: Iterable[T], workers: Sequence[Worker]) -> Iterator[Frame | T]:
    """Send every frame through a chain, in order; pass everything else on as it is.

    The frames that come out own their planes; those that only lead in do not come out. Errors of
    the stages come out of the iteration.
    """
    free = deque(_Slot(worker.chain, worker.lanes) for worker in workers)
    in_flight: deque[tuple[_Slot, Frame]] = deque()
    try:
        for item in items:
            if not isinstance(item, Frame):
                yield item
                continue
            if not free:
                slot, frame = in_flight.popleft()
                yield from slot.finish(frame)
                free.append(slot)
            slot = free.popleft()
            slot.start(item)
            in_flight.append((slot, item))
        for slot, frame in in_flight:
            yield from slot.finish(frame)
    finally:
        for worker in workers:
            worker.lanes.close()


@dataclass
class _Slot:
    """The memory of one frame on its way through the device."""

    chain: Chain
    lanes: Lanes
    host_in: list[Tensor] = field(default_factory=list)
    device_in: list[Tensor] = field(default_factory=list)
    device_out: list[Tensor] = field(default_factory=list)
    host_out: list[Tensor] = field(default_factory=list)  # planes, then the faulty flag
    downloaded: Event | None = None

    def start(self, frame: Frame) -> None:
        """Submit a frame's upload, computation and download."""
        if not self.host_in:
            self._allocate(frame)
        for memory, plane in zip(self.host_in, frame.planes, strict=False):  # alpha stays behind
            np.copyto(memory.numpy(), plane)
        lanes, (*planes, faulty) = self.lanes, self.device_out
        lanes.copy_in.submit(lambda: _copy(self.host_in, self.device_in))
        lanes.compute.wait(lanes.copy_in.record())
        if frame.restart:
            lanes.compute.submit(self.chain.reset)
        lanes.compute.submit(lambda: self.chain.run(self.device_in, planes, faulty))
        lanes.copy_out.wait(lanes.compute.record())
        lanes.copy_out.submit(lambda: _copy(self.device_out, self.host_out))
        self.downloaded = lanes.copy_out.record()

    def finish(self, frame: Frame) -> tuple[Frame, ...]:
        """Wait for the result, take it out if it is wanted, and hand the slot back."""
        assert self.downloaded is not None
        self.downloaded.synchronize()
        if bool(self.host_out[-1]):
            self._compute_again()
        planes = [memory.numpy().copy() for memory in self.host_out[:-1]]
        if self.chain.layout.alpha:
            planes.append(_enlarged_alpha(frame, self.chain))
        result = replace(
            frame,
            planes=tuple(planes),
            layout=self.chain.layout,
            color=self.chain.color,
        )
        self.lanes.hand_back(
            [*self.host_in, *self.device_in, *self.device_out, *self.host_out],
        )
        return () if frame.lead else (result,)

    def _compute_again(self) -> None:
        lanes, planes = self.lanes, self.device_out[:-1]
        lanes.compute.submit(lambda: self.chain.run_again(self.device_in, planes))
        lanes.copy_out.wait(lanes.compute.record())
        lanes.copy_out.submit(lambda: _copy(planes, self.host_out[:-1]))
        lanes.copy_out.record().synchronize()

    def _allocate(self, frame: Frame) -> None:
        chain, lanes = self.chain, self.lanes

        def planes(layout: PixelLayout, width: int, height: int) -> list[Tensor]:
            dtype = torch.uint8 if layout.depth == 8 else torch.uint16
            shapes = layout.plane_shapes(width, height)
            return [lanes.host_like(shape, dtype) for shape in shapes]

        count = len(frame.planes) - frame.layout.alpha
        self.host_in = planes(frame.layout, frame.width, frame.height)[:count]
        flag = lanes.host_like((), torch.bool)
        opaque = replace(chain.layout, alpha=False)
        self.host_out = [*planes(opaque, chain.width, chain.height), flag]
        self.device_in = [lanes.device_like(memory) for memory in self.host_in]
        self.device_out = [lanes.device_like(memory) for memory in self.host_out]


def _enlarged_alpha(frame: Frame, chain: Chain) -> NDArray[np.uint8 | np.uint16]:
    """The last plane at the result's size and depth, bicubic: no network knows transparency."""
    mask = torch.from_numpy(frame.planes[-1].astype(np.float32))[None, None]
    size = (chain.height, chain.width)
    mask = F.interpolate(mask, size=size, mode="bicubic", antialias=True)[0, 0]
    full = 2**chain.layout.depth - 1
    codes = mask.mul_(full / (2**frame.layout.depth - 1)).round_().clamp_(0, full)
    return codes.numpy().astype(np.uint8 if chain.layout.depth == 8 else np.uint16)


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if target is not source:
            target.copy_(source, non_blocking=True)


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
    """One CUDA stream a lane, pinned host memory. Never run in this project's own CI."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copy_in, self.compute, self.copy_out = (_CudaLane(device) for _ in range(3))

    def host_like(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def device_like(self, host: Tensor) -> Tensor:
        return torch.empty_like(host, device=self.device)

    def hand_back(self, memory: list[Tensor]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class _CudaLane:
    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def submit(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self.stream):
            work()

    def record(self) -> Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return event

    def wait(self, event: Event) -> None:
        assert isinstance(event, torch.cuda.Event)
        self.stream.wait_event(event)


class Ahead(Generic[T]):
    """Runs an iterable in a thread of its own, at most `limit` bytes ahead of whoever iterates.

    An exception in the thread is raised where the iteration stands. `close()`, or leaving the
    `with` block, stops the thread after the item it is at, closes the iterable, and waits for it.
    """

    def __init__(self, source: Iterable[T], *, limit: int, name: str) -> None:
        self.busy_seconds = 0.0  # that the thread spent in `source`
        self.starved_seconds = 0.0  # that the iterating side waited for an item
        self._source = iter(source)
        self._limit = limit
        self._items: deque[T] = deque()
        self._bytes = 0
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._produce, name=f"vidsr-{name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        began = time.perf_counter()
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            self.starved_seconds += time.perf_counter() - began
            if self._items:
                item = self._items.popleft()
                self._bytes -= item.size
                self._changed.notify_all()
                return item
        if self._error is not None:
            raise self._error
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and wait until it has let go of everything."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _produce(self) -> None:
        try:
            while not self._closed:
                began = time.perf_counter()
                item = next(self._source, None)
                self.busy_seconds += time.perf_counter() - began
                if item is None or not self._put(item):
                    break
        except BaseException as exc:  # raised again on the iterating side
            self._error = exc
        finally:
            close = getattr(self._source, "close", None)
            if close:
                close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        """Wait for room, which an empty queue always has; False if nobody iterates any more."""
        with self._changed:
            while self._items and self._bytes + item.size > self._limit and not self._closed:
                self._changed.wait()
            self._items.append(item)
            self._bytes += item.size
            self._changed.notify_all()
            return not self._closed
