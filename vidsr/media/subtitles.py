"""Text subtitles of one format -> those of another container, with FFmpeg's decoders and encoders.

Note [What a converted subtitle keeps]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
Words, line breaks, and each cue's start and end in the input's own ticks. Bold, italic and
underline everywhere; colors and sizes in mov_text and subrip. Drawings are taken out, since their
coordinates would be shown as words; positions, effects and the default style are lost.

A sample of mp4's timed text (3GPP TS 26.245) lasts until the next one begins, so two cues cannot
overlap: they are cut where one begins or ends, and what is on the screen at one time is one sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

CONVERTIBLE = {"subrip", "ass", "mov_text", "webvtt", "text"}
ENCODERS = {  # by muxer
    "mp4": "mov_text",
    "mov": "mov_text",
    "3gp": "mov_text",
    "matroska": "subrip",
    "webm": "webvtt",
}
KEPT = {
    "mov_text": "text, bold, italic, underline, colors and sizes",
    "subrip": "text, bold, italic, underline, colors and sizes",
    "webvtt": "text, bold, italic and underline",
}
OPEN_ENDED = Fraction(5)  # seconds that the last cue is shown if nothing says how long


def encoder_for(muxer: str, codec: str | None) -> str | None:
    """What a container writes a text subtitle as that it cannot hold as it is, if it can at all."""
    return ENCODERS.get(muxer) if codec in CONVERTIBLE else None


@dataclass
class _Cue:
    start: int  # ticks of the input, as below
    end: int | None  # None: until the next one
    event: str  # ASS: ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text


class SubtitleConverter:
    """Packets of a text subtitle stream -> packets of another codec."""

    def __init__(self, template: Any, stream: Any) -> None:
        """Prepare to convert packets of `template`, an input's stream, for `stream`, an output's.

        Before the output's header is written: the encoder takes the styles from the input.

        Raises:
            av.error.FFmpegError: the decoder refuses the stream's own header.
        """
        source = template.codec_context
        decoder = av.CodecContext.create(source.codec.canonical_name, "r")
        assert isinstance(decoder, SubtitleCodecContext)
        decoder.extradata = source.extradata
        decoder.open()
        self._decoder = decoder
        self._encoder: SubtitleCodecContext = stream.codec_context
        self._encoder.subtitle_header = decoder.subtitle_header
        self._stream = stream
        self._time_base: Fraction = template.time_base
        self._fields = _fields_of((decoder.subtitle_header or b"").decode(errors="replace"))
        self._overlaps = self._encoder.codec.canonical_name != "mov_text"
        self._shown: list[_Cue] = []  # at `_moment`
        self._moment = 0
        self.wordless = 0  # cues without words (drawings), or that could not be decoded

    def push(self, packet: Any) -> Iterator[Any]:
        """Give a packet; get those that are ready, with their stream and time set."""
        start = self._moment if packet.pts is None else packet.pts
        events = self._decode(packet)
        if not events:
            return
        cue = _Cue(start, start + packet.duration if packet.duration else None, _joined(events))
        if self._overlaps:
            yield from self._encode([cue], start, packet.duration or 0)
            return
        for shown in self._shown:
            shown.end = start if shown.end is None else shown.end
        yield from self._until(start)
        self._shown.append(cue)

    def drain(self) -> Iterator[Any]:
        """Get the last ones."""
        for cue in self._shown:
            cue.end = cue.end or cue.start + round(OPEN_ENDED / self._time_base)
        yield from self._until(max((cue.end or 0 for cue in self._shown), default=0))

    def _until(self, moment: int) -> Iterator[Any]:
        """What is shown from where we are to a moment, a packet for each change."""
        while self._shown and self._moment < moment:
            end = min(moment, *(cue.end for cue in self._shown if cue.end is not None))
            yield from self._encode(self._shown, self._moment, end - self._moment)
            self._shown = [cue for cue in self._shown if cue.end is None or cue.end > end]
            self._moment = end
        self._moment = max(self._moment, moment)

    def _decode(self, packet: Any) -> list[str]:
        try:
            decoded = self._decoder.decode2(packet)
        except av.error.FFmpegError:
            self.wordless += 1
            return []
        rects = decoded.rects if decoded is not None else ()
        lines = [rect.ass for rect in rects if isinstance(rect, AssSubtitle)]
        return [_standard(line.decode(errors="replace"), self._fields) for line in lines]

    def _encode(self, cues: list[_Cue], start: int, duration: int) -> Iterator[Any]:
        event = _joined(cue.event for cue in cues)
        packet = self._encoder.encode_subtitle(SubtitleSet.create(event.encode(), 0, 1))
        if not packet.size:
            self.wordless += 1
            return
        packet.pts = packet.dts = start
        packet.duration, packet.time_base = duration, self._time_base
        packet.stream = self._stream
        yield packet


def _fields_of(header: str) -> int:
    """How many fields an event has in a packet, by the [Events] section of an ASS header."""
    named = re.search(r"^Format:(.*)$", header.partition("[Events]")[2], re.MULTILINE)
    # Start and End are the packet's own; its order in the script comes in front.
    return len(named[1].split(",")) - 1 if named else 9


def _standard(event: str, fields: int) -> str:
    """An event with the nine fields and the tags that FFmpeg's encoders expect."""
    given = event.split(",", min(9, max(1, fields)) - 1)
    head = given[:-1] if len(given) == 9 else ["0", "0", "Default", "", "0", "0", "0", ""]
    text = _TAGS.sub(lambda tags: _PRIMARY.sub(r"\\1c", tags[0]), _DRAWING.sub("", given[-1]))
    return ",".join([*head, text])


_TAGS = re.compile(r"\{[^}]*\}")
_DRAWING = re.compile(r"\{[^}]*\\p[1-9].*?(\{[^}]*\\p0[^}]*\}|$)")
_PRIMARY = re.compile(r"\\c(?=[&\\}])")  # the mov_text encoder knows only its other name, 1c


def _joined(events: Iterable[str]) -> str:
    """One event of several, below each other; what one of them sets ends with it."""
    first, *others = events
    texts = [other.split(",", 8)[-1] for other in others]
    # By name as well: the mov_text encoder's \r ends colors and sizes alone.
    return r"{\b0\i0\u0\r}\N".join([first, *texts])
