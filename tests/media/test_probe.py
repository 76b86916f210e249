"""VideoInfo: what the file says is kept, what it leaves out is guessed by the Note's rules."""

from __future__ import annotations

from fractions import Fraction

import av
import av.logging
import numpy as np
import pytest
from av.stream import Disposition

from vidsr.errors import MediaError
from vidsr.frame import Matrix, PixelLayout, Range, Siting
from vidsr.media.probe import StreamInfo, guess_color, probe

QUARTER_TURN = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]


def write(path, *, size=(64, 48), codec="libx264", pix_fmt="yuv420p", streams=1, prepare=None):
    """Two grey frames in each of `streams` video streams, which `prepare(file, streams)` sets."""
    with av.open(str(path), "w") as file:
        videos = [file.add_stream(codec, rate=24) for _ in range(streams)]
        for video in videos:
            video.width, video.height, video.pix_fmt = *size, pix_fmt
        if prepare:
            prepare(file, videos)
        for video in videos:
            for number in range(2):
                picture = av.VideoFrame(*size, pix_fmt)
                for plane in picture.planes:
                    plane.update(bytes([128]) * plane.buffer_size)
                picture.pts, picture.time_base = number, Fraction(1, 24)
                file.mux(video.encode(picture))
            file.mux(video.encode(None))
    return path


@pytest.mark.parametrize(
    ("size", "matrix"),
    [
        ((1280, 32), Matrix.BT709),
        ((1278, 32), Matrix.SMPTE170M),
        ((32, 578), Matrix.BT709),
        ((720, 576), Matrix.BT470BG),
        ((720, 480), Matrix.SMPTE170M),
        ((64, 48), Matrix.SMPTE170M),
    ],
)
def test_an_untagged_matrix_is_guessed_by_the_size_and_remembered_as_a_guess(
    tmp_path, size, matrix
):
    color = probe(write(tmp_path / "clip.mp4", size=size)).color
    assert color.matrix == matrix
    assert color.range == Range.LIMITED
    assert color.guessed >= {"matrix", "range", "primaries", "transfer"}
    assert 2 not in (color.primaries, color.transfer)  # never "unspecified" past the reader


def test_bt2020_is_never_guessed():
    layout = PixelLayout("yuv", 10, (1, 1))
    sizes = [(320, 240), (720, 576), (1920, 1080), (7680, 4320)]
    assert {guess_color(*size, layout).matrix for size in sizes}.isdisjoint(
        {Matrix.BT2020_NCL, Matrix.BT2020_CL}
    )


@pytest.mark.parametrize(
    ("params", "tags"),
    [
        ("colormatrix=bt709:colorprim=bt709:transfer=bt709:fullrange=off", (1, 1, 1, 1)),
        ("colormatrix=bt470bg:colorprim=bt470bg:transfer=bt470bg:fullrange=off", (5, 5, 5, 1)),
        ("colormatrix=bt2020nc:colorprim=bt2020:transfer=smpte2084:fullrange=on", (9, 9, 16, 2)),
        ("colormatrix=fcc:colorprim=film:transfer=linear:fullrange=on", (4, 8, 8, 2)),
    ],
)
def test_a_tagged_colour_is_kept_and_is_no_guess(make_clip, params, tags):
    color = probe(make_clip(options={"x264-params": params})).color
    assert (color.matrix, color.primaries, color.transfer, color.range) == tags
    assert not color.guessed


def test_what_only_the_container_says_is_kept(make_clip):
    tags = {"colorspace": "smpte240m", "color_primaries": "smpte240m", "color_range": "pc"}
    color = probe(make_clip("clip.mkv", codec="ffv1", options=tags)).color
    assert (color.matrix, color.primaries, color.range) == (Matrix.SMPTE240M, 7, Range.FULL)
    assert color.guessed & {"matrix", "primaries", "range"} == set()


def test_yuvj_is_full_range_and_jpeg_siting_is_the_centre(make_clip):
    info = probe(make_clip("clip.mkv", codec="mjpeg", pix_fmt="yuvj420p", options={"q": "2"}))
    assert info.color.range == Range.FULL
    assert info.color.siting == Siting.CENTER


@pytest.mark.parametrize("pix_fmt", ["bgr0", "gbrp10le"])
def test_rgb_is_full_range_with_the_rgb_matrix(make_clip, pix_fmt):
    info = probe(make_clip("clip.mkv", codec="ffv1", pix_fmt=pix_fmt))
    assert info.layout.model == "rgb"
    assert (info.color.matrix, info.color.range) == (Matrix.RGB, Range.FULL)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize("siting", [siting for siting in Siting if siting])
def test_the_siting_is_read_from_h264(make_clip, name, siting):
    clip = make_clip(name, options={"x264-params": f"chromaloc={siting - 1}"})
    color = probe(clip).color
    assert color.siting == siting
    assert "siting" not in color.guessed


def test_bt2020_without_a_siting_is_sited_top_left(make_clip):
    clip = make_clip("clip.mkv", codec="ffv1", options={"colorspace": "bt2020nc"})
    color = probe(clip).color
    assert color.siting == Siting.TOPLEFT
    assert "siting" in color.guessed


def test_a_title_that_looks_like_a_stream_does_not_mislead(tmp_path):
    def prepare(file, videos):
        file.metadata["title"] = "Stream #0:0[ fake, yuv420p(tv, topleft), 640x480, bottom first"

    info = probe(write(tmp_path / "clip.mkv", prepare=prepare))
    assert info.color.siting == Siting.LEFT
    assert info.top_field_first


def test_a_quarter_turn_swaps_the_displayed_sides(tmp_path):
    def prepare(file, videos):
        videos[0].set_display_matrix(QUARTER_TURN)

    info = probe(write(tmp_path / "clip.mp4", prepare=prepare))
    assert info.display_matrix == tuple(QUARTER_TURN)
    assert info.rotation % 180 == 90
    assert (info.width, info.height) == (64, 48)
    assert info.displayed_size == (48, 64)


def test_no_display_matrix_is_no_rotation(make_clip):
    info = probe(make_clip())
    assert (info.display_matrix, info.rotation) == (None, 0)


@pytest.mark.parametrize(
    ("aspect", "displayed"),
    [(Fraction(32, 27), (76, 48)), (Fraction(8, 9), (57, 48)), (Fraction(1), (64, 48))],
)
def test_the_sample_aspect_is_read_and_widens_the_display(tmp_path, aspect, displayed):
    def prepare(file, videos):
        videos[0].codec_context.sample_aspect_ratio = aspect

    info = probe(write(tmp_path / "clip.mkv", prepare=prepare))
    assert info.sample_aspect == aspect
    assert info.displayed_size == displayed


@pytest.mark.parametrize(("params", "top_first"), [("tff=1", True), ("bff=1", False)])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_the_field_order_is_read(make_clip, name, params, top_first):
    options = {"flags": "+ildct+ilme", "x264-params": params}
    info = probe(make_clip(name, size=(64, 64), options=options))
    assert info.interlaced
    assert info.top_field_first is top_first


def test_a_progressive_clip_is_not_interlaced(make_clip):
    assert not probe(make_clip()).interlaced


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        probe(tmp_path / "absent.mp4")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(MediaError, match="is a directory"):
        probe(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(MediaError, match="is empty"):
        probe(path)


def test_text_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("not a video\n" * 100)
    with pytest.raises(MediaError, match=r"reading failed \(") as caught:
        probe(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_video_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w") as file:
        sound = file.add_stream("aac", rate=48000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        tone.sample_rate = 48000
        file.mux(sound.encode(tone))
        file.mux(sound.encode(None))
    with pytest.raises(MediaError, match="no video to process; it holds audio"):
        probe(path)


def test_a_stream_that_is_no_video_cannot_be_chosen(make_clip):
    with pytest.raises(MediaError, match="no video to process"):
        probe(make_clip(audio=True), video=1)


def test_the_default_video_is_processed_and_another_can_be_chosen(tmp_path):
    def prepare(file, videos):
        videos[0].disposition = Disposition(0)
        videos[1].disposition = Disposition.default

    path = write(tmp_path / "clip.mkv", streams=2, prepare=prepare)
    assert probe(path).video == 1
    assert probe(path, video=0).video == 0


@pytest.mark.parametrize("cover", [0, 1])
def test_a_cover_picture_is_never_processed(tmp_path, cover):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        videos = [file.add_stream("png" if n == cover else "libx264", rate=24) for n in (0, 1)]
        for number, video in enumerate(videos):
            video.width, video.height = 64, 48
            video.pix_fmt = "rgb24" if number == cover else "yuv420p"
        videos[cover].disposition = Disposition.attached_pic
        for video in videos:
            file.mux(video.encode(av.VideoFrame(64, 48, video.pix_fmt)))
            file.mux(video.encode(None))
    info = probe(path)
    # mp4 puts covers last.
    assert sorted(stream.cover for stream in info.streams) == [False, True]
    assert info.video_stream.codec == "h264"
    assert str(next(s for s in info.streams if s.cover)) == "stream 1 (cover, png)"


def test_languages_and_titles_of_streams_are_read(tmp_path):
    def prepare(file, videos):
        videos[0].metadata.update({"language": "jpn", "title": "Director's cut"})

    stream = probe(write(tmp_path / "clip.mkv", prepare=prepare)).video_stream
    assert (stream.language, stream.title) == ("jpn", "Director's cut")
    assert str(stream) == "stream 0 (video, h264, jpn)"


def test_a_stream_of_an_unknown_codec_has_words_too():
    stream = StreamInfo(3, "data", None, None, None, cover=False)
    assert str(stream) == "stream 3 (data, unknown codec)"


def test_the_common_clock_holds_the_ticks_of_every_stream(make_clip):
    info = probe(make_clip(audio=True))
    assert info.common_clock % info.time_base.denominator == 0
    assert info.common_clock % 48000 == 0


def test_header_figures_are_read(make_clip):
    info = probe(make_clip(frames=12))
    assert info.frames_from_header == 12
    assert info.seconds_from_header == pytest.approx(0.5)
    assert info.frame_rate == 24
    assert (info.width, info.height, info.pix_fmt) == (48, 32, "yuv420p")
    assert info.container.startswith("mov,mp4")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov"])
def test_a_clock_that_begins_at_zero_does_so_in_spite_of_reordered_frames(make_clip, name):
    clip = make_clip(name, options={"crf": "20", "bf": "2", "x264-params": "b-adapt=0"})
    assert probe(clip).start_seconds == 0


def test_a_clock_before_an_edit_list_begins_at_zero(clips):
    assert probe(clips / "awkward/edit_list_start.mp4").start_seconds == 0


def test_where_a_clock_begins_is_exact(make_clip):
    first = 133505  # FFmpeg rounds it up to a whole microsecond, past the first frame
    pts = [first + 3750 * number for number in range(4)]
    clip = make_clip("clip.ts", frames=4, pts=pts, time_base=Fraction(1, 90000))
    assert probe(clip).start_seconds == Fraction(first, 90000)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4", "clip.ts"])
def test_a_film_is_as_long_wherever_its_clock_begins(make_clip, name):
    info = probe(make_clip(name, frames=24, pts=[*range(240, 264)]))
    assert (info.start_seconds, info.seconds_from_header) == (10, 1)


def test_a_lead_in_before_zero_is_not_taken_for_the_beginning(tmp_path, make_clip):
    clip, early = make_clip(audio=True), tmp_path / "early.mkv"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(clip)) as source, av.open(str(early), "w", options=options) as file:
        streams = [file.add_stream_from_template(stream) for stream in source.streams]
        for packet in (packet for packet in source.demux() if packet.size):
            lead_in = 1024 if packet.stream_index == 1 else 0
            packet.pts, packet.dts = packet.pts - lead_in, packet.dts - lead_in
            packet.stream = streams[packet.stream_index]
            file.mux(packet)
    with av.open(str(early)) as file:
        assert file.start_time < 0  # else this file no longer shows the trap
    assert probe(early).start_seconds == 0


def test_latin_1_tags_do_not_keep_a_file_from_being_read(tmp_path):
    def prepare(file, videos):
        file.metadata["title"] = "Cafe~"
        videos[0].metadata["title"] = "Gro~e"

    path = write(tmp_path / "clip.mkv", prepare=prepare)
    old = path.read_bytes()
    path.write_bytes(old.replace(b"Cafe~", b"Cafe\xe9").replace(b"Gro~e", b"Gro\xdfe"))
    assert probe(path).video_stream.title == "Große"


def test_the_log_level_of_the_process_is_left_alone(make_clip):
    clip = make_clip()
    before = av.logging.get_level()
    probe(clip)
    assert av.logging.get_level() == before
