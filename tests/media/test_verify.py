"""compare: silent about a faithful copy, and not about anything else."""

from __future__ import annotations

from fractions import Fraction

import av
import pytest
from identity import EncoderRequest, pass_through

from vidsr.errors import MediaError
from vidsr.media.verify import compare

# One second, two sound tracks, tags and chapters: something of each that can be lost.
CHAPTERS = [
    {"id": n, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
    for n, (a, b, title) in enumerate([(0, 400, "One"), (400, 1000, "Two")])
]
COLORS = "colormatrix=bt709:colorprim=bt709:transfer=bt709:fullrange=off"
TAGGED = {"x264-params": COLORS}
TURN = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]


def copy(
    source,
    path,
    *,
    indices=(0, 1, 2),
    tags=True,
    chapters=CHAPTERS,
    matrix=None,
    cut=(None, None),
    change=lambda packet: packet,
):
    """Packets of a file as they are but for what is asked: what a faulty writer might make."""
    with av.open(str(source)) as old, av.open(str(path), "w") as file:
        streams = {index: file.add_stream_from_template(old.streams[index]) for index in indices}
        for index, stream in streams.items():
            if tags:
                stream.metadata.update(old.streams[index].metadata)
            stream.disposition = old.streams[index].disposition
        if matrix:
            streams[0].set_display_matrix(matrix)
        file.set_chapters(chapters)
        for packet in old.demux():
            stream = streams.get(packet.stream_index)
            if stream and packet.size:
                end = cut[0] == packet.stream_index and packet.pts * packet.time_base >= cut[1]
                twin = None if end else change(packet)
                if twin:
                    twin.stream = stream
                    file.mux(twin)
    return path


@pytest.fixture
def source(make_clip, tmp_path):
    clip = make_clip("clip.mp4", frames=24, audio=True, options=TAGGED)
    path = tmp_path / "source.mkv"
    with av.open(str(clip)) as old, av.open(str(path), "w") as file:
        streams = [(n, file.add_stream_from_template(old.streams[n])) for n in (0, 1, 1)]
        for (_, stream), language in zip(streams, ("jpn", "eng", "fra"), strict=True):
            stream.metadata.update({"language": language, "title": f"In {language}"})
        file.set_chapters(CHAPTERS)
        for packet in old.demux():
            for index, stream in streams:
                if packet.size and packet.stream_index == index:
                    twin = av.Packet(bytes(packet))
                    twin.pts, twin.dts, twin.duration = packet.pts, packet.dts, packet.duration
                    twin.time_base, twin.is_keyframe = packet.time_base, packet.is_keyframe
                    twin.stream = stream
                    file.mux(twin)
    return path


def differing(source, written, **arguments):
    return [check.what for check in compare(source, written, **arguments) if not check.equal]


def changing(index, number, **fields):
    """Change the packet `number` of a stream: its pts and dts by so many ticks, or drop it."""
    seen = 0

    def change(packet):
        nonlocal seen
        if packet.stream_index != index:
            return packet
        seen += 1
        if seen - 1 != number:
            return packet
        if fields.get("drop"):
            return None
        packet.pts += fields["shift"]
        return packet

    return change


def test_a_file_equals_itself(source):
    assert differing(source, source) == []


def test_a_copy_of_the_packets_is_equal(source, tmp_path):
    assert differing(source, copy(source, tmp_path / "copy.mkv")) == []


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("preset", ["ultrafast", "veryfast"])
def test_a_faithful_enlargement_is_equal(source, tmp_path, name, preset):
    encoder = EncoderRequest(preset=preset, threads=1)
    pass_through(source, tmp_path / name, scale=2, encoder=encoder)
    # mp4 keeps no title of a track.
    tags = ["audio 1 (aac) tags", "audio 2 (aac) tags"] if name == "out.mp4" else []
    assert differing(source, tmp_path / name) == tags


@pytest.mark.parametrize("name", ["out.ts", "out.flv"])
def test_a_common_delay_of_a_transport_stream_is_no_difference_in_time(make_clip, tmp_path, name):
    clip = make_clip(frames=24)
    pass_through(clip, tmp_path / name, encoder=EncoderRequest(preset="veryfast", threads=1))
    assert not {"frames", "pts", "end"} & set(differing(clip, tmp_path / name))


def test_a_frame_that_is_missing_is_found(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", cut=(0, Fraction(19, 20)))
    assert "frames" in differing(source, written)


def test_a_frame_at_another_moment_is_found(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", change=changing(0, 9, shift=2))
    assert differing(source, written) == ["pts"]


def test_an_end_that_is_cut_off_is_found(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", cut=(0, Fraction(1, 2)))
    assert {"frames", "end"} <= set(differing(source, written))


def test_a_sound_track_that_is_missing_is_found(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", indices=(0, 1))
    assert "other streams" in differing(source, written)


def test_a_track_that_was_meant_to_be_dropped_is_no_difference(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", indices=(0, 2))
    assert differing(source, written, dropped=frozenset({1})) == []
    assert "audio 1 (aac) tags" in differing(source, written, dropped=frozenset({2}))


def test_a_packet_of_sound_that_is_missing_is_found(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", change=changing(1, 5, drop=True))
    assert differing(source, written) == ["audio 1 (aac) packets"]


def test_a_packet_of_sound_with_other_bytes_is_found(source, tmp_path):
    with av.open(str(source)) as file:
        data = next(bytes(p) for p in file.demux(2) if p.pts > 300)
    whole = source.read_bytes()
    place = whole.rindex(data) + len(data) // 2
    written = tmp_path / "out.mkv"
    written.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert differing(source, written) == ["audio 2 (aac) packets"]


def test_tags_of_tracks_that_are_missing_are_found(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", tags=False)
    assert differing(source, written) == ["audio 1 (aac) tags", "audio 2 (aac) tags"]


@pytest.mark.parametrize("chapters", [[], CHAPTERS[:1], [{**CHAPTERS[0], "end": 500}, CHAPTERS[1]]])
def test_chapters_that_differ_are_found(source, tmp_path, chapters):
    written = copy(source, tmp_path / "out.mkv", chapters=chapters)
    assert differing(source, written) == ["chapters"]


def test_a_turn_that_appeared_is_found(make_clip, tmp_path):
    clip = make_clip("clip.mp4", options=TAGGED)
    written = copy(clip, tmp_path / "out.mp4", indices=(0,), chapters=[], matrix=TURN)
    assert differing(clip, written) == ["rotation"]


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        (COLORS, "keyint=9", {"matrix", "primaries", "transfer", "range"}),
        (COLORS, f"{COLORS}:colormatrix=smpte170m", {"matrix"}),
        (f"{COLORS}:fullrange=on", COLORS, {"range"}),
        (f"{COLORS}:chromaloc=2", COLORS, {"siting"}),
        (COLORS, COLORS, set()),
    ],
)
def test_colour_tags_that_are_lost_or_changed_are_found(make_clip, ours, theirs, found):
    clips = [
        make_clip(name, options={"x264-params": params})
        for name, params in (("a.mp4", ours), ("b.mp4", theirs))
    ]
    assert set(differing(*clips)) == found


def test_untagged_colours_of_an_output_are_a_difference_even_if_the_guess_is_right(make_clip):
    clip = make_clip()
    assert {"matrix", "primaries", "transfer"} <= set(differing(clip, clip))


def test_an_interlaced_flag_that_is_lost_is_found(make_clip):
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    fields = make_clip("a.mp4", size=(64, 64), options=options)
    assert "interlaced" in differing(fields, make_clip("b.mp4", size=(64, 64)))


def test_an_attachment_that_is_missing_is_found(clips, tmp_path):
    source = clips / "awkward/two_audio_two_subs_attachment.mkv"
    pass_through(source, tmp_path / "out.mkv", drop=(5,))
    assert "other streams" in differing(source, tmp_path / "out.mkv")


def test_an_attachment_with_other_bytes_is_found(clips, tmp_path):
    source = clips / "awkward/two_audio_two_subs_attachment.mkv"
    with av.open(str(source)) as file:
        data = bytes(file.streams[5].data)
    pass_through(source, tmp_path / "out.mkv")
    whole = (tmp_path / "out.mkv").read_bytes()
    assert whole.count(data) == 1
    (tmp_path / "out.mkv").write_bytes(whole.replace(data, bytes(len(data))))
    assert differing(source, tmp_path / "out.mkv") == ["attachment 1 () packets"]


def test_a_file_that_cannot_be_read_is_our_error(source, tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        compare(source, tmp_path / "absent.mkv")
