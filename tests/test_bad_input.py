"""Whatever is wrong with the input or the request: one sentence, its exit code, nothing left."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import ClipMaker, gradient
from family import ship_family, tiny_model
from PIL import Image
from typer.testing import CliRunner, Result

from vidsr import cli
from vidsr.media.probe import probe
from vidsr.stages import Repeat

REQUEST, MEDIA, MODEL, DEVICE = 2, 3, 4, 5


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    return ship_family(monkeypatch, tmp_path / "weights", 2, 4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def upscale(source: Path, *words: object) -> Result:
    arguments = ["upscale", str(source), *map(str, words)]
    result = CliRunner().invoke(cli.app, arguments, prog_name="vidsr")
    assert "Traceback" not in result.output + result.stderr
    return result


def sentence(result: Result) -> str:
    """The one line of a refusal."""
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    line = result.stderr.rstrip("\n")
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.fixture
def refused(out: Path) -> Callable[..., str]:
    """Upscale, expect an exit code, nothing left behind, and one sentence, which is returned."""

    def run(code: int, source: Path, *words: object) -> str:
        words = words if "-o" in words else ("-o", out / "out.mp4", *words)
        result = upscale(source, *words)
        said = sentence(result)
        assert result.exit_code == code, said
        assert list(out.iterdir()) == []
        return said

    return run


# ------------------------------------------------------------------ the input


def test_a_missing_file(refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused(MEDIA, tmp_path / "gone.mp4").endswith("gone.mp4: no such file")


def test_a_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "is a directory; name a file in it" in refused(MEDIA, tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".png", ".jpg", ""])
def test_an_empty_file(refused: Callable[..., str], tmp_path: Path, out: Path, suffix: str) -> None:
    path = tmp_path / f"empty{suffix}"
    path.touch()
    still = suffix in {".png", ".jpg"}
    assert "is empty" in refused(MEDIA, path, "-o", out / ("out.png" if still else "out.mp4"))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".txt"])
@pytest.mark.parametrize("content", [b"hello world", bytes(5000), b"\xff" * 5000])
def test_a_file_that_is_no_video(
    refused: Callable[..., str], tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_bytes(content)
    assert f"notes{suffix}" in refused(MEDIA, path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_file_that_is_no_picture(
    refused: Callable[..., str], tmp_path: Path, out: Path, suffix: str
) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_bytes(b"hello world")
    assert "is no picture that vidsr reads" in refused(MEDIA, path, "-o", out / "out.png")


def test_a_truncated_picture(refused: Callable[..., str], tmp_path: Path, out: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(gradient(0, 48, 32)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be decoded" in refused(MEDIA, path, "-o", out / "out.png")


def test_a_file_with_sound_alone(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w") as file:
        sound = file.add_stream("aac", rate=48000, layout="mono")
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 4800), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 48000
        file.mux([*sound.encode(silence), *sound.encode(None)])
    assert "has no video to process; it holds audio" in refused(MEDIA, path)


def test_a_stream_that_nothing_decodes(refused: Callable[..., str], make_clip: ClipMaker) -> None:
    clip = make_clip()
    content = clip.read_bytes()
    assert b"avc1" in content
    clip.write_bytes(content.replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    assert "clip.mp4" in refused(MEDIA, clip)


def test_an_encrypted_file(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "encrypted.mp4"
    keys = {"encryption_key": "0123456789abcdef" * 2, "encryption_kid": "fedcba9876543210" * 2}
    options = {"encryption_scheme": "cenc-aes-ctr", **keys}
    with av.open(str(path), "w", options=options) as file:
        video = file.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(gradient(number, 48, 32), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            file.mux(video.encode(frame.reformat(format="yuv420p")))
        file.mux(video.encode(None))
    assert "encrypted" in refused(MEDIA, path)


# ------------------------------------------------------------------ the output


def test_an_output_that_is_the_input(refused: Callable[..., str], make_clip: ClipMaker) -> None:
    clip = make_clip()
    before = clip.read_bytes()
    assert "is the input itself" in refused(REQUEST, clip, "-o", clip, "--overwrite")
    assert clip.read_bytes() == before


def test_an_output_that_exists(make_clip: ClipMaker, out: Path) -> None:
    (out / "a.mp4").write_bytes(b"precious")
    result = upscale(make_clip(), "-o", out / "a.mp4")
    assert result.exit_code == REQUEST
    assert "--overwrite replaces it" in sentence(result)
    assert (out / "a.mp4").read_bytes() == b"precious"


def test_an_output_folder_that_is_missing(
    refused: Callable[..., str], make_clip: ClipMaker, out: Path
) -> None:
    said = refused(REQUEST, make_clip(), "-o", out / "missing" / "a.mp4")
    assert "no such folder for the output" in said


def test_an_output_folder_that_is_a_file(refused: Callable[..., str], make_clip: ClipMaker) -> None:
    clip = make_clip()
    assert "no such folder" in refused(REQUEST, clip, "-o", clip / "a.mp4")


def test_an_output_folder_that_takes_no_files(make_clip: ClipMaker) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc, where even root cannot make a file")
    result = upscale(make_clip(), "-o", "/proc/a.mp4")
    assert result.exit_code in {REQUEST, MEDIA}
    assert "/proc" in sentence(result)


@pytest.mark.parametrize("picture", [False, True], ids=["video", "picture"])
def test_a_disk_that_fills_up_midway(
    make_clip: ClipMaker, tmp_path: Path, out: Path, picture: bool
) -> None:
    source = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(source)
    source = source if picture else make_clip(frames=12)
    model = tiny_model(tmp_path / "mine", "mine", scale=4)
    name = out / ("a.png" if picture else "a.mp4")
    ended = subprocess.run(
        [sys.executable, "-m", "vidsr", "upscale", source, "-o", name, "--model", model],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == MEDIA, ended.stderr[-500:]
    assert ended.stderr.count("\n") == 1, ended.stderr
    line = ended.stderr
    assert line.startswith(f"error: {name}: ")
    assert list(out.iterdir()) == []


# ------------------------------------------------------------------ the model


def test_an_unknown_model_is_answered_with_near_names(
    refused: Callable[..., str], make_clip: ClipMaker
) -> None:
    said = refused(MODEL, make_clip(), "--model", "fast-x3")
    assert "unknown model 'fast-x3'; did you mean fast-x4 or fast-x2?" in said


def test_a_model_that_is_nowhere_near_is_answered_with_all_names(
    refused: Callable[..., str], make_clip: ClipMaker
) -> None:
    assert "there are fast, fast-x2, fast-x4" in refused(MODEL, make_clip(), "--model", "qqq")


def test_weights_with_the_wrong_hash(
    refused: Callable[..., str], make_clip: ClipMaker, family: Path
) -> None:
    content = bytearray((family / "fast-x4.safetensors").read_bytes())
    content[-1] ^= 1
    (family / "fast-x4.safetensors").write_bytes(content)
    assert "the weights are not those of the card" in refused(MODEL, make_clip())


def test_weights_that_are_gone(
    refused: Callable[..., str], make_clip: ClipMaker, family: Path
) -> None:
    (family / "fast-x4.safetensors").unlink()
    assert "cannot read the weights" in refused(MODEL, make_clip())


def test_a_damaged_card(refused: Callable[..., str], make_clip: ClipMaker, family: Path) -> None:
    (family / "fast-x4.json").write_text("{")
    assert "is not a model card" in refused(MODEL, make_clip())


def test_a_card_whose_sizes_are_of_another_network(
    refused: Callable[..., str], make_clip: ClipMaker, family: Path
) -> None:
    path = family / "fast-x4.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sizes": {"channels": 7}}))
    assert "of another network than their card says" in refused(MODEL, make_clip())


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".pth", b""),
        (".pth", b"hello"),
        (".pth", bytes(300)),
        (".safetensors", b""),
        (".safetensors", b"hello"),
        (".safetensors", bytes(300)),
    ],
)
def test_a_checkpoint_that_is_none(
    refused: Callable[..., str], make_clip: ClipMaker, tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    assert str(path) in refused(MODEL, make_clip(), "--model", path)


def test_a_checkpoint_of_an_unknown_network(
    refused: Callable[..., str], make_clip: ClipMaker, tmp_path: Path
) -> None:
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "mine.pth")
    assert "not a network that vidsr knows" in refused(
        MODEL, make_clip(), "--model", tmp_path / "mine.pth"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "fast-x2", "--scale", "4"], "fast-x2 enlarges 2 times at most, 4 is asked"),
        (["--height", "320"], "fast-x4 enlarges 4 times at most, 10 is asked"),
        (["--size", "480x320"], "fast-x4 enlarges 4 times at most, 10 is asked"),
    ],
)
def test_a_size_that_the_model_cannot_do(
    refused: Callable[..., str], make_clip: ClipMaker, words: list[str], said: str
) -> None:
    assert said in refused(REQUEST, make_clip(), *words)


def test_a_device_that_is_not_here(refused: Callable[..., str], make_clip: ClipMaker) -> None:
    assert "no device 'cuda:9' here" in refused(DEVICE, make_clip(), "--device", "cuda:9")


# ------------------------------------------------------------------ encoder and container


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--encoder", "libx246"], "no encoder 'libx246' here; did you mean libx265?"),
        (["--ffmpeg", "ffmpeg-of-nobody"], "--ffmpeg ffmpeg-of-nobody: no such program"),
        (["--encoder", "aac"], "aac does not encode video"),
        (["--enc", "shine=1"], "libx264 knows no option shine"),
        (["--enc", "crf=bright"], "libx264 cannot be opened with"),
        (["--preset", "yesterday"], "libx264 cannot be opened with"),
        (["--enc", "crf=nan"], "libx264 cannot be opened with"),
        (["--crf", "nan"], "--crf nan: encoders take 0 (best) and more"),
        (["--encoder", "ffv1", "--crf", "20"], "ffv1 has no --crf"),
        (["--encoder", "ffv1", "--preset", "slow"], "ffv1 has no --preset"),
        (["--pix-fmt", "yuv999p"], "--pix-fmt yuv999p does not go with libx264; these do: yuv"),
        (["--pix-fmt", "bgr0"], "--pix-fmt bgr0 does not go with libx264"),
        (["--tile", "10", "--height", "100"], None),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_an_encoder_that_cannot_do_what_was_asked(
    refused: Callable[..., str], make_clip: ClipMaker, words: list[str], said: str | None
) -> None:
    assert (said or "--tile 10 is too small") in refused(REQUEST, make_clip(), *words)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.webm", ".webm cannot hold libx264 video; -o a.mkv can"),
        ("a.avi", "AVI cannot keep timestamps"),
        ("a.xyz", "not .xyz"),
        ("a.png", "not .png"),
    ],
)
def test_a_container_that_cannot_hold_the_video(
    refused: Callable[..., str], make_clip: ClipMaker, out: Path, name: str, said: str
) -> None:
    assert said in refused(REQUEST, make_clip(), "-o", out / name)


def test_a_container_that_cannot_hold_the_sound(
    refused: Callable[..., str], make_clip: ClipMaker, out: Path
) -> None:
    words = ("-o", out / "a.webm", "--encoder", "libvpx-vp9")
    said = refused(REQUEST, make_clip(audio=True), *words)
    assert "cannot hold stream 1 (audio, aac, und); -o a.mkv can" in said


# ------------------------------------------------------------------ damaged, but playable


def flipped(clip: Path) -> Path:
    """Noise over the second half of the clip's fourth packet."""
    with av.open(str(clip)) as container:
        packet = [packet for packet in container.demux() if packet.size][3]
    assert packet.pos is not None
    begin, end = packet.pos + packet.size // 2, packet.pos + packet.size
    content = bytearray(clip.read_bytes())
    content[begin:end] = np.random.default_rng(1).bytes(end - begin)
    clip.write_bytes(content)
    return clip


def test_flipped_bits_are_decoded_and_said(make_clip: ClipMaker, out: Path) -> None:
    clip = flipped(make_clip(frames=12, options={"crf": "10", "bf": "0"}))
    result = upscale(clip, "-o", out / "a.mp4")
    assert result.exit_code == 0, result.output
    assert "damaged in the input" in result.stdout or "could not be decoded" in result.stdout


def test_flipped_bits_are_an_error_if_strict(
    refused: Callable[..., str], make_clip: ClipMaker
) -> None:
    clip = flipped(make_clip(frames=12, options={"crf": "10", "bf": "0"}))
    assert "without --strict the rest is kept" in refused(MEDIA, clip, "--strict")


def test_a_file_cut_short_is_decoded_as_far_as_it_goes(make_clip: ClipMaker, out: Path) -> None:
    clip = make_clip("clip.ts", frames=24, audio=True)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    result = upscale(clip, "-o", out / "a.mkv")
    assert result.exit_code == 0, result.output
    assert (out / "a.mkv").is_file()


def test_a_file_cut_short_is_an_error_if_strict(refused: Callable[..., str], clips: Path) -> None:
    clip = clips / "broken" / "truncated_60pct.mkv"
    words = ("--scale", 2, "--preset", "ultrafast", "--strict")
    assert "without --strict the rest is kept" in refused(MEDIA, clip, *words)


def test_an_mp4_cut_before_its_index_is_refused(
    refused: Callable[..., str], make_clip: ClipMaker
) -> None:
    clip = make_clip(frames=12)
    clip.write_bytes(clip.read_bytes()[:1000])
    assert "clip.mp4: reading failed" in refused(MEDIA, clip)


# ------------------------------------------------------------------ the collection of broken files

# None: it plays, so it is enlarged.
BROKEN: dict[str, int | None] = {
    "bitflips.mkv": None,
    "empty.mp4": MEDIA,
    "invalid_EBML_ElementDataSize_in_EBMLHeader.mkv": None,
    "invalid_boolean.mkv": None,
    "level_0_crc.mkv": None,
    "no_DocType.mkv": None,
    "sample_malformed_free_box.mp4": MEDIA,
    "sample_missing_stsd.mp4": None,
    "text_named.mp4": MEDIA,
    "truncated_60pct.mkv": None,
    "truncated_no_moov.mp4": MEDIA,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_enlarged_or_refused_in_one_sentence(
    clips: Path, out: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.networks.open_stages", lambda _, __: [Repeat(2)])
    code = BROKEN[name]
    words: list[Any] = ["--scale", 2, "--preset", "ultrafast", "--crf", 40]
    words += ["--end", "0.2"] if name == "sample_missing_stsd.mp4" else []  # 1080x720, and sound
    result = upscale(clips / "broken" / name, "-o", out / "a.mkv", *words)
    assert result.exit_code == (code or 0), result.output
    if code is None:
        assert [path.name for path in out.iterdir()] == ["a.mkv"]
        assert result.stdout.startswith(f"wrote {out / 'a.mkv'}: ")
    else:
        assert name in sentence(result)
        assert list(out.iterdir()) == []


def test_the_list_of_broken_files_is_complete(clips: Path) -> None:
    assert {path.name for path in (clips / "broken").iterdir()} == set(BROKEN)


# ------------------------------------------------------------------ absurd headers


def _patched(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    data = path.read_bytes()
    for old, new in changes:
        assert data.count(old) >= 1
        data = data.replace(old, new, 1)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("side", [16_000, 65_535])
def test_a_header_of_too_many_pixels_takes_no_memory(
    refused: Callable[..., str], make_clip: ClipMaker, side: int
) -> None:
    clip = make_clip("a.mkv", size=(320, 256), codec="ffv1", options={"level": "3"}, frames=2)
    stored = side.to_bytes(2, "big")
    _patched(clip, (b"\xb0\x82\x01\x40", b"\xb0\x82" + stored))  # Matroska's PixelWidth
    _patched(clip, (b"\xba\x82\x01\x00", b"\xba\x82" + stored))  # PixelHeight
    assert "above 178 megapixels" in refused(MEDIA, clip)


def test_a_container_that_lies_about_the_size_is_not_believed(make_clip: ClipMaker) -> None:
    clip = make_clip("a.mkv", size=(320, 256), frames=2)
    _patched(clip, (b"\xb0\x82\x01\x40", b"\xb0\x82\xff\xff"))
    assert probe(clip).width == 320


def test_a_header_of_a_billion_frames(refused: Callable[..., str], make_clip: ClipMaker) -> None:
    clip = make_clip("a.avi", codec="mpeg4", options={"b": "100000"})
    data = clip.read_bytes()
    header = data.index(b"strh") + 8
    billion = (10**9).to_bytes(4, "little")
    clip.write_bytes(data[: header + 32] + billion + data[header + 36 :])
    assert "claims 1000000000 frames in" in refused(MEDIA, clip)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".gif", ".webp", ".bmp"])
def test_a_picture_whose_header_is_absurd(
    refused: Callable[..., str], tmp_path: Path, suffix: str
) -> None:
    path, size = tmp_path / f"a{suffix}", 65_535 if suffix != ".webp" else 16_383
    Image.new("RGB", (317, 251)).save(path)
    data = path.read_bytes()
    at, form = {
        ".png": (16, ">II"),
        ".jpg": (data.find(b"\xff\xc0") + 5, ">HH"),
        ".gif": (6, "<HH"),
        ".bmp": (18, "<II"),
        ".webp": (26, "<HH"),
    }.get(suffix, (0, ""))
    if suffix == ".tiff":
        for tag in (256, 257):
            entry = data.index(struct.pack("<HHI", tag, 4, 1))
            data = data[: entry + 8] + struct.pack("<I", size) + data[entry + 12 :]
    else:
        data = data[:at] + struct.pack(form, size, size) + data[at + struct.calcsize(form) :]
    if suffix == ".png":
        data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    path.write_bytes(data)
    said = refused(MEDIA, path)
    assert "178 megapixels" in said
    assert str(size * size) in said
