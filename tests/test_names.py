"""Whatever a file is called, it is a file: no address, no pattern, no option, no shell."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import av
import pytest
from conftest import ClipMaker, gradient
from family import ship_family
from PIL import Image
from typer.testing import CliRunner

from vidsr import cli

NAMES = [
    "a b.mp4",
    'it\'s "quoted".mkv',
    "$(touch owned);`touch owned`|&.mp4",
    "日本語 ñ 😀.mkv",
    "-y.mp4",
    "--help.mkv",
    "two\nlines.mp4",
    "100%d %s %06d.mkv",
    "star*[1]?.mp4",
    "back\\slash.mp4",
    "pipe:1.mp4",
    "pipe:x.mkv",
    "concat:a.mp4|b.mp4",
    "http:x.mp4",
    "https:x.mkv",
    "file:x.mp4",
    "fd:0.mp4",
    "subfile,,start,0,end,0,,:x.mp4",
    "crypto:x.mkv",
    "C:x.mp4",
    ".hidden.mp4",
    "..mp4.mkv",
    "~.mp4",
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is worked in, so that names stand on the command line alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    ship_family(monkeypatch, tmp_path / "weights", 2)
    folder = tmp_path / "here"
    (folder / "out").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def upscaled(name: str, output: Path) -> None:
    """By the command line, where `--` ends the options, as for any program."""
    words = ["upscale", "--scale", "2", "-o", str(output), "--", name]
    result = CliRunner().invoke(cli.app, words, prog_name="vidsr")
    assert result.exit_code == 0, result.output + result.stderr


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_plain_file_for_input_and_output(
    make_clip: ClipMaker, here: Path, name: str
) -> None:
    shutil.move(make_clip(f"clip{Path(name).suffix}", frames=2), here / name)
    upscaled(name, Path("out") / name)
    assert contents(here) == sorted([name, f"out/{name}"])
    if not name.startswith("-"):  # which an option's value may, but nobody's fingers expect
        upscaled(name, Path(f"new {name}") if name.startswith("~") else Path(f"new{name}"))
        assert len(contents(here)) == 3


@pytest.mark.parametrize("name", ["a b.mp4", "pipe:1.mp4", "concat:a.mp4|b.mp4", "%03d.mkv"])
def test_without_an_output_the_new_file_lies_beside_the_input(
    make_clip: ClipMaker, here: Path, name: str
) -> None:
    shutil.move(make_clip(f"clip{Path(name).suffix}", frames=2), here / name)
    result = CliRunner().invoke(cli.app, ["upscale", name, "--scale", "2"], prog_name="vidsr")
    assert result.exit_code == 0, result.output
    path = Path(name)
    assert contents(here) == sorted([name, f"{path.stem}-x2{path.suffix}"])


@pytest.mark.parametrize(
    "name", ["a b.png", "two\nlines.png", "http:x.jpg", "%03d.png", "-o.webp", "pipe:.tiff"]
)
def test_any_name_is_a_plain_picture(here: Path, name: str) -> None:
    Image.fromarray(gradient(0, 48, 32)).save(here / name)
    upscaled(name, Path("out") / name)
    assert contents(here) == sorted([name, f"out/{name}"])


def test_names_and_titles_inside_a_file_lead_nowhere(make_clip: ClipMaker, here: Path) -> None:
    outside = {path: path.read_bytes() for path in here.parent.rglob("*") if path.is_file()}
    with av.open(str(make_clip())) as clip, av.open("evil.mkv", "w") as evil:
        evil.metadata["title"] = "../../title.mkv"
        stream = evil.add_stream_from_template(clip.streams[0])
        evil.add_attachment("../../../evil.ttf", "font/ttf", b"font")
        evil.add_attachment(str(here.parent / "absolute.ttf"), "font/ttf", b"font")
        for packet in clip.demux(0):
            if packet.size:
                packet.stream = stream
                evil.mux(packet)
    upscaled("evil.mkv", Path("out"))
    assert contents(here) == ["evil.mkv", "out/evil.mkv"]
    assert {path for path in outside if path.read_bytes() != outside[path]} == set()
    assert not (here.parent / "absolute.ttf").exists()


def test_a_run_opens_no_connection(
    make_clip: ClipMaker, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    shutil.move(make_clip(frames=2), "clip.mp4")
    upscaled("clip.mp4", Path("out"))
    assert contents(here) == ["clip.mp4", "out/clip.mp4"]
