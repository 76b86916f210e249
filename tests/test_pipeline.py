"""The pipeline's promises, on lanes that are threads with random delays (see Note [Two slots])."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.errors import DeviceError, OutOfMemory
from vidsr.frame import ColorSpec, Frame, Matrix, PixelLayout, Range, Siting
from vidsr.media.color import ColorConverter
from vidsr.pipeline import Ahead, Chain, Worker, stream, workers_on
from vidsr.resize import Resize
from vidsr.reuse import Blocks, Parts, cover, grown
from vidsr.stages import Repeat, Stage
from vidsr.tiling import Rect

LAYOUT = PixelLayout("yuv", 8, (1, 1))
COLOR = ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, Siting.LEFT)
CUDA = torch.device("cuda:0")
WIDTH, HEIGHT = 32, 16
POISON = 99


class DelayedLane:
    """A queue of its own thread: work is done later, in order, after a random delay."""

    def __init__(
        self, name: str, ignored_waits: frozenset[str], errors: list[BaseException]
    ) -> None:
        self.name = name
        self.ignored_waits = ignored_waits
        self.errors = errors
        self.work: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self.delays = random.Random(name)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        self.work.put(work)

    def record(self) -> DelayedEvent:
        event = DelayedEvent(self)
        self.work.put(event.done.set)
        return event

    def wait(self, event: DelayedEvent) -> None:
        if self.name not in self.ignored_waits:
            self.work.put(event.done.wait)

    def _run(self) -> None:
        while (work := self.work.get()) is not None:
            time.sleep(self.delays.uniform(0, 0.003))
            try:
                work()
            except BaseException as exc:
                self.errors.append(exc)


class DelayedEvent:
    def __init__(self, lane: DelayedLane) -> None:
        self.lane = lane
        self.done = threading.Event()

    def synchronize(self) -> None:
        if "host" in self.lane.ignored_waits:
            return
        self.done.wait()
        if self.lane.errors:
            raise self.lane.errors[0]


class DelayedLanes:
    """The CPU twin of the CUDA lanes: separate memories, delays, and poisoned slots."""

    def __init__(self, *, ignored_waits: frozenset[str] = frozenset()) -> None:
        errors: list[BaseException] = []  # of any lane, as a CUDA error is of the whole device
        self.copy_in = DelayedLane("copy_in", ignored_waits, errors)
        self.compute = DelayedLane("compute", ignored_waits, errors)
        self.copy_out = DelayedLane("copy_out", ignored_waits, errors)

    def host_like(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, POISON if dtype != torch.bool else 0).to(dtype)

    def device_like(self, host: Tensor) -> Tensor:
        return host.clone()

    def hand_back(self, memory: list[Tensor]) -> None:
        for tensor in memory:
            if tensor.dtype != torch.bool:
                tensor.fill_(POISON)

    def close(self) -> None:
        for lane in (self.copy_in, self.compute, self.copy_out):
            lane.work.put(None)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What CUDA's streams, which are not there, were asked."""
    asked: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            assert device == CUDA

        def wait_stream(self, other: str) -> None:
            asked.append(f"wait for {other}")

        def synchronize(self) -> None:
            asked.append("finish")

    class Event:
        def record(self, stream: Stream) -> None:
            pass

        def synchronize(self) -> None:
            raise RuntimeError("illegal access")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "the caller")
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    return asked


def frames(count: int) -> Iterator[Frame]:
    draw = np.random.default_rng(0)
    for number in range(count):
        planes = tuple(
            draw.integers(16, 236, shape, dtype=np.uint8)
            for shape in LAYOUT.plane_shapes(WIDTH, HEIGHT)
        )
        yield Frame(planes, LAYOUT, COLOR, number * 3, 3, Fraction(1, 90))


def chain(stage: Repeat | None = None) -> Chain:
    stage = stage or Repeat(2)
    height, width = stage.output_size(HEIGHT, WIDTH)
    converter = ColorConverter(LAYOUT, COLOR)
    return Chain(converter, [stage], converter, LAYOUT, COLOR, height, width)


def delayed(stage: Repeat | None = None, *, ignoring: str = "") -> list[Worker]:
    """Two slots on the delayed lanes, as on CUDA."""
    return [Worker(chain(stage), DelayedLanes(ignored_waits=frozenset({ignoring})))] * 2


def plain(stage: Repeat | None = None, *, count: int = 1) -> list[Worker]:
    """The workers of a processor."""
    return workers_on(torch.device("cpu"), lambda: chain(stage), count)


def run(workers: list[Worker], count: int = 12) -> list[Frame]:
    return list(stream(frames(count), workers))


def same(ours: list[Frame], theirs: list[Frame]) -> bool:
    return all(
        np.array_equal(a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.planes, other.planes, strict=True)
    )


def test_delayed_lanes_give_the_pixels_of_immediate_ones() -> None:
    assert same(run(delayed()), run(plain()))


@pytest.mark.parametrize("wait", ["compute", "copy_out", "host"])
def test_taking_away_a_wait_gives_wrong_pixels(wait: str) -> None:
    assert not same(run(delayed(ignoring=wait)), run(plain()))


def test_cuda_streams_begin_after_the_networks_are_ready_and_end_before_their_memory_goes(
    streams: list[str],
) -> None:
    def make_chain() -> Chain:
        streams.append("make")
        return chain()

    worker, _ = workers_on(CUDA, make_chain, 1)
    assert streams == ["make", *3 * ["wait for the caller"]]
    worker.lanes.close()
    assert streams[4:] == 3 * ["finish"]


def test_the_end_of_cuda_streams_raises_nothing_over_the_error_that_ended_them(
    streams: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stream: object) -> None:
        streams.append("fail")
        raise RuntimeError("illegal access")

    worker, _ = workers_on(CUDA, chain, 1)
    monkeypatch.setattr(torch.cuda.Stream, "synchronize", fail)
    worker.lanes.close()
    assert streams[3:] == 3 * ["fail"]


def test_what_fails_on_cuda_is_a_device_error_wherever_it_shows(streams: list[str]) -> None:
    lane = workers_on(CUDA, chain, 1)[0].lanes.compute

    def work() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(OutOfMemory):
        lane.submit(work)
    with pytest.raises(DeviceError, match="cuda:0 failed: illegal access"):
        lane.record().synchronize()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_several_workers_give_the_same_frames_in_the_same_order(count: int) -> None:
    ours, theirs = run(plain(count=count)), run(plain())
    assert same(ours, theirs)
    assert [frame.pts for frame in ours] == [frame.pts for frame in theirs]


def test_frames_come_out_in_order_with_their_own_times() -> None:
    out = run(plain(), count=7)
    assert [(f.pts, f.duration, f.time_base) for f in out] == [
        (n * 3, 3, Fraction(1, 90)) for n in range(7)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_short_streams_lose_nothing(count: int) -> None:
    assert len(run(delayed(), count=count)) == count
    assert len(run(plain(count=2), count=count)) == count


class Parcel:
    """Stands for a packet of a copied stream."""

    size = 10


def test_packets_pass_through_unchanged() -> None:
    parcels = [Parcel(), Parcel(), Parcel()]
    first, second, third = frames(3)
    items = [parcels[0], first, parcels[1], second, third, parcels[2]]
    out = list(stream(items, plain()))
    assert [item for item in out if isinstance(item, Parcel)] == parcels
    assert sum(isinstance(item, Frame) for item in out) == 3


def test_frames_own_their_planes_after_the_slot_is_used_again() -> None:
    out = run(delayed(), count=6)
    assert not any((plane == POISON).all() for frame in out for plane in frame.planes)


class NotFinite(Repeat):
    """Claims that every third picture came out non-finite, until it is asked again."""

    def __init__(self) -> None:
        super().__init__(2)
        self.calls = self.redone = 0

    @property
    def faulty(self) -> Tensor:
        return torch.tensor(self.calls % 3 == 0)

    def __call__(self, rgb: Tensor) -> Tensor:
        self.calls += 1
        right = super().__call__(rgb)
        return right * float("nan") if self.calls % 3 == 0 else right

    def redo(self, rgb: Tensor) -> Tensor:
        self.redone += 1
        return super().__call__(rgb)


@pytest.mark.parametrize("workers", [delayed, plain])
def test_a_picture_that_is_not_finite_is_computed_again(
    workers: Callable[[Repeat], list[Worker]],
) -> None:
    stage = NotFinite()
    assert same(run(workers(stage), count=7), run(plain(), count=7))
    assert stage.redone == 2


class Failing(Repeat):
    def __call__(self, rgb: Tensor) -> Tensor:
        raise MemoryError("no more")


def test_an_error_of_a_stage_comes_out_of_the_stream() -> None:
    with pytest.raises(MemoryError, match="no more"):
        run(plain(Failing(2)))
    with pytest.raises(MemoryError, match="no more"):
        run(delayed(Failing(2)))


def test_alpha_stays_behind() -> None:
    with_alpha = [
        replace(frame, planes=(*frame.planes, frame.planes[0]), layout=replace(LAYOUT, alpha=True))
        for frame in frames(2)
    ]
    out = list(stream(with_alpha, plain()))
    assert [len(frame.planes) for frame in out] == [3, 3]


class Endless:
    """Yields parcels until it is closed; remembers how many were taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> Parcel:
        self.taken += 1
        return Parcel()

    def close(self) -> None:
        self.closed = True


def test_ahead_stays_within_its_bound_and_stops_when_closed() -> None:
    source = Endless()
    with Ahead(source, limit=50, name="test") as ahead:
        next(ahead)
        time.sleep(0.05)
        assert source.taken <= 8  # five fit, one was taken, one waits for room, one is slack
    assert source.closed
    assert not any(thread.name == "vidsr-test" for thread in threading.enumerate())


def test_ahead_lets_one_item_through_that_is_larger_than_its_bound() -> None:
    with Ahead(iter([Parcel(), Parcel()]), limit=1, name="test") as ahead:
        assert len(list(ahead)) == 2


def test_ahead_raises_the_error_of_its_thread_after_what_came_before_it() -> None:
    def source() -> Iterator[Parcel]:
        yield Parcel()
        raise OSError("disk gone")

    with Ahead(source(), limit=100, name="test") as ahead:
        assert isinstance(next(ahead), Parcel)
        with pytest.raises(OSError, match="disk gone"):
            next(ahead)


def test_leaving_early_stops_two_stages_behind_each_other() -> None:
    source = Endless()
    with (
        Ahead(source, limit=50, name="test-one") as one,
        Ahead(stream(one, plain()), limit=50, name="test-two") as two,
    ):
        next(two)
    assert source.closed
    assert not any(t.name.startswith("vidsr-test") for t in threading.enumerate())


# ------------------------------------------------------------------ luma, and frames that lead in


class Chroma(Repeat):
    """Shifts every channel, and says that it changes chroma alone."""

    keeps_luma = True

    def __call__(self, rgb: Tensor) -> Tensor:
        return rgb + torch.tensor([0.1, -0.05, 0.2])[None, :, None, None]


@pytest.mark.parametrize("ours", [LAYOUT, PixelLayout("gray", 8)])
def test_luma_is_copied_where_no_stage_changes_it(ours: PixelLayout) -> None:
    source = ColorConverter(ours, COLOR)
    target = ColorConverter(LAYOUT, COLOR)
    one = Chain(source, [Chroma()], target, LAYOUT, COLOR, HEIGHT, WIDTH)
    assert one.keeps_luma
    luma = torch.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).to(torch.uint8)
    planes = [luma, torch.full((8, 16), 90, dtype=torch.uint8)]
    planes = planes[:1] if ours.model == "gray" else [*planes, planes[1]]
    out = [torch.empty(shape, dtype=torch.uint8) for shape in LAYOUT.plane_shapes(WIDTH, HEIGHT)]
    one.run(planes, out, torch.zeros((), dtype=torch.bool))
    assert torch.equal(out[0], luma)


@pytest.mark.parametrize(
    ("layout", "color"),
    [
        (PixelLayout("yuv", 10, (1, 1)), COLOR),
        (LAYOUT, replace(COLOR, range=Range.FULL)),
        (LAYOUT, replace(COLOR, matrix=Matrix.SMPTE170M)),
        (PixelLayout("rgb", 8), replace(COLOR, matrix=Matrix.RGB, range=Range.FULL)),
    ],
)
def test_luma_that_is_stored_otherwise_is_not_copied(layout: PixelLayout, color: ColorSpec) -> None:
    source, target = ColorConverter(LAYOUT, COLOR), ColorConverter(layout, color)
    assert not Chain(source, [Chroma()], target, layout, color, HEIGHT, WIDTH).keeps_luma


def test_a_stage_that_changes_luma_has_it_computed() -> None:
    assert not chain(Repeat(1)).keeps_luma


def test_frames_that_lead_in_pass_the_stages_and_do_not_come_out() -> None:
    seen: list[Tensor] = []

    class Seeing(Repeat):
        def __call__(self, rgb: Tensor) -> Tensor:
            seen.append(rgb)
            return super().__call__(rgb)

    items = (replace(frame, lead=frame.pts < 12) for frame in frames(7))
    found = list(stream(items, plain(Seeing(1))))
    assert [frame.pts for frame in found] == [12, 15, 18]
    assert len(seen) == 7


class Counting(Repeat):
    """Remembers how many pictures it has seen since it was told to forget."""

    def __init__(self) -> None:
        super().__init__(1)
        self.seen: list[int] = []
        self.since = 0

    def __call__(self, rgb: Tensor) -> Tensor:
        self.since += 1
        self.seen.append(self.since)
        return rgb

    def reset(self) -> None:
        self.since = 0


def test_a_frame_that_restarts_lets_the_stages_forget_before_it() -> None:
    stage = Counting()
    marked = [replace(frame, restart=n in {2, 5}) for n, frame in enumerate(frames(7))]
    assert len(list(stream(marked, plain(stage)))) == 7
    assert stage.seen == [1, 2, 1, 2, 3, 1, 2]


# Reuse: see Note [What did not change]


class Blurred(Repeat):
    """A mean over 3x3 pixels, which computes nothing but the parts it is asked for."""

    def __init__(self) -> None:
        super().__init__(2)
        self.areas: list[int] = []

    def affected(self, changed: Blocks, size: tuple[int, int], beside: int) -> Parts | None:
        return cover(grown(changed, 1 + beside), size, 1)

    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        blurred = super().__call__(F.avg_pool2d(rgb, 3, 1, padding=1))
        self.areas.append(sum(part.area for part in parts or [Rect(0, 0, *rgb.shape[-2:])]))
        if parts is None:
            return blurred
        canvas = torch.full_like(blurred, 7.0)
        for part in parts:
            part.of(canvas, 2)[:] = part.of(blurred, 2)
        return canvas


class Gradual(Repeat):
    """Remembers; so a picture that repeats does not get the same result."""

    holds = False

    def __init__(self) -> None:
        super().__init__(2)
        self.seen = 0

    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        self.seen += 1
        return super().__call__(rgb / self.seen)


def moving_spot(count: int, size: tuple[int, int] = (96, 64)) -> Iterator[Frame]:
    """Noise with a spot of luma, and one of chroma, that move on each second frame."""
    draw = np.random.default_rng(0)
    still = [draw.integers(16, 236, s, dtype=np.uint8) for s in LAYOUT.plane_shapes(*size)]
    for number in range(count):
        planes = tuple(plane.copy() for plane in still)
        place = 3 * (number // 2)
        planes[0][place : place + 3, place : place + 5] = 255
        planes[2][20 - place // 2, 30] = 255
        yield Frame(planes, LAYOUT, COLOR, number, 1, Fraction(1, 25))


def wide(
    stage: Stage, size: tuple[int, int] = (96, 64), out: tuple[int, int] = (192, 128)
) -> Chain:
    stages: list[Stage] = [stage]
    if out != (192, 128):
        stages.append(Resize(out[1], out[0]))
    converter = ColorConverter(LAYOUT, COLOR)
    return Chain(converter, stages, converter, LAYOUT, COLOR, out[1], out[0])


@pytest.mark.parametrize("out", [(192, 128), (150, 101)])
@pytest.mark.parametrize("lanes", ["delayed", "plain", "three workers"])
def test_reuse_changes_no_sample_and_saves_work(lanes: str, out: tuple[int, int]) -> None:
    stages: list[Blurred] = []

    def make() -> Chain:
        stages.append(Blurred())
        return wide(stages[-1], out=out)

    count = 3 if lanes == "three workers" else 1
    workers = (
        [Worker(make(), DelayedLanes())] * 2
        if lanes == "delayed"
        else workers_on(torch.device("cpu"), make, count)
    )
    reference = workers_on(torch.device("cpu"), lambda: wide(Blurred(), out=out), 1)
    ours = list(stream(moving_spot(12), workers, "exact"))
    assert same(ours, list(stream(moving_spot(12), reference)))
    assert [frame.pts for frame in ours] == list(range(12))
    areas = [area for stage in stages for area in stage.areas]
    assert len(areas) == 6  # each second frame repeats
    assert sorted(areas)[-2] < sorted(areas)[-1] == 96 * 64


def test_held_frames_share_their_planes_and_keep_their_own_times() -> None:
    frame = next(moving_spot(1))
    held = [replace(frame, pts=number) for number in range(100)]
    stage = Blurred()
    out = list(stream(held, workers_on(torch.device("cpu"), lambda: wide(stage), 1), "exact"))
    assert len(stage.areas) == 1
    assert [one.pts for one in out] == list(range(100))
    assert all(one.planes[0] is out[0].planes[0] for one in out)


def test_alpha_that_changes_alone_is_each_frame_s_own() -> None:
    frame = next(moving_spot(1))
    masks = [np.full_like(frame.planes[0], number) for number in (0, 100, 255)]
    layout = replace(LAYOUT, alpha=True)
    items = [replace(frame, planes=(*frame.planes, mask), layout=layout) for mask in masks]
    stage = Blurred()
    chain = replace(wide(stage), layout=layout)
    out = list(stream(items, workers_on(torch.device("cpu"), lambda: chain, 1), "exact"))
    assert len(stage.areas) == 1
    assert [len(one.planes) for one in out] == [4, 4, 4]
    assert [set(one.planes[3].flat) for one in out] == [{0}, {100}, {255}]
    assert all(one.planes[3].shape == (128, 192) for one in out)


def test_a_stage_that_remembers_sees_every_frame() -> None:
    stage = Gradual()
    frame = next(moving_spot(1))
    list(stream([frame] * 5, workers_on(torch.device("cpu"), lambda: wide(stage), 1), "exact"))
    assert stage.seen == 5


def test_nothing_is_remembered_across_a_restart() -> None:
    stage = Blurred()
    frame = next(moving_spot(1))
    frames = [frame, frame, replace(frame, restart=True), frame]
    out = list(stream(frames, workers_on(torch.device("cpu"), lambda: wide(stage), 1), "exact"))
    assert len(out) == 4
    assert stage.areas == [96 * 64, 96 * 64]


def test_a_restart_that_leads_in_reaches_the_next_stream() -> None:
    marked = [replace(f, lead=n in {2, 3}, restart=n == 2) for n, f in enumerate(frames(6))]
    out = [frame for frame in stream(marked, plain()) if isinstance(frame, Frame)]
    assert [frame.restart for frame in out] == [False, False, True, False]


def test_runs_of_frames_go_to_one_worker_each() -> None:
    seen: list[list[int]] = []

    class Noting(Repeat):
        def __init__(self) -> None:
            super().__init__(2)
            self.marks: list[int] = []
            seen.append(self.marks)

        def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
            self.marks.append(len(self.marks))
            return super().__call__(rgb)

    workers = workers_on(torch.device("cpu"), lambda: wide(Noting()), 2, run=4)
    assert [worker is workers[0] for worker in workers] == ([True] * 4 + [False] * 4) * 2
    assert len(list(stream(moving_spot(20), workers, "off"))) == 20
    assert [len(marks) for marks in seen] == [12, 8]
