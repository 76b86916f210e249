"""Many files on the command line: words in, a summary and an exit code out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ClipMaker, gradient
from family import ship_family, tiny_colorizer
from PIL import Image
from test_cli import refused, vidsr_command

from vidsr.batch.record import FILE_NAME
from vidsr.cli import screen


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small weights, a cache of our own, wide lines; the handler of SIGTERM as it was."""
    ship_family(monkeypatch, tmp_path / "weights", 2, 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def folder(tmp_path: Path, make_clip: ClipMaker) -> Path:
    """A clip, a picture, and a text."""
    make_clip("in/a.mp4", frames=2)
    picture(tmp_path / "in/b.png")
    (tmp_path / "in/notes.txt").write_text("words")
    return tmp_path / "in"


def picture(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(gradient(0, 24, 16)).save(path)
    return path


def json_lines(*words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in vidsr_command(*words).stdout.splitlines()]


def test_batch_ends_with_a_line_a_file_and_how_many_of_each(folder: Path, out: Path) -> None:
    result = vidsr_command("batch", folder, "-o", out, "--scale", 2)
    assert result.exit_code == 0, result.output
    first, second, third, last = result.stdout.splitlines()
    assert first.startswith(f"done     {folder / 'a.mp4'} ")
    assert f"{out / 'a.mp4'}: 96x64, 2 frames, " in first
    assert f"{out / 'b.png'}: 48x32, " in second
    assert third.split(maxsplit=2) == [
        "ignored",
        str(folder / "notes.txt"),
        "neither video nor picture",
    ]
    assert last.startswith("2 done, 1 ignored; ")


def test_batch_again_skips_and_a_changed_option_says_so(folder: Path, out: Path) -> None:
    vidsr_command("batch", folder, "-o", out, "--scale", 2)
    again = vidsr_command("batch", folder, "-o", out, "--scale", 2).stdout
    assert again.splitlines()[-1].startswith("2 skipped, 1 ignored; ")
    other = vidsr_command("batch", folder, "-o", out, "--scale", 4).stdout
    assert other.count("(again: the settings have changed)") == 2


def test_batch_with_a_broken_file_does_the_others_and_exits_with_its_class(
    folder: Path, out: Path
) -> None:
    (folder / "a.mp4").write_bytes(b"no video at all")
    result = vidsr_command("batch", folder, "-o", out, "--report", out.parent / "report.json")
    assert result.exit_code == 3
    assert result.stdout.startswith(f"failed   {folder / 'a.mp4'} ")
    report = json.loads((out.parent / "report.json").read_text())
    assert (report["exit_code"], report["counts"]["failed"], report["counts"]["done"]) == (3, 1, 1)
    failed = next(one for one in report["files"] if one["status"] == "failed")
    assert failed["source"] == str(folder / "a.mp4")
    assert "reading failed" in failed["reason"]


def test_quiet_prints_failures_only(folder: Path, out: Path) -> None:
    assert vidsr_command("batch", folder, "-o", out, "-q").output == ""
    (folder / "c.png").write_bytes(b"no picture")
    result = vidsr_command("batch", folder, "-o", out, "-q")
    assert (result.exit_code, result.stdout) == (3, "")
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith(f"error: {folder / 'c.png'}: ")


def test_json_gives_an_object_an_event_and_ends_with_the_summary(folder: Path, out: Path) -> None:
    events = json_lines("batch", folder, "-o", out, "--json")
    assert events[0] == {"event": "listed", "waiting": 2}
    assert {event["event"] for event in events} <= {
        *("listed", "planned", "progress", "outcome", "summary"),
    }
    assert events[-1]["event"] == "summary"
    assert events[-1]["counts"] == {"done": 2, "ignored": 1}
    outcome = next(e for e in events if e.get("source") == str(folder / "b.png") and "result" in e)
    assert outcome["result"]["destination"] == str(out / "b.png")


def test_dry_run_lists_and_does_nothing(folder: Path, out: Path) -> None:
    result = vidsr_command("batch", folder, "-o", out, "--dry-run")
    assert result.stdout.splitlines()[0].split() == ["waiting", str(folder / "a.mp4")]
    assert list(out.iterdir()) == []


def test_an_empty_folder_says_that_there_is_nothing(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = vidsr_command("batch", tmp_path / "empty", "-o", out)
    assert result.exit_code == 0
    assert result.stdout.startswith("no video or picture found; ")


def test_what_cannot_begin_is_one_sentence(tmp_path: Path, folder: Path, out: Path) -> None:
    assert "no such folder" in refused(3, "batch", tmp_path / "gone", "-o", out)
    assert "itself" in refused(2, "batch", folder, "-o", folder)
    assert "--jobs 0" in refused(2, "batch", folder, "-o", out, "--jobs", 0)
    assert "unknown model" in refused(4, "batch", folder, "-o", out, "--model", "nonsense")
    assert "go with --colorize" in refused(2, "batch", folder, "-o", out, "--saturation", 2)
    report = tmp_path / "not/there.json"
    sentence = refused(2, "batch", folder, "-o", out, "--report", report)
    assert "no such folder for the report" in sentence
    assert "is a folder" in refused(2, "batch", folder, "-o", out, "--report", tmp_path)
    assert "is a folder" in refused(2, "batch", folder, "-o", out, "--report", ".")


def test_a_report_may_lie_in_the_folder_that_is_made(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "report.json"
    assert vidsr_command("batch", folder, "-o", tmp_path / "new", "--report", report).exit_code == 0
    assert json.loads(report.read_text())["counts"]["done"] > 0


def test_a_report_that_fails_after_all_comes_after_the_summary(
    folder: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidsr.cli.screen.appearing", full)
    report = tmp_path / "report.json"
    result = vidsr_command("batch", folder, "-o", out, "--report", report, "--dry-run")
    assert "waiting" in result.stdout
    assert (result.exit_code, "report cannot be written" in result.stderr) == (3, True)


def test_names_that_are_no_text_are_done_and_named(tmp_path: Path, out: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff[b].png"))
    picture(strange)
    result = vidsr_command("batch", strange.parent, "-o", out)
    assert result.exit_code == 0, result.output
    assert "\ufffd[b].png" in result.stdout
    assert (out / strange.name).is_file()
    assert json_lines("batch", strange.parent, "-o", out, "--json")[-1]["counts"] == {"skipped": 1}


def test_more_files_than_can_be_read_are_counted_together(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(screen._SHOWN, "done", 2)
    for name in "abcde":
        picture(tmp_path / f"in/{name}.png")
    lines = vidsr_command("batch", tmp_path / "in", "-o", out, "--scale", 2).stdout.splitlines()
    assert len(lines) == 4
    assert lines[2] == "done     and 3 more"


# ------------------------------------------------------------------ many names


def test_upscale_takes_many_names_and_globs(folder: Path, tmp_path: Path) -> None:
    result = vidsr_command("upscale", folder / "a.mp4", folder / "*.png", "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("2 done; ")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.mp4", "b.png", FILE_NAME}


def test_many_names_take_a_format_for_videos_and_one_for_pictures(folder: Path, out: Path) -> None:
    words = ("upscale", folder / "a.mp4", folder / "b.png", "-o", out, "-f", "MKV", "-f", ".webp")
    assert vidsr_command(*words).exit_code == 0
    assert {path.name for path in out.iterdir()} == {"a.mkv", "b.webp", FILE_NAME}
    assert "is one" in refused(2, "upscale", folder / "a.mp4", "-o", "b.mp4", "-f", "mkv")


def test_one_quoted_glob_is_many_inputs(folder: Path, out: Path) -> None:
    result = vidsr_command("upscale", folder / "*.p?g", "-o", out)
    assert result.stdout.splitlines()[-1].startswith("1 done; ")


def test_colorize_takes_many_names(tmp_path: Path, out: Path) -> None:
    model = tiny_colorizer(tmp_path / "mine")
    pictures = [picture(tmp_path / f"in/{name}.png") for name in "ab"]
    words = ("--model", model, "--force", "-o", out)
    result = vidsr_command("colorize", *pictures, *words)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("2 done; ")


def test_batch_colors_only_with_scale_1(tmp_path: Path, out: Path) -> None:
    model = tiny_colorizer(tmp_path / "mine")
    picture(tmp_path / "in/a.png")
    words = ("--colorize", "--color-model", model, "--force", "-o", out)
    assert vidsr_command("batch", tmp_path / "in", *words, "--scale", 1).exit_code == 0
    with Image.open(out / "a.png") as colored:
        assert colored.size == (24, 16)
    vidsr_command("batch", tmp_path / "in", *words, "--scale", 2)
    with Image.open(out / "a.png") as colored:
        assert colored.size == (48, 32)


def test_many_names_need_a_folder_and_every_name_must_be_there(folder: Path, out: Path) -> None:
    one, other = folder / "a.mp4", folder / "b.png"
    assert "name it with -o" in refused(2, "upscale", one, other)
    assert "no such file" in refused(3, "upscale", one, folder / "gone.mp4", "-o", out)
    assert "no file matches" in refused(3, "upscale", one, folder / "*.gone", "-o", out)
    assert "is a file" in refused(2, "upscale", one, other, "-o", other)
    assert "no such folder to make" in refused(2, "upscale", one, other, "-o", out / "x/y")
    assert "vidsr batch" in refused(2, "upscale", one, folder, "-o", out)


# ------------------------------------------------------------------ interrupted


def test_an_interrupted_batch_says_what_is_done_and_goes_on(
    tmp_path: Path, out: Path, make_clip: ClipMaker
) -> None:
    picture(tmp_path / "in/a.png")
    make_clip("in/b.mp4", frames=400, size=(320, 240))
    words = ["batch", str(tmp_path / "in"), "-o", str(out), "--scale", "2", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vidsr", *words, "--jobs", "2", "--preset", "ultrafast"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        done = any(event["event"] == "outcome" for event in events)
        if done and any(event["event"] == "progress" for event in events):
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to every process of the group
            break
    events += [json.loads(line) for line in process.stdout]
    assert process.wait(60) == 130
    process.stdout.close()
    assert events[-1]["message"].startswith("interrupted; 1 of 2 files are done")
    time.sleep(0.1)
    assert {path.name for path in out.iterdir()} == {"a.png", FILE_NAME}
