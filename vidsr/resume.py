"""What of a long run is done: the hidden folder beside the output, its lock and its manifest.

Note [Resume]
~~~~~~~~~~~~~
A long run works in segments (Note [Segments]; where they begin: Note [Where a segment begins]).
Their files lie in `.NAME.vidsr/` beside the output, with a manifest that is written anew after each
whole segment. Every file there appears by a rename once it is on the disk, the segment before the
manifest that names it, so that after a kill or a loss of power the manifest never promises more
than there is. What it names is checked again before it is used.

The manifest has three parts beside the list of segments. `identity` must be the same for a run to
go on: the input's size, time and both ends, the models' hashes, versions, what was asked for, what
is written. A difference starts afresh and is said. `engine` and `encoder` are what the plan
resolved by measuring or by what was free at the time; a resumed run takes them from here, since
another precision or tile would change the pictures, and segments encoded otherwise do not join.

The folder is held by a lock of the operating system on a file in it, which ends with the process,
however that ends; no process id, no clock is looked at. It is removed when the output is whole, and
when a run ends that has nothing worth keeping.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from vidsr import __version__
from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.files import locked, put_in_place, settle
from vidsr.frame import Frame
from vidsr.media.boundaries import Boundary, SegmentReader
from vidsr.media.encoders import VideoFormat
from vidsr.media.reader import ReadReport
from vidsr.media.segments import SegmentEncoder, is_whole
from vidsr.models.load import Weights
from vidsr.networks import ColorPlan, EnginePlan
from vidsr.request import Job
from vidsr.stages import Counters

FORMAT = 2  # of the manifest; others are not read
SEGMENT_FRAMES = 250  # x264's own distance of key frames: so the borders cost nothing
FEWEST_FRAMES = 25  # a key frame a second; fewer would cost too many bytes
FEWEST_STEADY = 125  # where color warms up on frames that were colored before
LOST_SECONDS = 600.0  # of work that a segment should hold at most
# Multiplications a second, rough; they only choose a segment's length, so they need not be true.
SPEED = {"cpu": 5e10}
GPU_SPEED = 5e12
END_BYTES = 1 << 20  # of the input's beginning and end that are hashed
_MANIFEST = "manifest.json"
_LOCK = "lock"
_SUFFIX = ".packets"


def segment_frames(engine: EnginePlan, color: ColorPlan | None, size: tuple[int, int]) -> int:
    """Frames of a segment: some minutes of work for slow networks, else `SEGMENT_FRAMES`.

    Args:
        engine: what enlarges, else what colors.
        color: what colors first.
        size: (width, height) of what goes in.
    """
    if color is not None and color.engine is engine:  # the network sees a small picture
        return SEGMENT_FRAMES
    parameters = engine.weights.path.stat().st_size / 4
    speed = SPEED.get(engine.device.partition(":")[0], GPU_SPEED)
    affordable = int(LOST_SECONDS * speed / (parameters * size[0] * size[1]))
    steady = color is not None and color.look.stability > 0
    return max(FEWEST_STEADY if steady else FEWEST_FRAMES, min(affordable, SEGMENT_FRAMES))


# ---------------------------------------------------------------- who it is that goes on


def identity_of(
    job: Job, engine: EnginePlan, color: ColorPlan | None, video: VideoFormat, frames: int
) -> dict[str, Any]:
    """What must be the same for a run to go on where another ended, as plain JSON.

    Args:
        job: what was asked for.
        engine: what enlarges, else what colors.
        color: what colors first.
        video: what is written.
        frames: of a segment.

    Raises:
        MediaError: the input cannot be read.
    """
    asked = _plain(job)
    for name in ("source", "destination", "formats", "overwrite", "strict", "resume", "max_memory"):
        del asked[name]  # another name, care or room for the same pictures
    del asked["engine"]["threads"], asked["encoder"]["threads"]  # kept as they were resolved
    output = _plain(video)
    for name in _ENCODED:
        del output[name]
    reference = color.reference if color is not None else None
    return {
        "versions": {"vidsr": __version__, **{name: version(name) for name in ("torch", "av")}},
        "input": _fingerprint(job.source),
        "model": _weights(engine.weights),
        "color model": None if color is None else _weights(color.engine.weights),
        "reference": None if reference is None else _fingerprint(reference),
        "device": engine.device,
        "asked": asked,
        "output": output,
        "frames of a segment": frames,
    }


def engine_of(engine: EnginePlan) -> dict[str, Any]:
    """What a plan resolved by measuring or by what was free; a resumed run keeps it."""
    return {name: getattr(engine, name) for name in _RESOLVED}


def encoder_of(video: VideoFormat) -> dict[str, Any]:
    """What a plan resolved for the encoder, by what was free too; a resumed run keeps it."""
    return {name: getattr(video, name) for name in _ENCODED}


_RESOLVED = ("kind", "layout", "precision", "tile", "batch", "overlap", "threads", "workers")
_ENCODED = ("options", "threads")


def _fingerprint(path: Path) -> dict[str, Any]:
    """Size, time of the last change, and a hash of both ends, which hold a container's tables."""
    try:
        facts = path.stat()
        with path.open("rb") as file:
            hashed = hashlib.sha256(file.read(END_BYTES))
            file.seek(max(0, facts.st_size - END_BYTES))
            hashed.update(file.read(END_BYTES))
    except OSError as exc:
        raise MediaError(f"{path}: cannot be read ({exc.strerror})") from exc
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256": hashed.hexdigest()}


def _weights(weights: Weights) -> dict[str, Any]:
    twin = weights.twin
    return {
        "sha256": weights.card.sha256,
        "twin": None if twin is None else twin.card.sha256,
        "fidelity": weights.fidelity,
    }


def _plain(value: Any) -> Any:
    """As JSON reads it back: so that what was stored can be compared with what is."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, (Path, Fraction)) else value


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """`asked.encoder.crf was 17, is 20` for everything that is not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {old}, is {new}"


def _why_afresh(old: dict[str, Any], new: dict[str, Any]) -> str:
    if old.get("input") != new["input"]:
        return "the input has changed"
    return "; ".join(_differences(old, new)) or "nothing differs"


# ---------------------------------------------------------------- the manifest


@dataclass(frozen=True)
class Segment:
    """One whole segment."""

    frames: int
    headers: str  # `hash_of` its encoder's extradata
    retiled: int  # counted by the stages up to its end; see `Counters`
    recomputed: int
    computed: float
    next: Boundary | None  # where the segment after it begins; None after the last


@dataclass
class Manifest:
    """What of a run is done."""

    identity: dict[str, Any]
    engine: dict[str, Any]
    encoder: dict[str, Any]
    segments: list[Segment] = field(default_factory=list)
    end: ReadReport | None = None  # once every frame is encoded

    @property
    def frames(self) -> int:
        """Encoded, in whole segments."""
        return sum(segment.frames for segment in self.segments)

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder; on the disk when this returns.

        Raises:
            OSError: the disk refuses.
        """
        part = folder / f"{_MANIFEST}.part"
        text = json.dumps({"format": FORMAT, **_plain(self)}, indent=1)
        part.write_text(text + "\n", encoding="utf-8")
        put_in_place(part, folder / _MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a folder; None if there is none that can be understood."""
        try:
            facts = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                return None
            return cls(
                identity=facts["identity"],
                engine={name: facts["engine"][name] for name in _RESOLVED},
                encoder={name: facts["encoder"][name] for name in _ENCODED},
                segments=[
                    Segment(**{**one, "next": _boundary(one["next"])}) for one in facts["segments"]
                ],
                end=_report(facts["end"]),
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None


def hash_of(extradata: bytes) -> str:
    """What stands for an encoder's headers in a manifest, which is written often."""
    return hashlib.sha256(extradata).hexdigest()


def _boundary(facts: dict[str, Any] | None) -> Boundary | None:
    return None if facts is None else Boundary(**{**facts, "seek": Fraction(facts["seek"])})


def _report(facts: dict[str, Any] | None) -> ReadReport | None:
    if facts is None:
        return None
    first = None if facts["first"] is None else Fraction(facts["first"])
    return ReadReport(**{**facts, "first": first, "last": Fraction(facts["last"])})


# ---------------------------------------------------------------- the folder


def folder_of(destination: Path) -> Path:
    """Where the work for an output lies."""
    return destination.with_name(f".{destination.name}.vidsr")


def frames_kept(destination: Path) -> int:
    """How many frames of an unfinished output are done, by its manifest."""
    manifest = Manifest.read(folder_of(destination))
    return 0 if manifest is None else manifest.frames


def bytes_kept(destination: Path) -> int:
    """How much of an unfinished output lies on the disk already."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder_of(destination).glob(f"*{_SUFFIX}"))
    return 0


class Workplace:
    """A context manager: holds the folder of one output; no other run can meanwhile.

    Leaving it after an error or an interruption keeps whole segments, unless the output turned out
    to be wrong; `clear` and then leaving it removes all.
    """

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.folder = folder_of(destination)
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Make the folder and lock it.

        Raises:
            RequestError: another run holds it.
            MediaError: it cannot be made.
        """
        try:
            while self._lock is None:
                self._lock = self._try_lock()
        except OSError as exc:
            raise MediaError(
                f"{self.destination}: opening the output failed ({exc.strerror})"
            ) from exc
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is not worth keeping, and let the folder go."""
        manifest = Manifest.read(self.folder)
        wrong = isinstance(error, VerificationError)
        self._remove("*.part")
        if wrong or manifest is None or not manifest.segments:
            self.clear()
        if self._lock is not None:
            if not (self.folder / _MANIFEST).exists():
                (self.folder / _LOCK).unlink(missing_ok=True)
            self._lock.close()
        with contextlib.suppress(OSError):  # not empty: kept, or held by the next run already
            self.folder.rmdir()

    def clear(self) -> None:
        """Remove everything of an unfinished run; the output's name must be on the disk before."""
        settle(self.folder.parent)
        (self.folder / _MANIFEST).unlink(missing_ok=True)  # first: it must not promise too much
        self._remove(f"*{_SUFFIX}")

    def begin(
        self, identity: dict[str, Any], engine: dict[str, Any], encoder: dict[str, Any]
    ) -> tuple[Manifest, list[str]]:
        """The manifest to go on with, and why it is a fresh one or differs from what was planned.

        Args:
            identity: of this run; see Note [Resume].
            engine: resolved for this run; what an earlier run resolved takes its place.
            encoder: likewise.
        """
        old, notes = Manifest.read(self.folder), []
        if old is not None and old.identity == identity:
            self._keep_whole(old)
            options = old.encoder["options"]
            if options != encoder["options"]:
                words = " ".join(f"{name}={value}" for name, value in options.items())
                notes = [f"the encoder goes on as it began, with {words}"]
            return old, notes
        if old is not None and old.segments:
            why = _why_afresh(old.identity, identity)
            notes = [f"started afresh, {old.frames} frames of an earlier run not used: {why}"]
        self.clear()
        return Manifest(identity, engine, encoder), notes

    def path_of(self, number: int) -> Path:
        """Of a segment's file."""
        return self.folder / f"{number:06d}{_SUFFIX}"

    def paths(self, manifest: Manifest) -> list[Path]:
        """Of all whole segments' files, in order."""
        return [self.path_of(number) for number in range(len(manifest.segments))]

    def _keep_whole(self, manifest: Manifest) -> None:
        """Forget the first damaged segment and all after it."""
        for number, segment in enumerate(manifest.segments):
            if not is_whole(self.path_of(number), segment.frames):
                del manifest.segments[number:]
                manifest.end = None
                return

    def _remove(self, pattern: str) -> None:
        for path in self.folder.glob(pattern):
            path.unlink(missing_ok=True)

    def _try_lock(self) -> IO[bytes] | None:
        """The lock; None if the folder went away meanwhile."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / _LOCK
        try:
            file = path.open("ab")
        except FileNotFoundError:  # whoever held it has just finished
            return None
        if not locked(file):
            file.close()
            raise RequestError(
                f"{self.destination} is being written by another run; wait for it, or name another "
                "output with -o"
            )
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            file.close()
            return None
        return file


# ---------------------------------------------------------------- frames into segments


class SegmentWriter:
    """A context manager that gives each segment's frames to an encoder of its own.

    Leaving it without `finish` drops the segment that is not whole.
    """

    def __init__(
        self,
        place: Workplace,
        manifest: Manifest,
        reader: SegmentReader,
        *,
        frames: int,
        encoder: Callable[[Path], SegmentEncoder],
        counters: Callable[[], Counters],
    ) -> None:
        """Prepare to go on after the manifest's last segment.

        Args:
            place: where the segments lie.
            manifest: what is done; written anew after each segment.
            reader: that the frames come from; it knows the borders.
            frames: of each segment but the last.
            encoder: makes one that writes a path.
            counters: what the stages of this run have counted so far.
        """
        self.frames = manifest.frames  # given so far, earlier runs included
        self._place = place
        self._manifest = manifest
        self._reader = reader
        self._most = frames
        self._make = encoder
        self._counters = counters
        self._before = manifest.segments[-1] if manifest.segments else None
        self._encoder: SegmentEncoder | None = None
        self._given = 0  # to this encoder
        self._last_pts: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._encoder is not None:
            self._encoder.abandon()

    def write(self, frame: Frame) -> None:
        """Encode a frame, in a new segment where one begins.

        Raises:
            MediaError: the encoder or the disk refuses, or time stands still.
            VerificationError: an encoder lost a frame, or the encoders' headers differ.
        """
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise MediaError(
                f"{self._place.destination}: two frames at pts {frame.pts} "
                f"({float(frame.pts * frame.time_base)} s); the input's timestamps do not increase"
            )
        if self._given == self._most:
            self._close(self._reader.boundaries.pop(self.frames))
        if self._encoder is None:
            self._encoder = self._make(self._place.path_of(len(self._manifest.segments)))
        self._encoder.write(frame)
        self._last_pts = frame.pts
        self._given += 1
        self.frames += 1

    def finish(self, report: ReadReport) -> None:
        """Close the last segment and note that all is encoded.

        Args:
            report: the reader's, complete.

        Raises:
            MediaError: the encoder or the disk refuses, or there was no frame.
            VerificationError: as `write`.
        """
        self._manifest.end = report
        self._close(None)

    def _close(self, border: Boundary | None) -> None:
        if self._encoder is None:  # no frame at all: nothing to keep
            return
        headers = hash_of(self._encoder.finish())
        self._encoder.abandon()
        self._encoder = None
        segments = self._manifest.segments
        if segments and segments[0].headers != headers:
            raise VerificationError(
                f"{self._place.destination}: segment {len(segments)} has other headers than the "
                "first, so they cannot be joined; --no-resume writes in one go"
            )
        now, before = self._counters(), self._before
        segments.append(
            Segment(
                frames=self._given,
                headers=headers,
                retiled=now.retiled + (before.retiled if before else 0),
                recomputed=now.recomputed + (before.recomputed if before else 0),
                computed=now.computed + (before.computed if before else 0.0),
                next=border,
            )
        )
        try:
            self._manifest.write(self._place.folder)
        except OSError as exc:
            raise MediaError(f"{self._place.destination}: writing failed ({exc.strerror})") from exc
        self._given = 0
