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
pixels. On CUDA the lanes are three streams that both slots share (Note [Three kinds of lanes]).

On a processor every two slots have a worker of their own, a thread with its own copy of the stages,
and there are as many as cores. Frames are independent, so several at once on one core each need no
barrier between cores; one frame on all cores has one at every layer, waits there for whichever core
the encoder is using, and took 1.5 times the processor time on two cores.

A stage that remembers the frame before cannot be one of several workers. So color is given in a
stream of its own, with one worker, whose frames go on to the stream that enlarges (Note [Stage
order]). Between the two they are 4:4:4 planes of 16 bits.

Decoding and encoding run beside all this in `Ahead`, which puts an iterator in a thread of its own
behind a bounded queue. Packets of copied streams pass through the same single queue, so badly
interleaved files cannot deadlock two of them.

Before a frame is sent off, its planes are compared with those of the frame before (Note [What did
not change]). Its slot then computes parts only, and the rest is copied where the frame arrives,
from the result of the frame before, which arrived just then: nobody waits for another's result, and
all workers and devices do it alike. Two slots for each worker let a cheap frame go ahead of a dear
one.

A half-precision result may not be finite. The flag that says so travels with the download; the host
reads it where it waits anyway, and has that frame's bad tiles computed again in fp32.

Note [Stage order]
~~~~~~~~~~~~~~~~~~
Color first, then size: the colorizer looks at the small picture anyway, and the enlarging network
then sees colored edges where it would have seen grey ones. Luma comes from the enlargement.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from vidsr.frame import ColorSpec, Frame, Packet, PixelLayout
from vidsr.lanes import Event, Lanes, lanes_on
from vidsr.media.color import ColorConverter, resized_alpha
from vidsr.reuse import Parts, Planes, Reuse, changed
from vidsr.stages import Stage
from vidsr.tiling import Rect

SLOTS = 2
T = TypeVar("T", bound=Frame | Packet)


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

    @property
    def holds(self) -> bool:
        """Whether a frame that repeats the one before may be given the same result."""
        return all(stage.holds for stage in self.stages)

    def affected(self, before: Planes, after: Planes) -> Parts | None:
        """The parts of the result that may differ, in pixels of the source; None is all of it."""
        blocks = changed(before, after)
        if not blocks.any():
            return ()
        size = after[0].shape
        return self.stages[0].affected(blocks, size, self.source.reach + self._reach_after(*size))

    def reset(self) -> None:
        """Let the stages forget earlier pictures."""
        for stage in self.stages:
            stage.reset()

    @torch.inference_mode()
    def run(
        self, planes: list[Tensor], out: list[Tensor], faulty: Tensor, parts: Parts | None = None
    ) -> None:
        """Compute one frame; `faulty` is set where a tile was not finite.

        With `parts`, as `affected` gives them, the rest of the result may be anything.
        """
        rgb = self.source.to_rgb(planes)
        faulty.zero_()
        for stage, only in self._steps(rgb, parts):
            rgb = stage(rgb, *only)
            if stage.faulty is not None:
                faulty.logical_or_(stage.faulty.any())
        self._store(rgb, planes, out)

    @torch.inference_mode()
    def run_again(
        self, planes: list[Tensor], out: list[Tensor], parts: Parts | None = None
    ) -> None:
        """Compute the same frame with its bad tiles in fp32; may wait for the device."""
        rgb = self.source.to_rgb(planes)
        for stage, only in self._steps(rgb, parts):
            rgb = stage.redo(rgb, *only)
        self._store(rgb, planes, out)

    def _steps(self, rgb: Tensor, parts: Parts | None) -> Iterator[tuple[Stage, tuple[Parts, ...]]]:
        """Each stage and, of the first, the parts that are needed of it unless all is."""
        first, *later = self.stages
        if parts is None:
            yield first, ()
        else:
            size = rgb.shape[-2:]
            beside, whole = self._reach_after(*size), Rect(0, 0, *size)
            yield first, ([part.grown(beside).shared_with(whole) for part in parts],)
        yield from ((stage, ()) for stage in later)

    def _reach_after(self, height: int, width: int) -> int:
        """How far, in pixels of the source, a result looks beside the first stage's result."""
        pixels = 0.0
        size = self.stages[0].output_size(height, width)
        for stage in self.stages[1:]:
            pixels += stage.reach(*size) * height / size[0]
            size = stage.output_size(*size)
        chroma = self.target.reach
        if self.height % height or self.width % width:
            chroma += 2 * (chroma + 1)  # parts end between samples, and are rounded outwards
        return math.ceil(pixels + chroma * max(height / self.height, width / self.width))

    def _store(self, rgb: Tensor, planes: list[Tensor], out: list[Tensor]) -> None:
        self.target.from_rgb(rgb, out)
        if self.keeps_luma:
            out[0].copy_(planes[0])


@dataclass(frozen=True)
class Worker:
    """A chain and the lanes that it runs on. Each slot has one; on CUDA they share it."""

    chain: Chain
    lanes: Lanes


def workers_on(
    device: torch.device, make_chain: Callable[[], Chain], count: int, *, run: int = 1
) -> list[Worker]:
    """One worker for each slot: two slots on a device, two for each of `count` on a processor.

    Workers that take frames in a row have slots for two such runs, so that they need not wait for
    each other's frames to be taken out.

    Args:
        device: where the chains compute.
        make_chain: makes a worker's own.
        count: workers on a processor.
        run: frames in a row that go to the same worker; see Note [Reuse along the motion].
    """
    if device.type == "cpu":
        workers = [Worker(make_chain(), lanes_on(device)) for _ in range(count)]
        return [worker for worker in workers for _ in range(run)] * SLOTS
    chain = make_chain()  # first: lanes begin after what was queued before they are made
    return [Worker(chain, lanes_on(device))] * SLOTS


def stream(
    items: Iterable[T], workers: Sequence[Worker], reuse: Reuse = "off"
) -> Iterator[Frame | T]:
    """Send every frame through a chain, in order; pass everything else on as it is.

    The frames that come out own their planes, or share them with the frame before; those that only
    lead in do not come out. Errors of the stages come out of the iteration.

    Args:
        items: frames and packets.
        workers: one for each slot, which take turns.
        reuse: unless "off", what did not change is not computed; see Note [What did not change].
    """
    row = _Row(workers, reuse)
    try:
        for item in items:
            if isinstance(item, Frame):
                yield from row.send(item)
            else:
                yield item
        yield from row.finish_all()
    finally:
        for worker in workers:
            worker.lanes.close()


@dataclass
class _Flight:
    """A frame on its way."""

    frame: Frame
    slot: _Slot | None  # None: nothing changed, and the result before is its result
    parts: Parts | None = None  # that are computed; None is all


class _Row:
    """The frames on their way, in order, and the result of the last one that arrived."""

    def __init__(self, workers: Sequence[Worker], reuse: Reuse) -> None:
        self._slots = [_Slot(worker.chain, worker.lanes) for worker in workers]
        self._free = deque(self._slots)
        self._flights: deque[_Flight] = deque()
        self._compares = reuse != "off" and workers[0].chain.holds
        self._before: Frame | None = None  # the one that was sent last
        self._result: Planes = ()
        self._restarts = False  # the next stream, with a frame that is wanted

    def send(self, frame: Frame) -> Iterator[Frame]:
        """Set off a frame, as soon as there is a slot; yields what arrives meanwhile."""
        if frame.restart:
            yield from self._restart()
        flight = _Flight(frame, None, self._affected(frame))
        if flight.parts is None or len(flight.parts):
            while not self._free:
                yield from self._finish()
            flight.slot = self._free.popleft()
            flight.slot.start(frame, flight.parts)
        self._before = frame
        self._flights.append(flight)
        while self._flights and self._need_not_wait():
            yield from self._finish()

    def finish_all(self) -> Iterator[Frame]:
        """Wait for what is still on its way."""
        while self._flights:
            yield from self._finish()

    def _restart(self) -> Iterator[Frame]:
        """As at the beginning, so that a run that begins here gives the same pictures."""
        yield from self.finish_all()
        self._free = deque(self._slots)
        self._before = None
        for slot in self._slots:
            slot.lanes.compute.submit(slot.chain.reset)

    def _affected(self, frame: Frame) -> Parts | None:
        if not self._compares or self._before is None:
            return None
        before, after = (
            planes.planes[: len(planes.planes) - planes.layout.alpha]
            for planes in (self._before, frame)
        )
        return self._slots[0].chain.affected(before, after)

    def _need_not_wait(self) -> bool:
        """Whether the first one is done at once, or too many that are wait behind it."""
        return self._flights[0].slot is None or len(self._flights) > 2 * len(self._slots)

    def _finish(self) -> Iterator[Frame]:
        """Wait for the first frame; yield it with its new planes, if it is wanted."""
        flight = self._flights.popleft()
        if flight.slot is not None:
            self._result = flight.slot.finish(flight.parts, self._result)
            self._free.append(flight.slot)
            chain = flight.slot.chain
        else:
            chain = self._slots[0].chain
        restart = flight.frame.restart or self._restarts
        self._restarts = restart and flight.frame.lead
        if not flight.frame.lead:
            planes, layout, color = self._result, chain.layout, chain.color
            if layout.alpha:  # of the frame's own, which may change while the picture does not
                depths = flight.frame.layout.depth, layout.depth
                alpha = flight.frame.planes[-1]
                planes = (*planes, resized_alpha(alpha, (chain.height, chain.width), depths))
            yield replace(flight.frame, planes=planes, layout=layout, color=color, restart=restart)


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

    def start(self, frame: Frame, parts: Parts | None) -> None:
        """Submit a frame's upload, the computation of all or parts of it, and the download."""
        if not self.host_in:
            self._allocate(frame)
        for memory, plane in zip(self.host_in, frame.planes, strict=False):  # alpha stays behind
            np.copyto(memory.numpy(), plane)
        lanes, (*planes, faulty) = self.lanes, self.device_out
        lanes.copy_in.submit(lambda: _copy(self.host_in, self.device_in))
        lanes.compute.wait(lanes.copy_in.record())
        lanes.compute.submit(lambda: self.chain.run(self.device_in, planes, faulty, parts))
        lanes.copy_out.wait(lanes.compute.record())
        lanes.copy_out.submit(lambda: _copy(self.device_out, self.host_out))
        self.downloaded = lanes.copy_out.record()

    def finish(self, parts: Parts | None, before: Planes) -> Planes:
        """Wait for the result, take it out, and hand the slot back.

        Args:
            parts: that were computed; None is all.
            before: the result that the rest is taken from.
        """
        assert self.downloaded is not None
        self.downloaded.synchronize()
        if bool(self.host_out[-1]):
            self._compute_again(parts)
        results: Planes = tuple(memory.numpy() for memory in self.host_out[:-1])
        planes = tuple(plane.copy() for plane in (results if parts is None else before))
        if parts is not None:
            self._paste(parts, results, planes)
        self.lanes.hand_back(
            [*self.host_in, *self.device_in, *self.device_out, *self.host_out],
        )
        return planes

    def _paste(self, parts: Parts, sources: Planes, targets: Planes) -> None:
        """Copy parts of a picture of the source's size, rounded outwards to whole samples."""
        height, width = self.host_in[0].shape
        for source, target in zip(sources, targets, strict=True):
            high, wide = source.shape
            for part in parts:
                rows = slice(max(part.top, 0) * high // height, -(-part.bottom * high // height))
                columns = slice(max(part.left, 0) * wide // width, -(-part.right * wide // width))
                target[rows, columns] = source[rows, columns]

    def _compute_again(self, parts: Parts | None) -> None:
        lanes, planes = self.lanes, self.device_out[:-1]
        lanes.compute.submit(lambda: self.chain.run_again(self.device_in, planes, parts))
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


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if target is not source:
            target.copy_(source, non_blocking=True)


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
