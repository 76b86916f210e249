"""compare and check_written: silent about a faithful copy, and not about anything else."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import gradient
from identity import EncoderRequest, pass_through
from PIL import Image

from vidsr.errors import MediaError, VerificationError
from vidsr.frame import Matrix
from vidsr.media import image_writer, images, verify, writer
from vidsr.media.probe import probe
from vidsr.media.verify import check_written, compare, compare_stills, ledger

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
    assert differing(source, tmp_path / name) == []


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


def test_sound_that_is_shifted_is_found(source, tmp_path):
    def later(packet):
        if packet.stream_index == 1:
            packet.pts, packet.dts = packet.pts + 40, packet.dts + 40  # ms
        return packet

    written = copy(source, tmp_path / "out.mkv", change=later)
    assert differing(source, written) == ["audio 1 (aac) from and to"]


def test_sound_that_ends_early_is_found_by_its_end(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", cut=(1, Fraction(1, 2)))
    found = ["audio 1 (aac) packets", "audio 1 (aac) from and to"]
    assert differing(source, written) == found


@pytest.mark.parametrize(("scale", "wrong"), [(None, []), (2, []), (3, ["size"])])
def test_the_scale_is_checked_if_it_is_named(source, tmp_path, scale, wrong):
    pass_through(source, tmp_path / "out.mkv", scale=2)
    assert differing(source, tmp_path / "out.mkv", scale=scale) == wrong


def test_another_shape_is_found(make_clip):
    clips = [
        make_clip(n, size=s, options=TAGGED) for n, s in (("a.mp4", (64, 32)), ("b.mp4", (64, 64)))
    ]
    assert differing(*clips) == ["shape"]


def test_what_a_container_has_no_place_for_is_in_the_ledger_and_no_failure(source, tmp_path):
    pass_through(source, tmp_path / "out.ts", scale=2)
    checks = compare(source, tmp_path / "out.ts")
    assert not any(check.failed for check in checks)
    assert {
        f"audio {n} (aac) tags: title In {language}, written as title none (this container has no "
        "place for it)"
        for n, language in ((1, "eng"), (2, "fra"))
    } <= set(ledger(checks))


def test_the_same_loss_is_a_failure_where_the_container_has_a_place(source, tmp_path):
    checks = compare(source, copy(source, tmp_path / "copy.mkv", tags=False))
    assert [c.what for c in checks if c.failed] == ["audio 1 (aac) tags", "audio 2 (aac) tags"]
    assert ledger(checks) == []


def test_a_stream_that_was_left_out_for_a_reason_is_in_the_ledger(source, tmp_path):
    written = copy(source, tmp_path / "out.mkv", indices=(0, 2))
    checks = compare(source, written, dropped={1: "nobody wanted it"})
    assert not any(check.failed for check in checks)
    assert ledger(checks) == [
        "stream 1 (audio, aac, eng): there, written as left out (nobody wanted it)"
    ]


def test_a_transport_stream_frames_the_same_sound_otherwise(source, tmp_path):
    pass_through(source, tmp_path / "out.ts")
    checks = compare(source, tmp_path / "out.ts")
    assert not any(check.failed for check in checks)
    packets = [check for check in checks if check.what.endswith("packets")]
    assert all(check.equal for check in packets)
    assert any(note.startswith("chapters: ") for note in ledger(checks))


# ------------------------------------------------------------------ before the rename


def spoiled(monkeypatch, **fields):
    """Let the finished file of a writer look as if it had other facts."""

    def other(path, *, video=None):
        return replace(probe(path, video=video), **fields)

    monkeypatch.setattr(verify, "probe", other)


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("size", {"width": 40}),
        ("rotation", {"rotation": 90}),
        ("sample aspect", {"sample_aspect": Fraction(4, 3)}),
        ("chapters", {"chapters": 1}),
        ("matrix", {"color": "matrix"}),
        ("range", {"color": "untagged"}),
    ],
)
def test_a_finished_file_that_differs_gets_no_name(source, tmp_path, monkeypatch, what, fields):
    color = probe(source).color
    colors = {
        "matrix": replace(color, matrix=Matrix.BT2020_NCL),
        "untagged": replace(color, guessed=frozenset({"range"})),
    }
    fields = {name: colors.get(value, value) for name, value in fields.items()}
    spoiled(monkeypatch, **fields)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(VerificationError, match=f"out.mkv: {what}: "):
        pass_through(source, out / "out.mkv")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("change", [{"title": None}, {"language": "deu"}, {"disposition": 64}])
def test_a_finished_file_whose_tracks_have_other_tags_gets_no_name(
    source, tmp_path, monkeypatch, change
):
    spoiled(monkeypatch, streams=tuple(replace(s, **change) for s in probe(source).streams))
    with pytest.raises(VerificationError, match="tags: "):
        pass_through(source, tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv").exists()


def test_a_finished_file_that_lacks_a_track_gets_no_name(source, tmp_path, monkeypatch):
    def without_sound(file, promise):
        streams = {new: old for new, old in promise.streams.items() if old != 2}
        return check_written(file, replace(promise, streams=streams))

    monkeypatch.setattr(writer, "check_written", without_sound)
    with pytest.raises(VerificationError, match=r"stream 2 \(audio, aac, fra\): there.* missing"):
        pass_through(source, tmp_path / "out.mkv")


@pytest.mark.parametrize("late", ["start", "end"])
def test_a_finished_file_whose_sound_is_out_of_time_gets_no_name(
    source, tmp_path, monkeypatch, late
):
    def later(file, promise):
        span = promise.found[1]
        moved = replace(span, **{late: getattr(span, late) + Fraction(1, 10)})
        return check_written(file, replace(promise, found={**promise.found, 1: moved}))

    monkeypatch.setattr(writer, "check_written", later)
    with pytest.raises(VerificationError, match=r"stream 1 \(audio, aac, eng\) from and to: "):
        pass_through(source, tmp_path / "out.mkv")


@pytest.mark.parametrize(
    ("name", "lost"),
    [("out.mkv", set()), ("out.mp4", set()), ("out.ts", {"title", "chapters"})],
)
def test_what_a_finished_file_cannot_keep_is_reported(source, tmp_path, name, lost):
    ledger = pass_through(source, tmp_path / name).written.not_kept
    assert all("no place for it" in note for note in ledger)
    words = {word for word in ("title", "chapters", "rotation") if any(word in n for n in ledger)}
    assert words == lost


# ------------------------------------------------------------------ pictures


@pytest.fixture
def photo(tmp_path):
    picture = Image.fromarray(gradient(0, 40, 24))
    exif = picture.getexif()
    exif[0x0112], exif[0x010F] = 6, "Maker"  # lies on its side
    picture.save(tmp_path / "photo.jpg", exif=exif, icc_profile=b"profile" * 20, dpi=(300, 300))
    return tmp_path / "photo.jpg"


def doubled(path, out, **changes):
    still = images.read(path)
    larger = replace(
        still, rgb=np.ascontiguousarray(still.rgb.repeat(2, 0).repeat(2, 1)), **changes
    )
    image_writer.write(out, larger)
    return compare_stills(path, out, scale=2)


def test_a_faithful_picture_is_equal(photo, tmp_path):
    assert [c.what for c in doubled(photo, tmp_path / "out.jpg") if not c.equal] == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"icc_profile": None}, "ICC profile"),
        ({"exif": None}, "EXIF"),
        ({"dpi": None}, "resolution"),
        ({"alpha": np.full((80, 48), 255, np.uint8)}, "alpha"),
    ],
)
def test_a_picture_that_lost_something_is_found(photo, tmp_path, change, found):
    assert [c.what for c in doubled(photo, tmp_path / "out.png", **change) if c.failed] == [found]


def test_a_picture_of_another_size_or_on_its_side_is_found(photo, tmp_path):
    with Image.open(photo) as picture:
        lying = np.asarray(picture).repeat(2, 0).repeat(2, 1)
    checks = doubled(photo, tmp_path / "out.png")
    assert not any(check.failed for check in checks)
    Image.fromarray(lying).save(tmp_path / "lying.png")
    assert compare_stills(photo, tmp_path / "lying.png", scale=2)[0].failed
    assert compare_stills(photo, tmp_path / "lying.png")[0].failed


def test_what_a_format_has_no_place_for_is_in_the_ledger(photo, tmp_path):
    checks = doubled(photo, tmp_path / "out.bmp")
    assert not any(check.failed for check in checks)
    assert {note.split(":")[0] for note in ledger(checks)} >= {"EXIF", "ICC profile"}
