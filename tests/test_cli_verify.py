"""`vidsr verify`: a table, a ledger, and 6 if the output is wrong."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
from conftest import ClipMaker, gradient
from identity import pass_through
from PIL import Image
from test_cli import vidsr_command

COLORS = "colormatrix=bt709:colorprim=bt709:transfer=bt709:fullrange=off"


@pytest.fixture
def clip(make_clip: ClipMaker) -> Path:
    return make_clip("clip.mp4", frames=24, audio=True, options={"x264-params": COLORS})


def remuxed(
    source: Path,
    path: Path,
    *,
    until: Fraction = Fraction(99),
    sound: bool = True,
    delay: Fraction = Fraction(0),
) -> Path:
    """A file's packets: of the picture until a moment, of the sound with a delay or not at all."""
    with av.open(str(source)) as old, av.open(str(path), "w") as file:
        kept = [stream for stream in old.streams if sound or stream.type == "video"]
        streams = {stream.index: file.add_stream_from_template(stream) for stream in kept}
        for stream in kept:
            streams[stream.index].disposition = stream.disposition
        for packet in old.demux(kept):
            video = packet.stream.type == "video"
            if not packet.size or (video and packet.pts * packet.time_base >= until):
                continue
            if not video:
                packet.pts += round(delay / packet.time_base)
                packet.dts += round(delay / packet.time_base)
            packet.stream = streams[packet.stream_index]
            file.mux(packet)
    return path


def test_a_good_output_is_a_table_and_0(clip: Path, tmp_path: Path) -> None:
    pass_through(clip, tmp_path / "out.mkv", scale=2)
    result = vidsr_command("verify", clip, tmp_path / "out.mkv", "--scale", 2)
    assert result.exit_code == 0, result.output
    assert "DIFFERS" not in result.stdout
    assert result.stdout.splitlines()[-1] == "dropped or changed: nothing"


def test_an_output_that_misses_only_what_its_container_cannot_hold_is_good(
    clip: Path, tmp_path: Path
) -> None:
    named = tmp_path / "named.mkv"
    with av.open(str(clip)) as old, av.open(str(named), "w") as file:
        streams = [file.add_stream_from_template(stream) for stream in old.streams]
        streams[1].metadata["title"] = "Comments"
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                file.mux(packet)
    pass_through(named, tmp_path / "out.ts")
    result = vidsr_command("verify", named, tmp_path / "out.ts")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-2] == "dropped or changed:"
    assert "title Comments, written as title none" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({"until": Fraction(23, 24)}, "frames"),
        ({"sound": False}, "other streams"),
        ({"delay": Fraction(1, 10)}, "audio 1 (aac) from and to"),
    ],
    ids=["a frame", "a track", "shifted sound"],
)
def test_a_wrong_output_says_what_differs_and_ends_with_6(
    clip: Path, tmp_path: Path, fault: dict[str, object], found: str
) -> None:
    wrong = remuxed(clip, tmp_path / "wrong.mkv", **fault)  # type: ignore[arg-type]
    result = vidsr_command("verify", clip, wrong)
    assert result.exit_code == 6
    assert "DIFFERS" in result.stdout
    assert found in result.stderr


def test_a_wrong_colour_tag_ends_with_6(clip: Path, make_clip: ClipMaker) -> None:
    params = COLORS.replace("colormatrix=bt709", "colormatrix=smpte170m")
    wrong = make_clip("wrong.mp4", frames=24, audio=True, options={"x264-params": params})
    result = vidsr_command("verify", clip, wrong, "--json")
    assert result.exit_code == 6
    report, error = (json.loads(line) for line in result.stdout.splitlines())
    assert (report["event"], report["equal"], report["notes"]) == ("verify", False, [])
    assert [c["what"] for c in report["checks"] if not c["equal"]] == ["matrix"]
    assert (error["event"], error["exit_code"]) == ("error", 6)


def test_pictures_are_verified_too(tmp_path: Path) -> None:
    Image.fromarray(gradient(0, 24, 16)).save(tmp_path / "a.png")
    Image.fromarray(gradient(0, 48, 32)).save(tmp_path / "b.png")
    assert vidsr_command("verify", tmp_path / "a.png", tmp_path / "b.png").exit_code == 0
    wrong = vidsr_command("verify", tmp_path / "a.png", tmp_path / "b.png", "--scale", 4)
    assert wrong.exit_code == 6
    assert wrong.stderr.rstrip().endswith("promises: size")


def test_a_file_that_is_not_there_is_no_wrong_output(clip: Path, tmp_path: Path) -> None:
    assert vidsr_command("verify", clip, tmp_path / "gone.mp4").exit_code == 3


@pytest.mark.parametrize("how", ["frame", "field", "off"])
def test_what_became_of_fields_is_no_difference(shared: Path, tmp_path: Path, how: str) -> None:
    woven, out = tmp_path / "woven.mp4", tmp_path / "out.mp4"
    with (
        av.open(str(shared / "clips" / "awkward" / "interlaced_480i_sar32-27.mp4")) as old,
        av.open(str(woven), "w") as file,
    ):
        stream = file.add_stream_from_template(old.streams.video[0])
        for packet in without_gaps([p for p in old.demux(video=0) if p.size]):
            packet.stream = stream
            file.mux(packet)
    fast = ["--model", "fast-x2", "--scale", "2", "--preset", "ultrafast", "-q"]
    made = vidsr_command("upscale", woven, "-o", out, "--deinterlace", how, *fast)
    assert made.exit_code == 0, made.output
    result = vidsr_command("verify", woven, out)
    assert result.exit_code == 0, result.output


def without_gaps(packets: list[av.Packet]) -> list[av.Packet]:
    """The first dozen or so, in decoding order, between whose pictures none is missing."""
    for count in range(12, len(packets)):
        shown = sorted(packet.pts for packet in packets[:count])
        if len({after - before for before, after in itertools.pairwise(shown)}) == 1:
            return packets[:count]
    return packets


@pytest.mark.parametrize("name", ["film.gif", "film%04d.png"])
def test_animations_and_numbered_pictures_are_refused_as_what_they_are(
    make_clip: ClipMaker, tmp_path: Path, name: str
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "film.gif")
    for pair in ((make_clip(), tmp_path / name), (tmp_path / name, tmp_path / "out.mkv")):
        result = vidsr_command("verify", *pair)
        assert result.exit_code == 2
        assert "verify takes videos and still pictures" in " ".join(result.stderr.split())
