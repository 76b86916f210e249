"""Every real clip through reader and writer: nothing is lost but what is named."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import pytest
from identity import FAST, frames_of, packets_of, pass_through

from vidsr.errors import MediaError, VidsrError
from vidsr.media.encoders import choose_format
from vidsr.media.probe import probe
from vidsr.media.reader import Trim, VideoReader
from vidsr.media.verify import compare
from vidsr.planning import choose_container

# Whole files, none above five seconds.
WHOLE = (
    "real/again.mkv",
    "real/bbb_176x144_192kbps_15fps_mpeg4.mp4",
    "real/bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4",
    "real/bbb_960x540_60fps_vp8.webm",
    "real/book.mkv",
    "real/sample_with_increasing_timestamps_320w_240h_5s.mp4",
    "awkward/bbb_176x144_128kbps_15fps_h263.3gp",
    "awkward/bt601.mov",
    "awkward/edit_list_start.mp4",
    "awkward/fullrange_yuvj.mp4",
    "awkward/gray8_ffv1.mkv",
    "awkward/h265_with_metadata_track.mp4",
    "awkward/hdr10_pq_bt2020.mp4",
    "awkward/hlg10-color-test.mp4",
    "awkward/interlaced_480i_sar32-27.mp4",
    "awkward/odd_641x359_yuv444.mp4",
    "awkward/prores_422_10_321x181.mov",
    "awkward/rotate90_tag.mp4",
    "awkward/sample.avi",
    "awkward/sample.flv",
    "awkward/sample_fpcm_32le.mp4",
    "awkward/sample_fragmented.mp4",
    "awkward/sample_h265.ts",
    "awkward/sample_portrait.mp4",
    "awkward/sample_rotate_and_reflect.mp4",
    "awkward/sample_with_ass_subtitles.mkv",
    "awkward/sample_with_chapters.mkv",
    "awkward/sample_with_metadata.mp4",
    "awkward/sample_with_pgs_subtitles.mkv",
    "awkward/single_frame.mp4",
    "awkward/two_audio_two_subs_attachment.mkv",
    "awkward/vfr_30_then_10.mp4",
)
# Long or large ones: half a second of each, across no key frame in particular.
LONG = {
    "real/bottle-detection.mp4": Fraction(39, 4),
    "real/friday.mp4": Fraction(3),
    "real/nasa_13013.mp4": Fraction(6),
    "real/steamboat.mp4": Fraction(13),
    "real/tears-of-steel-battle-clip-medium.webm": Fraction(33),
    "awkward/edit_list_positive_shift.mp4": Fraction(2),
}
LARGE = 700 * 500  # pixels; these are not doubled, to keep this short
READABLE_BROKEN = {
    "bitflips.mkv",
    "invalid_EBML_ElementDataSize_in_EBMLHeader.mkv",
    "invalid_boolean.mkv",
    "level_0_crc.mkv",
    "no_DocType.mkv",
    "sample_missing_stsd.mp4",
    "truncated_60pct.mkv",
}
UNREADABLE = {
    "empty.mp4",
    "sample_malformed_free_box.mp4",
    "text_named.mp4",
    "truncated_no_moov.mp4",
}


def through(source, folder, *, trim=None):
    """Reader, samples doubled, writer, as the product does it; also which streams were dropped."""
    info = probe(source)
    scale = 1 if info.width * info.height > LARGE else 2
    video, _ = choose_format(info, (scale * info.width, scale * info.height), FAST)
    video = replace(video, sample_aspect=info.sample_aspect)
    path, tracks, _ = choose_container(info, folder / source.name, explicit=False, video=video)
    dropped = frozenset(track.stream.index for track in tracks if track.action == "drop")
    return path, dropped, pass_through(source, path, scale=scale, trim=trim, drop=dropped)


def test_every_clip_is_tried(clips):
    tried = {*WHOLE, *LONG, "awkward/audio_only.m4a"}
    assert tried == {
        f"{f.parent.name}/{f.name}" for d in ("real", "awkward") for f in (clips / d).iterdir()
    }
    assert {f.name for f in (clips / "broken").iterdir()} == READABLE_BROKEN | UNREADABLE


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_clip_loses_nothing(clips, tmp_path, name):
    path, dropped, passage = through(clips / name, tmp_path)
    differing = [check for check in compare(clips / name, path, dropped=dropped) if not check.equal]
    assert differing == []
    assert passage.read.frames == passage.written.frames
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    # A track without a codec that FFmpeg knows is the only thing that is ever left out.
    unknown = {s.index for s in probe(clips / name).streams if s.codec is None}
    assert dropped == unknown


def cues_of(path, index):
    """When each packet of a subtitle stream appears and goes, in seconds."""
    with av.open(str(path)) as file:
        stream = file.streams[index]
        return [
            (packet.pts * stream.time_base, (packet.pts + packet.duration) * stream.time_base)
            for packet in file.demux(stream)
            if packet.size
        ]


@pytest.mark.parametrize("name", LONG)
def test_a_piece_of_a_long_clip_has_exactly_its_frames_and_packets(clips, tmp_path, name):
    trim = Trim(LONG[name], LONG[name] + Fraction(1, 2))
    source = clips / name
    path, dropped, passage = through(source, tmp_path, trim=trim)
    info, written = probe(source), probe(path)
    # All of them from PyAV alone: in range, shifted by the start as every stream is.
    shift = trim.shift(info.time_base) * info.time_base
    expected = [
        moment - shift
        for moment in sorted(moment for moment, _ in packets_of(source, info.video))
        if trim.holds(moment)
    ]
    found = [frame.pts * frame.time_base for frame in frames_of(path)]
    exact = info.time_base % written.time_base == 0
    allowed = 0 if exact else written.time_base / 2  # one rounding, of the container
    assert len(found) == len(expected) > 0
    assert max(abs(a - b) for a, b in zip(expected, found, strict=True)) <= allowed
    for index, count in passage.read.copied.items():
        kind = info.streams[index].kind
        if kind == "subtitle":
            assert count == sum(
                end > trim.start and begin < trim.end for begin, end in cues_of(source, index)
            )
        elif kind != "video":  # this one begins with its next key frame
            assert count == sum(trim.holds(moment) for moment, _ in packets_of(source, index))
    assert (written.color.matrix, written.color.range) == (info.color.matrix, info.color.range)
    assert "matrix" not in written.color.guessed
    left_out = {*dropped, *passage.written.empty}
    assert len(written.streams) == len(info.streams) - len(left_out)


def test_sound_alone_is_refused(clips):
    with pytest.raises(MediaError, match="no video to process; it holds audio"):
        probe(clips / "awkward/audio_only.m4a")


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_what_cannot_be_read_is_refused_in_one_sentence(clips, name):
    with pytest.raises(MediaError, match=name) as caught:
        probe(clips / "broken" / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(READABLE_BROKEN))
def test_a_broken_clip_is_read_to_its_end_and_written_whole_or_not_at_all(clips, tmp_path, name):
    source = clips / "broken" / name
    info = probe(source)
    known = tuple(s.index for s in info.streams if s.codec and s.index != info.video)
    reader = VideoReader(info, copied=known, threads=1)
    for _ in reader:
        pass
    assert reader.report.frames > 0
    unknown = {stream.index for stream in info.streams if stream.codec is None}
    path = tmp_path / f"out{source.suffix}"
    ffv1 = replace(FAST, encoder="ffv1", preset=None) if info.layout.model == "rgb" else FAST
    try:
        pass_through(source, path, encoder=ffv1, drop=unknown)
    except VidsrError:
        assert list(tmp_path.iterdir()) == []
    else:
        assert len(frames_of(path)) == reader.report.frames
