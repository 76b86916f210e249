"""Text subtitles in another container's format: the same words at the same time."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import av
import pytest
from identity import FAST, pass_through

from vidsr.frame import Frame
from vidsr.media.encoders import EncoderRequest, choose_format
from vidsr.media.probe import probe
from vidsr.media.reader import Trim, VideoReader
from vidsr.media.subtitles import SubtitleConverter, encoder_for
from vidsr.planning import choose_container

MS = Fraction(1, 1000)
VP9 = EncoderRequest(encoder="libvpx-vp9", preset="8", threads=1)
HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Bold, Italic, Underline, Alignment
Style: Default,Arial,20,&Hffffff,0,0,0,2
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


@pytest.fixture
def make_film(tmp_path):
    """A film of two seconds with cues: (start, duration, data), in milliseconds."""

    def make(cues, *, codec="subrip", name="film.mkv"):
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            video = file.add_stream("libx264", rate=4, options={"crf": "20"})
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            text = file.add_stream(codec)
            text.time_base = MS
            text.codec_context.subtitle_header = HEADER
            text.metadata.update(language="ger", title="Untertitel")
            text.disposition = av.stream.Disposition.forced
            for number in range(8):
                picture = av.VideoFrame(64, 64, "yuv420p")
                picture.pts = number
                file.mux(video.encode(picture))
            for start, duration, data in cues:
                packet = av.Packet(data)
                packet.pts = packet.dts = start
                packet.duration, packet.time_base, packet.stream = duration, MS, text
                file.mux(packet)
            file.mux(video.encode(None))
        return path

    return make


def convert(source, path, *, encoder=FAST, trim=None):
    """Reader and writer with the tracks that planning decides; also its notes."""
    info = probe(source)
    video, _ = choose_format(info, (info.width, info.height), encoder)
    place, tracks, notes = choose_container(info, path, explicit=True, video=video)
    assert place == path
    converted = {t.stream.index: t.codec for t in tracks if t.action == "convert"}
    passage = pass_through(source, path, encoder=encoder, trim=trim, convert=converted)
    return passage, notes


def cues_of(path):
    """(start, end, text without tags) of every cue that shows something, by FFmpeg's decoder."""
    cues = []
    with av.open(str(path)) as file:
        for packet in file.demux(subtitles=0):
            decoded = packet.stream.decode2(packet) if packet.size else None
            for rect in decoded.rects if decoded else ():
                start = packet.pts * packet.time_base
                text = rect.ass.decode().split(",", 8)[-1]
                cues.append((start, start + packet.duration * packet.time_base, text))
    return cues


def at(*ticks):
    return tuple(tick * MS for tick in ticks)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.m4v"])
def test_subrip_becomes_mov_text_at_the_same_time(make_film, tmp_path, name):
    film = make_film(
        [(123, 400, b"first"), (523, 301, "zwei\nZeilen ü".encode()), (1500, 250, b"x")]
    )
    passage, notes = convert(film, tmp_path / name)
    assert cues_of(tmp_path / name) == [
        (*at(123, 523), "first"),
        (*at(523, 824), "zwei\\NZeilen ü"),
        (*at(1500, 1750), "x"),
    ]
    assert passage.written.copied == {1: 3}
    assert notes == [
        "stream 1 (subtitle, subrip, ger) becomes mov_text: text, bold, italic, underline, "
        "colors and sizes are kept, other style is not"
    ]


@pytest.mark.parametrize(
    ("start", "end", "kept"),
    [
        (None, None, [(0, 900, "a"), (1000, 1800, "b"), (1900, 1950, "c")]),
        (500, 1500, [(0, 400, "a"), (500, 1000, "b")]),
        (900, 1000, []),  # half-open at both ends
        (Fraction(1000, 3), None, [(1, 567, "a"), (667, 1467, "b"), (1567, 1617, "c")]),
        (None, 1940, [(0, 900, "a"), (1000, 1800, "b"), (1900, 1940, "c")]),
    ],
)
def test_a_trim_cuts_the_subtitles_that_reach_across_it(make_film, start, end, kept):
    film = make_film([(0, 900, b"a"), (1000, 800, b"b"), (1900, 50, b"c")])
    trim = Trim(*(None if moment is None else moment * MS for moment in (start, end)))
    reader = VideoReader(probe(film), copied=(1,), threads=1, trim=trim)
    packets = [item for item in reader if not isinstance(item, Frame)]
    assert [(p.pts, p.pts + p.duration, bytes(p).decode()) for p in packets] == kept
    assert all(packet.dts == packet.pts for packet in packets)


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_a_subtitle_across_the_end_makes_no_file_longer(make_film, tmp_path, name):
    film, trim = make_film([(200, 1800, b"word")]), Trim(500 * MS, 1500 * MS)
    convert(film, tmp_path / name, trim=trim)
    assert cues_of(tmp_path / name) == [(*at(0, 1000), "word")]
    with av.open(str(tmp_path / name)) as file:
        assert file.duration == 1_000_000


def test_language_title_and_disposition_come_along(make_film, tmp_path):
    convert(make_film([(0, 400, b"word")]), tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").streams[1].title == "Untertitel"
    with av.open(str(tmp_path / "out.mp4")) as file:
        text = file.streams.subtitles[0]
        assert text.codec_context.codec.canonical_name == "mov_text"
        assert text.language == "ger"
        assert text.disposition & av.stream.Disposition.forced


def test_bold_italic_underline_and_colors_are_kept(make_film, tmp_path):
    marked = b'<b>bold</b> <i>slanted</i> <u>lined</u> <font color="#ff0000">red</font>'
    convert(make_film([(0, 400, marked)]), tmp_path / "out.mp4")
    ((_, _, text),) = cues_of(tmp_path / "out.mp4")
    assert text == "{\\b1}bold{\\r} {\\i1}slanted{\\r} {\\u1}lined{\\r} {\\1c&HFF&}red"


def test_cues_that_overlap_are_shown_together_and_apart(make_film, tmp_path):
    film = make_film(
        [(100, 900, b'<font color="#ff0000"><i>long'), (300, 200, b"short"), (700, 600, b"late")]
    )
    convert(film, tmp_path / "out.mp4")
    assert cues_of(tmp_path / "out.mp4") == [
        (*at(100, 300), "{\\i1}{\\1c&HFF&}long"),
        (*at(300, 500), "{\\i1}{\\1c&HFF&}long{\\r}\\Nshort"),
        (*at(500, 700), "{\\i1}{\\1c&HFF&}long"),
        (*at(700, 1000), "{\\i1}{\\1c&HFF&}long{\\r}\\Nlate"),
        (*at(1000, 1300), "late"),
    ]


def test_a_cue_without_a_duration_lasts_until_the_next_and_the_last_five_seconds(make_film):
    with av.open(str(make_film([]))) as film, av.open(io.BytesIO(), "w", format="mp4") as out:
        converter = SubtitleConverter(film.streams.subtitles[0], out.add_stream("mov_text"))
        made = []
        for start in (100, 800):
            packet = av.Packet(b"open")
            packet.pts, packet.duration, packet.time_base = start, 0, MS
            made += converter.push(packet)
        made += converter.drain()
        assert [(p.pts, p.duration, p.time_base) for p in made] == [
            (100, 700, MS),
            (800, 5000, MS),
        ]


def test_ass_loses_its_drawings_and_that_is_counted(make_film, tmp_path):
    film = make_film(
        [
            (0, 500, b"0,0,Default,,0,0,0,,{\\pos(9,9)}words, with commas"),
            (600, 500, b"1,0,Default,,0,0,0,,{\\p1}m 0 0 l 9 9{\\p0}"),
        ],
        codec="ass",
    )
    passage, _ = convert(film, tmp_path / "out.mp4")
    assert cues_of(tmp_path / "out.mp4") == [(*at(0, 500), "words, with commas")]
    assert passage.written.wordless == {1: 1}


def test_mov_text_becomes_subrip_in_matroska(make_film, tmp_path):
    film = make_film([(123, 400, b"<b>first</b>"), (900, 301, b"second")])
    convert(film, tmp_path / "middle.mp4")
    convert(tmp_path / "middle.mp4", tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as file:
        (text,) = file.streams.subtitles
        packets = [(p.pts, p.duration, bytes(p)) for p in file.demux(text) if p.size]
        assert text.codec_context.codec.canonical_name == "subrip"
    assert packets == [(123, 400, b"<b>first</b>"), (900, 301, b"second")]


def test_subrip_becomes_webvtt_in_webm(make_film, tmp_path):
    film = make_film([(123, 400, b"<i>first</i>"), (300, 301, b"over it")])
    convert(film, tmp_path / "out.webm", encoder=VP9)
    assert cues_of(tmp_path / "out.webm") == [
        (*at(123, 523), "{\\i1}first{\\i0}"),
        (*at(300, 601), "over it"),
    ]


def test_an_input_without_a_word_keeps_its_container(make_film, tmp_path):
    passage, _ = convert(make_film([]), tmp_path / "out.mp4")
    assert passage.written.copied == {}
    assert len(probe(tmp_path / "out.mp4").streams) == 2 - len(passage.written.empty)


def test_real_subtitles_of_two_kinds_fit_into_mp4(clips, tmp_path):
    source = clips / "awkward/two_audio_two_subs_attachment.mkv"
    info = probe(source)
    keep = replace(info, streams=tuple(s for s in info.streams if s.kind != "attachment"))
    video, _ = choose_format(info, (info.width, info.height), FAST)
    _, tracks, _ = choose_container(keep, tmp_path / "out.mp4", explicit=True, video=video)
    converted = {t.stream.index: t.codec for t in tracks if t.action == "convert"}
    assert converted == {3: "mov_text", 4: "mov_text"}
    pass_through(source, tmp_path / "out.mp4", info=keep, convert=converted)
    with av.open(str(tmp_path / "out.mp4")) as file:
        texts = [
            (packet.pts * packet.time_base, bytes(packet)[2:])
            for packet in file.demux(file.streams.subtitles)
            if packet.size > 2
        ]
    assert texts == [(23 * MS, b"first line"), (23 * MS, b"styled")]


def test_what_is_no_text_is_not_converted():
    assert encoder_for("mp4", "hdmv_pgs_subtitle") is None
    assert encoder_for("mpegts", "subrip") is None
    assert encoder_for("mp4", None) is None


def test_a_title_survives_from_mp4_to_mp4_and_to_matroska(make_film, tmp_path):
    convert(make_film([(0, 400, b"word")]), tmp_path / "out.mp4")
    for name in ("again.mp4", "again.mkv"):
        convert(tmp_path / "out.mp4", tmp_path / name)
        assert probe(tmp_path / name).streams[1].title == "Untertitel"
