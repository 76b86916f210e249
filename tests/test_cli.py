"""The command line: words in, sentences and exit codes out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import typer
from conftest import ClipMaker, gradient
from family import ship_family, tiny_colorizer, tiny_model, tiny_twins, without_libraries
from PIL import Image
from typer.testing import CliRunner, Result

import vidsr
from vidsr import cli
from vidsr.cli import screen
from vidsr.cli.words import parse_pairs, parse_time
from vidsr.engines.choice import LIBRARIES
from vidsr.errors import ModelError, RequestError

COMMANDS = [
    [],
    ["upscale"],
    ["colorize"],
    ["batch"],
    ["info"],
    ["verify"],
    ["models"],
    ["models", "pull"],
    ["demo"],
    ["bench"],
    ["doctor"],
    ["train"],
    ["train", "upscale"],
    ["train", "all"],
    ["train", "colorize"],
    ["data"],
    ["data", "prepare"],
    ["evaluate"],
    ["evaluate", "upscale"],
    ["evaluate", "colorize"],
    ["evaluate", "flicker"],
    ["evaluate", "fit-niqe"],
]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small weights, torch alone, a cache of our own, wide lines; SIGTERM's handler as it was."""
    without_libraries(monkeypatch)
    ship_family(monkeypatch, tmp_path / "weights", 2, 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Ship photo-x4 too, mixed with a perceptual twin."""
    return tiny_twins(tmp_path / "weights", "photo-x4", scale=4, fidelity=0.75)


def vidsr_command(*words: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(word) for word in words], prog_name="vidsr")
    assert "Traceback" not in result.output + result.stderr
    return result


def refused(code: int, *words: object) -> str:
    """The one sentence of a command that ends with `code`."""
    result = vidsr_command(*words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("error: ")
    return sentence.removeprefix("error: ")


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "vidsr")
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(command: list[str], flag: str) -> None:
    result = vidsr_command(*command, flag)
    assert result.exit_code == 0
    assert " ".join(["Usage: vidsr", *command]) in result.output


def test_the_list_of_commands_above_is_complete() -> None:
    def paths(command: Any, words: list[str]) -> Iterator[list[str]]:
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from paths(inner, [*words, name])

    assert sorted(paths(typer.main.get_command(cli.app), [])) == sorted(COMMANDS)


def test_every_option_of_every_command_has_a_help_text() -> None:
    def silent(command: Any) -> Iterator[str]:
        for parameter in command.params:
            if not getattr(parameter, "help", None):
                yield f"{command.name} {parameter.name}"
        for inner in getattr(command, "commands", {}).values():
            yield from silent(inner)

    assert list(silent(typer.main.get_command(cli.app))) == []


def test_the_version_is_that_of_the_package() -> None:
    result = vidsr_command("--version")
    assert (result.exit_code, result.output) == (0, f"vidsr {vidsr.__version__}\n")


@pytest.mark.parametrize("command", [[], ["train"], ["data"], ["evaluate"]])
def test_a_group_alone_shows_its_help(command: list[str]) -> None:
    assert "Usage: vidsr" in vidsr_command(*command).output


# ------------------------------------------------------------------ upscale


def test_upscale_writes_the_file_and_says_what_it_did(make_clip: ClipMaker, out: Path) -> None:
    result = vidsr_command("upscale", make_clip(audio=True), "-o", out / "a.mp4")
    assert result.exit_code == 0, result.output
    wrote, model, changed = result.stdout.splitlines()
    assert wrote.startswith(f"wrote {out / 'a.mp4'}: 192x128, 8 frames, ")
    assert model.startswith("model: fast-x4: ")
    assert model.endswith("; the default on a processor") or "the default on a GPU" in model
    assert changed == "dropped or changed: nothing"
    assert [path.name for path in out.iterdir()] == ["a.mp4"]


def test_upscale_takes_a_picture(tmp_path: Path, out: Path) -> None:
    Image.fromarray(gradient(0, 48, 32)).save(tmp_path / "a.png")
    result = vidsr_command("upscale", tmp_path / "a.png", "-o", out / "b.png", "--scale", 2)
    assert result.exit_code == 0, result.output
    assert f"wrote {out / 'b.png'}: 96x64, " in result.stdout


def test_upscale_takes_every_option_at_once(make_clip: ClipMaker, out: Path, photo: Path) -> None:
    words = [
        *("--scale", 2, "--model", "photo", "--fidelity", 0.5, "--device", "cpu"),
        *("--precision", "fp32"),
        *("--tile", 44, "--overlap", 4, "--threads", 1, "--encoder", "libx264", "--crf", 20),
        *("--preset", "fast", "--enc", "tune=animation", "--enc", "x264-params=bframes=0"),
        *("--pix-fmt", "yuv444p", "--start", 0, "--end", "0:0.2", "--overwrite", "--strict", "-q"),
    ]
    result = vidsr_command("upscale", make_clip(), "-o", out / "a.mp4", *words)
    assert (result.exit_code, result.output) == (0, "")
    assert (out / "a.mp4").is_file()


def test_dry_run_prints_the_plan_and_writes_nothing(make_clip: ClipMaker, out: Path) -> None:
    result = vidsr_command("upscale", make_clip(audio=True), "-o", out / "a.mp4", "--dry-run")
    assert result.exit_code == 0, result.output
    for word in ("input", "picture", "streams", "output", "model", "engine", "estimates", "notes"):
        assert any(line.startswith(word) for line in result.stdout.splitlines())
    assert "stream 1 (audio, aac, und): copy" in result.stdout
    assert list(out.iterdir()) == []


def model_line(*words: object) -> str:
    stdout = vidsr_command(*words, "--device", "cpu", "--dry-run").stdout
    (line,) = [line for line in stdout.splitlines() if line.startswith("model")]
    return line


def test_the_plan_says_the_fidelity_and_who_chose_it(make_clip: ClipMaker, photo: Path) -> None:
    words = ["upscale", make_clip(), "--model", "photo"]
    assert model_line(*words).endswith("photo-x4.safetensors; fidelity 0.75 (default)")
    assert model_line(*words, "--fidelity", 0.5).endswith("; fidelity 0.5")
    assert "fidelity" not in model_line("upscale", make_clip(), "--model", "fast")


def test_the_plan_says_why_a_model_was_taken_that_nobody_named(
    make_clip: ClipMaker, photo: Path
) -> None:
    assert model_line("upscale", make_clip()).endswith(
        "; the default on a processor, --model photo for better film and photographs"
    )
    assert "default" not in model_line("upscale", make_clip(), "--model", "fast")


def test_a_fidelity_for_a_model_without_perceptual_weights_is_one_sentence(
    make_clip: ClipMaker,
) -> None:
    said = refused(2, "upscale", make_clip(), "--model", "fast", "--fidelity", 0.5)
    assert said.startswith("--fidelity 0.5: fast-x4 has no perceptual weights to mix with")


def test_dry_run_of_a_picture_prints_its_plan(tmp_path: Path, out: Path) -> None:
    Image.fromarray(gradient(0, 48, 32)).convert("LA").save(tmp_path / "a.png")
    result = vidsr_command("upscale", tmp_path / "a.png", "-o", out / "b.png", "--dry-run")
    assert "PNG, 48x32, 8 bit, grey, alpha" in result.stdout
    assert list(out.iterdir()) == []


def test_quiet_prints_nothing(make_clip: ClipMaker, out: Path) -> None:
    result = vidsr_command("upscale", make_clip(), "-o", out / "a.mp4", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_quiet_still_prints_errors(out: Path) -> None:
    assert "no such file" in refused(3, "upscale", out / "gone.mp4", "--quiet")


def test_json_lines_parse_and_end_with_the_result(
    make_clip: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.job.REPORT_SECONDS", 0)
    result = vidsr_command("upscale", make_clip(), "-o", out / "a.mp4", "--json")
    *progress, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in progress] == ["progress"] * 8
    assert last["event"] == "result"
    assert (last["frames_in"], last["frames_out"], last["width"]) == (8, 8, 192)
    assert last["destination"] == str(out / "a.mp4")
    assert result.stderr == ""


def test_json_of_a_plan_is_one_line(make_clip: ClipMaker, out: Path) -> None:
    for words in (
        ["upscale", make_clip(), "-o", out / "a.mp4", "--dry-run"],
        ["info", make_clip()],
    ):
        (line,) = vidsr_command(*words, "--json").stdout.splitlines()
        assert json.loads(line)["event"] == "plan"


def test_json_of_a_plan_has_numbers(make_clip: ClipMaker, out: Path) -> None:
    clip = make_clip("clip.mkv", audio=True)
    words = ["upscale", clip, "-o", out / "a.mkv", "--scale", 2, "--model", "fast", "--dry-run"]
    (line,) = vidsr_command(*words, "--json").stdout.splitlines()
    told = json.loads(line)
    source, target, expected = told["source"], told["target"], told["expected"]
    assert (source["path"], source["bytes"]) == (str(clip), clip.stat().st_size)
    assert (source["width"], source["height"], source["bit_depth"]) == (48, 32, 8)
    assert (source["frame_rate"], source["fps"]) == ("24/1", 24.0)
    assert source["duration_seconds"] == pytest.approx(8 / 24, abs=0.05)
    assert source["frames"] is None  # Matroska's header does not say
    assert (target["width"], target["height"], target["scale"]) == (96, 64, 2.0)
    assert (target["path"], target["encoder"]) == (str(out / "a.mkv"), "libx264")
    assert (told["network"]["name"], told["network"]["device"]) == ("fast-x2", "cpu")
    assert expected["memory_bytes"] > told["network"]["memory_bytes"] > 0
    assert expected["frames"] in range(7, 10)
    assert expected["seconds"] > 0
    tracks = [(track["index"], track["kind"], track["action"]) for track in told["tracks"]]
    assert tracks == [(0, "video", "process"), (1, "audio", "copy")]
    assert isinstance(told["estimates"], str)  # what was there before stays


def test_json_of_a_plan_counts_all_numbered_pictures(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(gradient(number, 24, 16)).save(tmp_path / f"{number}.png")
    sizes = [(tmp_path / f"{number}.png").stat().st_size for number in range(3)]
    words = ["upscale", tmp_path / "%d.png", "-o", tmp_path / "a.mp4", "--dry-run", "--json"]
    told = json.loads(vidsr_command(*words, "--rate", "24000/1001").stdout)
    source = told["source"]
    assert (source["path"], source["bytes"]) == (str(tmp_path / "%d.png"), sum(sizes))
    assert (source["frames"], source["frame_rate"]) == (3, "24000/1001")
    assert told["tracks"][0]["action"] == "process"


def test_json_of_a_pictures_plan_has_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(gradient(0, 48, 32)).convert("LA").save(path)
    told = json.loads(vidsr_command("info", path, "--json").stdout)
    assert told["source"] == {
        "path": str(path),
        "bytes": path.stat().st_size,
        "format": "PNG",
        "width": 48,
        "height": 32,
        "bit_depth": 8,
        "alpha": True,
    }
    assert (told["target"]["width"], told["target"]["height"]) == (192, 128)
    assert told["target"]["scale"] == 4.0
    assert told["network"]["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (["gone.mp4"], "MediaError", 3),
        (["gone.mp4", "--scale", "7"], "RequestError", 2),
    ],
)
def test_json_ends_with_the_error_and_its_exit_code(words: list[str], kind: str, code: int) -> None:
    result = vidsr_command("upscale", *words, "--json")
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert (told["event"], told["type"], told["exit_code"]) == ("error", kind, code)
    assert told["message"]
    assert result.exit_code == code
    assert result.stderr == ""


def test_what_is_in_square_brackets_is_printed_as_it_is(out: Path) -> None:
    assert "[bold]gone[/bold].mp4" in refused(3, "upscale", "[bold]gone[/bold].mp4")


# ------------------------------------------------------------------ other commands


def test_info_shows_a_file_and_writes_nothing(make_clip: ClipMaker) -> None:
    clip = make_clip(audio=True)
    before = sorted(path.name for path in clip.parent.iterdir())
    result = vidsr_command("info", clip)
    assert result.exit_code == 0, result.output
    assert "48x32 yuv420p, 24.000 fps" in result.stdout
    after = sorted(path.name for path in clip.parent.iterdir())
    assert set(after) - set(before) <= {"cache"}


def test_info_works_where_nothing_can_be_written(
    make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip()
    nothing = SimpleNamespace(access=lambda *_: False, W_OK=os.W_OK, X_OK=os.X_OK)
    monkeypatch.setattr("vidsr.planning.os", nothing)
    assert "48x32" in vidsr_command("info", clip).stdout
    assert "cannot be written; name another output" in refused(2, "upscale", clip)


def test_models_lists_what_ships() -> None:
    result = vidsr_command("models")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["fast-x2", "fast-x4"]


def test_models_lists_a_twin_under_its_model_with_the_default_fidelity(photo: Path) -> None:
    header, *lines = vidsr_command("models").stdout.splitlines()
    column = header.index("fidelity")
    rows = [(line[:column].split()[0], line[column:].split()[0]) for line in lines]
    assert rows[2:] == [("photo-x4", "0.75"), ("photo-x4-perceptual", "compact")]
    assert lines[3].startswith("   photo-x4-perceptual")


def test_models_as_json_are_the_cards() -> None:
    lines = vidsr_command("models", "--json").stdout.splitlines()
    assert [json.loads(line)["scale"] for line in lines] == [2, 4]


def test_a_demo_of_an_unknown_scale_leaves_nothing(out: Path) -> None:
    assert "2, 3 and 4 work" in refused(2, "demo", out / "demo", "--scale", 9)
    assert list(out.iterdir()) == []


# ------------------------------------------------------------------ evaluate


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """A folder with two pictures to be measured on."""
    folder = tmp_path / "pictures" / "val"
    folder.mkdir(parents=True)
    for number in range(2):
        Image.fromarray(gradient(number, 80, 72)).save(folder / f"{number}.png")
    return folder


def test_evaluate_prints_every_picture_and_the_means(originals: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "mine", "mine", scale=2)
    words = ["evaluate", "upscale", "--model", "fast-x2", "--against", other]
    result = vidsr_command(*words, "--data", originals, "--device", "cpu")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["pictures/val", "bicubic", "fast-x2", "mine"]
    assert [line.split()[0] for line in lines[2:4]] == ["0.png", "1.png"]
    assert lines[6].split()[:3] == ["pictures/val", "PSNR-Y", "SSIM-Y"]
    assert [line.split()[0] for line in lines[7:]] == ["bicubic", "fast-x2", "mine"]
    assert [len(line.split()) for line in lines[7:]] == [9, 9, 9]


def test_evaluate_prints_a_json_line_a_folder(originals: Path) -> None:
    words = ["--model", "fast-x4", "--data", originals, "--data", originals.parent, "--json"]
    result = vidsr_command("evaluate", "upscale", *words, "--codec", "h264", "--device", "cpu")
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["data"] for report in reports] == ["pictures/val", "pictures"]
    assert {report["codec"] for report in reports} == {"h264 crf 28"}
    assert set(reports[0]["mean"]) == {"bicubic", "fast-x4"}
    assert [picture["name"] for picture in reports[1]["pictures"]] == ["val/0.png", "val/1.png"]


def test_evaluate_takes_the_fidelity_of_the_model_alone(originals: Path, photo: Path) -> None:
    """`photo` is mixed with a twin by 0.75."""
    words = ["--model", "photo-x4", "--against", "photo-x4", "--data", originals, "--json"]
    result = vidsr_command("evaluate", "upscale", *words, "--fidelity", 0.75, "--device", "cpu")
    mean = json.loads(result.stdout)["mean"]
    assert mean["photo-x4, fidelity 0.75"] == mean["photo-x4"]
    result = vidsr_command("evaluate", "upscale", *words, "--fidelity", 0, "--device", "cpu")
    mean = json.loads(result.stdout)["mean"]
    assert mean["photo-x4, fidelity 0"] != mean["photo-x4"]
    sentence = refused(2, "evaluate", "upscale", *words[:-1], "--fidelity", 0, "--card")
    assert sentence == "a card tells of the model's own fidelity: --card or --fidelity"


def test_evaluate_writes_reports_and_the_card(originals: Path, tmp_path: Path, out: Path) -> None:
    words = ["--model", "fast-x2", "--data", originals, "--data", originals.parent, "--card"]
    result = vidsr_command("evaluate", "upscale", *words, "-o", out / "deep", "--device", "cpu")
    assert result.exit_code == 0, result.output
    for name in ("pictures-val", "pictures"):
        written = sorted(path.name for path in (out / "deep" / name).iterdir())
        assert written == ["plot.png", "report.json", "sheet.png"]
    measured = json.loads((tmp_path / "weights" / "fast-x2.json").read_text())["measured"]
    assert list(measured) == ["pictures/val", "pictures"]
    assert measured["pictures"]["psnr_y"] < 100
    assert "pictures/val" in vidsr_command("models").stdout


def test_models_of_different_scales_are_not_compared(originals: Path) -> None:
    words = ["--model", "fast-x2", "--against", "fast-x4", "--data", originals]
    sentence = refused(2, "evaluate", "upscale", *words)
    assert sentence == (
        "--against fast-x4 enlarges 4 times and --model fast-x2 2 times; compare models of one "
        "scale"
    )


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--model", "fats-x2"], 4, "did you mean fast-x2"),
        (["--against", "missing.pth"], 4, "missing.pth"),
        (["--crf", "30"], 2, "--crf 30 needs --codec"),
        (["--crf", "-1", "--codec", "h264"], 2, "--crf -1: h264 takes 0 (best) to 51"),
        (["--crf", "nan", "--codec", "hevc"], 2, "--crf nan: hevc takes 0 (best) to 51"),
        (["--data", "missing"], 2, "missing: no such folder"),
        (["--data", "."], 2, "no pictures"),
    ],
    ids=str,
)
def test_an_evaluation_that_cannot_be_is_one_sentence_before_any_work(
    originals: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    expected: str,
) -> None:
    monkeypatch.chdir(out)
    given = ["--model", "fast-x2", "--data", str(originals)]
    assert expected in refused(code, "evaluate", "upscale", *given, *words)


def test_a_card_that_is_not_there_cannot_be_written(originals: Path, tmp_path: Path) -> None:
    weights = tiny_model(tmp_path / "mine", "mine", scale=2)
    weights.with_suffix(".json").unlink()
    words = ["--model", weights, "--data", originals, "--card"]
    assert "mine.json: no card" in refused(2, "evaluate", "upscale", *words)


def test_niqe_is_not_fitted_on_next_to_nothing(originals: Path, out: Path) -> None:
    sentence = refused(2, "evaluate", "fit-niqe", "--data", originals, "-o", out / "own.npz")
    assert "only 0 sharp blocks" in sentence
    assert list(out.iterdir()) == []


def test_evaluate_colorize_prints_each_saturation_beside_gray(
    originals: Path, tmp_path: Path
) -> None:
    words = ["--model", tiny_colorizer(tmp_path / "mine", "mine"), "--data", originals]
    result = vidsr_command(
        "evaluate", "colorize", *words, "--saturation", 0.5, "--saturation", 2, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    title, heads, *rows = result.stdout.strip().splitlines()
    assert title.startswith("all: 2 pictures of colorfulness")
    assert heads.split()[:4] == ["pictures/val", "PSNR-RGB", "SSIM", "dE00"]
    assert [row.split()[0] for row in rows] == ["gray", "saturation", "saturation"]
    assert [row.split()[1] for row in rows[1:]] == ["0.5", "2"]


def test_evaluate_colorize_writes_reports_and_the_card(
    originals: Path, tmp_path: Path, out: Path
) -> None:
    weights = tiny_colorizer(tmp_path / "mine", "mine")
    words = ["--model", weights, "--data", originals, "--card", "--json", "--device", "cpu"]
    result = vidsr_command("evaluate", "colorize", *words, "-o", out / "report")
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["mean"]["all"]) == ["gray", "saturation 1"]
    written = sorted(path.name for path in (out / "report").iterdir())
    assert written == ["plot.png", "report.json", "sheet.jpg"]
    measured = json.loads(weights.with_suffix(".json").read_text())["measured"]
    assert list(measured) == ["pictures/val, saturation 1"]
    figures = measured["pictures/val, saturation 1"]
    assert {"ciede2000", "gray_ciede2000", "ratio"} < set(figures)
    weights.rename(tmp_path / "weights" / weights.name)
    weights.with_suffix(".json").rename(tmp_path / "weights" / "mine.json")
    listed = vidsr_command("models").stdout
    assert f"val, saturation 1 {figures['psnr_rgb']:.2f} ({figures['gray_psnr_rgb']:.2f})" in listed


def test_a_model_that_enlarges_has_no_colors_to_evaluate(originals: Path) -> None:
    words = ["--model", "fast-x2", "--data", originals]
    assert "does not color" in refused(2, "evaluate", "colorize", *words)


def test_evaluate_flicker_prints_the_whole_clip_and_its_end(
    make_clip: ClipMaker, tmp_path: Path
) -> None:
    clip = make_clip(frames=4, size=(64, 48))
    words = ["--model", tiny_colorizer(tmp_path / "mine", "mine"), "--original", clip]
    result = vidsr_command("evaluate", "flicker", clip, *words, "--device", "cpu")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0].startswith("4 frames, ")
    assert lines[5] == "the last second"
    rows = [row.split()[0] for row in (*lines[2:5], *lines[7:])]
    assert rows == ["output", "frame", "original"] * 2


def test_evaluate_flicker_measures_a_colorized_clip_as_it_is(make_clip: ClipMaker) -> None:
    result = vidsr_command("evaluate", "flicker", make_clip(frames=3), "--json")
    report = json.loads(result.stdout)
    assert (report["clip"], report["frames"]) == ("clip.mp4", 3)
    assert list(report["whole"]) == ["output"]
    assert report["whole"]["output"]["chroma"] > 5


def test_flicker_is_refused_where_it_makes_no_sense(make_clip: ClipMaker, tmp_path: Path) -> None:
    clip = make_clip(frames=3)
    longer = make_clip("longer.mp4", frames=4)
    flicker = ["evaluate", "flicker"]
    assert "--stability 0.5 needs --model" in refused(2, *flicker, clip, "--stability", "0.5")
    assert "more frames" in refused(2, *flicker, clip, "--original", longer)
    assert "no such file" in refused(3, *flicker, tmp_path / "gone.mp4")


# ------------------------------------------------------------------ wrong words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--scale", "5"], "--scale 5: 2, 3 and 4 work"),
        (["--scale", "2", "--height", "720"], "exclude each other"),
        (["--size", "1920"], "--size 1920 is not WxH"),
        (["--size", "axb"], "--size axb is not WxH"),
        (["--size", "-1x5"], "--size -1x5 is not WxH"),
        (["--height", "5"], "below 16 pixels"),
        (["--tile", "large"], "--tile large is neither auto nor a number"),
        (["--tile", "-5"], "--tile -5 is neither auto nor a number"),
        (["--overlap", "-1"], "--overlap -1 is negative"),
        (["--fidelity", "1.5"], "--fidelity 1.5 is not between 0"),
        (["--fidelity", "nan"], "--fidelity nan is not between 0"),
        (["--threads", "-1"], "--threads -1"),
        (["--threads", "0"], "--threads 0"),
        (["--enc", "tune"], "--enc tune is not KEY=VALUE"),
        (["--start", "soon"], "'soon' is no time"),
        (["--start", "1:2:3:4"], "'1:2:3:4' is no time"),
        (["--start", "1/0"], "'1/0' is no time"),
        (["--start", ""], "'' is no time"),
        (["--end", "-1"], "'-1' is no time"),
        (["--start", "x"], "'x' is no time; write seconds, M:S or H:M:S"),
        (["--start", "1e999"], "'1e999' is no time"),
        (["--start", "9" * 400], "is no time"),
        (["--end", "9" * 12], "is no time"),
        (["--rate", "1e999"], "--rate 1e999 is no rate"),
        (["--max-memory", "0"], "0 may be taken"),
        (["--max-memory", "9" * 400, "--rate", "24"], "--rate is for numbered pictures"),
        (["--crf", "99"], "--crf 99: libx264 takes 0 (best) to 51"),
        (["--crf", "-1"], "--crf -1: encoders take 0 (best) and more"),
        (["--crf", "-0.5", "--encoder", "libx265"], "--crf -0.5: encoders take 0 (best) and more"),
        (["--crf", "inf"], "--crf inf: encoders take 0 (best) and more"),
        (["--reuse", "motion", "--reuse-error", "nan"], "--reuse-error nan is negative or no"),
        (["--scale", "1"], "`vidsr colorize` only colors"),
        (["--colorize", "--scale", "1"], "`vidsr colorize` only colors"),
        (["--model", "nope"], "there are fast, fast-x2, fast-x4 ("),
        (["-o", "no-such-folder/"], "no-such-folder: there is no such folder"),
        (["-o", "frame.jpg"], "numbered pictures (%06d.png), .gif, .webp and .apng, not .jpg"),
        (["--end", "0"], "--end 0 is not after --start 0"),
        (["--start", "3", "--end", "2"], "--end 2 is not after --start 3"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_values_that_make_no_sense_are_one_sentence(
    make_clip: ClipMaker, words: list[str], sentence: str
) -> None:
    code = ModelError.exit_code if "--model" in words else RequestError.exit_code
    assert sentence in refused(code, "upscale", make_clip(), *words)


def test_a_folder_is_refused_with_the_command_that_takes_it(tmp_path: Path) -> None:
    sentence = refused(3, "upscale", tmp_path, "-o", "out")
    assert f"`vidsr batch {tmp_path} -o OUT`" in sentence


def test_a_file_that_is_no_checkpoint_is_no_unknown_model(make_clip: ClipMaker) -> None:
    clip = make_clip()
    assert f"{clip} is no checkpoint" in refused(4, "upscale", clip, "--model", clip)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_model_that_doubles_does_so_if_no_size_is_asked_for(
    tmp_path: Path, out: Path, checkpoint: bool
) -> None:
    model = tiny_model(tmp_path / "own", "mine", scale=2) if checkpoint else "fast-x2"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    assert vidsr_command("upscale", tmp_path / "a.png", "-o", out, "-m", model).exit_code == 0
    with Image.open(out / "a.png") as larger:
        assert larger.size == (80, 60)
    sentence = refused(2, "upscale", tmp_path / "a.png", "-o", out, "-m", model, "-s", 4, "-y")
    assert "enlarges 2 times at most, 4 is asked for" in sentence


def test_short_words_mean_what_the_long_ones_do(make_clip: ClipMaker, out: Path) -> None:
    words = ("upscale", make_clip(), "-o", out / "a.mp4", "-s", 2, "-m", "fast-x4")
    assert vidsr_command(*words).exit_code == 0
    assert "exists" in refused(2, *words)
    result = vidsr_command(*words, "-y", "--json")
    assert json.loads(result.stdout.splitlines()[-1])["width"] == 2 * 48


@pytest.mark.parametrize("command", ["upscale", "colorize", "batch"])
def test_help_names_the_short_words(command: str) -> None:
    text = vidsr_command(command, "-h").stdout
    short = ["-m", "-y"] if command == "colorize" else ["-s", "-m", "-y"]
    assert all(f" {word} " in text for word in short)


@pytest.mark.parametrize("command", ["upscale", "colorize", "batch"])
def test_help_puts_every_option_but_three_under_a_title(command: str) -> None:
    inner: Any = typer.main.get_command(cli.app)
    options = [o for o in inner.commands[command].params if o.param_type_name == "option"]
    untitled = {option.name for option in options if option.rich_help_panel is None}
    assert untitled == {"output", "as_json", "quiet"}


def test_help_lists_what_is_used_most_first() -> None:
    text = vidsr_command("-h").stdout
    places = [text.index(f" {name} ") for name in ("upscale", "colorize", "batch", "bench")]
    assert places == sorted(places)
    assert "INPUT..." not in vidsr_command("upscale", "-h").stdout.splitlines()[2]


def test_a_name_with_an_emojis_word_is_printed_as_it_is(out: Path) -> None:
    assert "a:smile:b.mp4" in refused(3, "upscale", out / "a:smile:b.mp4")


def test_a_bar_takes_any_title() -> None:
    title = "{a} [b] :smile:"
    with screen.bar(title) as progress:
        progress.add_task("", total=1, rate="", by="")
        column: Any = progress.columns[0]
        assert str(column.render(progress.tasks[0])) == title


def test_a_demo_that_cannot_be_put_somewhere_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert "is a file; name a folder" in refused(2, "demo", tmp_path / "a.mp4")
    assert "cannot be made" in refused(3, "demo", tmp_path / "a.mp4" / "x")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["upscale", "a.mp4", "--scale", "1.5"], "Invalid value for '-s' / '--scale'"),
        (["upscale", "a.mp4", "--shine"], "No such option: --shine"),
    ],
)
def test_under_json_words_that_are_not_known_are_an_object_too(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["vidsr", *words, "--json"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert (facts["event"], facts["exit_code"], said.err) == ("error", 2, "")
    assert sentence in facts["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["upscale"],
        ["info", "a.mp4", "b.mp4"],
        ["upscale", "a.mp4", "--scale", "two"],
        ["upscale", "a.mp4", "--precision", "fp8"],
        ["upscale", "a.mp4", "--shine"],
        ["upscale", "a.mp4", "--output"],
        ["downscale"],
        ["--shine"],
        ["train", "all"],
    ],
    ids=str,
)
def test_words_that_the_command_does_not_know_end_with_two(words: list[str]) -> None:
    result = vidsr_command(*words)
    assert result.exit_code == 2
    assert "Error" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", Fraction(0)),
        ("12.5", Fraction(25, 2)),
        ("1:30", Fraction(90)),
        ("1:02:03.5", Fraction(7447, 2)),
        ("0.1", Fraction(1, 10)),
    ],
)
def test_times_are_exact(text: str, seconds: Fraction) -> None:
    assert parse_time(text) == seconds


def test_pairs_keep_what_follows_the_first_equals_sign() -> None:
    assert parse_pairs(["x264-params=bframes=2:ref=3"]) == {"x264-params": "bframes=2:ref=3"}
    with pytest.raises(RequestError):
        parse_pairs(["bframes"])


# ------------------------------------------------------------------ a real process


@pytest.fixture
def long_clip(make_clip: ClipMaker) -> Path:
    """Large enough to be in the middle of it for seconds."""
    options = {"crf": "30", "preset": "ultrafast"}
    clock = {"pts": [40 * number for number in range(40)], "time_base": Fraction(1, 1000)}
    return make_clip("long.mkv", frames=40, size=(640, 360), rate=25, options=options, **clock)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "mine", "mine", scale=4)


# Tests in the background of a shell ignore SIGINT, and the processes they start inherit that.
HEARING_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from vidsr.cli import main
main()
"""


def start(*words: object, **pipes: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HEARING_CTRL_C, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
    return subprocess.Popen(command, text=True, **pipes)


def wait_for_a_part(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not list(folder.iterdir()):
        assert time.monotonic() < deadline, "the run never began to write"
        time.sleep(0.02)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_in_the_middle_leaves_nothing(
    long_clip: Path, model: Path, out: Path, kind: signal.Signals
) -> None:
    with start("upscale", long_clip, "-o", out / "a.mp4", "--model", model) as process:
        wait_for_a_part(out)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(kind)
        said, complained = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == ""
    assert complained.strip().splitlines()[-1] == "error: interrupted; nothing was written"
    assert "Traceback" not in complained
    assert list(out.iterdir()) == []


def test_a_reader_that_goes_away_ends_the_run_quietly(
    long_clip: Path, model: Path, out: Path
) -> None:
    words = ["upscale", long_clip, "-o", out / "a.mp4", "--model", model, "--json"]
    with start(*words) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        complained = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == 130  # and not 0: there is no output
    assert complained == ""
    assert list(out.iterdir()) == []


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    with start("upscale", tmp_path / "gone.mp4") as process:
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 3
    assert said == ""
    assert complained == f"error: {tmp_path / 'gone.mp4'}: no such file\n"


def test_the_installed_command_is_the_same_program() -> None:
    command = Path(sys.executable).with_name("vidsr")
    if not command.is_file():
        pytest.skip(f"needs vidsr installed beside {sys.executable}")
    ended = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"vidsr {vidsr.__version__}\n"


@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["--help"]], ids=" ".join)
def test_output_that_nobody_reads_is_no_traceback(words: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with start(*words, stdout=write_end) as process:
        os.close(write_end)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_training_without_pictures_is_one_sentence() -> None:
    result = vidsr_command("train", "upscale", "--steps", "3")
    assert result.exit_code == 2
    assert result.stderr == "error: a training needs data\n"


def test_a_training_from_a_file_writes_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    recipe = tmp_path / "tiny.toml"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.linear_gradient("L").save(pictures / "ramp.png")
    recipe.write_text(
        'name = "tiny"\ndata = ["pictures"]\nsteps = 2\nchannels = 4\nblocks = 1\n'
        "batch = 2\npatch = 4\nscale = 2\n"
    )
    result = vidsr_command(
        "train", "upscale", "--recipe", str(recipe), "--root", str(tmp_path), "--run", str(tmp_path)
    )
    assert result.exit_code == 0, result.stderr
    assert "tiny: step 2, loss" in result.stdout
    assert (tmp_path / "tiny" / "tiny.safetensors").is_file()


def test_a_training_starts_from_what_another_left_in_the_folder_of_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    pictures = colored_pictures(tmp_path / "pictures", 1)
    words = ["train", "upscale", "--data", pictures, "--run", tmp_path, "--channels", 4]
    words += ["--blocks", 1, "--batch", 2, "--patch", 4, "--scale", 2, "--steps", 1]
    assert "unknown model 'first'" in refused(4, *words, "--name", "second", "--init", "first")
    assert vidsr_command(*words, "--name", "first").exit_code == 0
    assert vidsr_command(*words, "--name", "second", "--init", "first").exit_code == 0
    card = json.loads((tmp_path / "second" / "second.json").read_text())
    assert "; from first; " in card["trained_on"]


def colored_pictures(folder: Path, number: int) -> Path:
    """Smooth gradients, each another one."""
    folder.mkdir()
    for shift in range(number):
        Image.fromarray(gradient(17 * shift, 64, 48)).save(folder / f"{shift}.png")
    return folder


def test_a_colorizer_is_trained_and_resumed_from_its_run(tmp_path: Path) -> None:
    folder = colored_pictures(tmp_path / "pictures", 2)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        'name = "tiny"\ndata = ["pictures"]\nsteps = 2\nchannels = 8\nblocks = 1\n'
        "batch = 1\npatch = 16\nside = 32\n"
    )
    words = ["train", "colorize", "--run", tmp_path / "runs"]
    begun = vidsr_command(*words, "--recipe", recipe, "--root", folder.parent, "--session", 0)
    assert begun.exit_code == 0, begun.output
    resumed = vidsr_command(*words, "--name", "tiny", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "tiny: step 2, loss" in resumed.stdout
    assert (tmp_path / "runs" / "tiny" / "tiny.safetensors").is_file()


def test_a_colorizer_without_pictures_is_one_sentence() -> None:
    result = vidsr_command("train", "colorize", "--steps", "3")
    assert (result.exit_code, result.stderr) == (2, "error: a training needs data\n")


def test_prepared_pictures_are_counted_and_listed(tmp_path: Path) -> None:
    folder = colored_pictures(tmp_path / "pictures", 3)
    Image.linear_gradient("L").save(folder / "gray.png")
    out = tmp_path / "out"
    result = vidsr_command("data", "prepare", folder, "-o", out, "--side", 32, "--near", 0)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"3 pictures kept, 1 gray dropped: {out}\n"
    assert (out / "manifest.csv").is_file()
    again = vidsr_command("data", "prepare", folder, "-o", out)
    assert again.exit_code == 2
    assert again.stderr.startswith(f"error: {out} already holds prepared pictures")


def test_bench_tells_each_timing_and_what_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidsr.bench.SIZES", {"small": (40, 24)})
    told = vidsr_command("bench", "--seconds", 0, "--device", "cpu")
    assert told.exit_code == 0
    assert "~ measured on a smaller piece" in told.stdout
    assert "small: --model fast-x" in told.stdout
    lines = [json.loads(line) for line in vidsr_command("bench", "--json").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["timing", "timing", "advice"]
    assert {"model", "engine", "frames_per_second", "hour_seconds", "scaled"} <= lines[0].keys()
    assert "unknown model" in refused(4, "bench", "--model", "fsat")


def test_doctor_tells_versions_and_what_is_missing() -> None:
    told = vidsr_command("doctor")
    assert told.exit_code == 0
    for words in ("vidsr " + vidsr.__version__, "ffmpeg", "libx264", "missing"):
        assert words in told.stdout
    (line,) = vidsr_command("doctor", "--json").stdout.splitlines()
    facts = json.loads(line)
    assert facts["event"] == "doctor"
    assert facts["versions"]["vidsr"] == vidsr.__version__


@pytest.mark.parametrize("library", ["openvino", "ncnn"])
def test_a_library_that_is_missing_is_named_with_the_command_that_adds_it(
    library: str, make_clip: ClipMaker, out: Path
) -> None:
    words = ("upscale", make_clip(), "-o", out / "a.mp4", "--engine", library)
    assert f"pip install 'vidsr[{library}]'" in refused(5, *words)
    assert "not on cuda" in refused(2, *words, "--device", "cuda")


@pytest.mark.parametrize("library", ["openvino", "ncnn"])
def test_a_library_enlarges_as_torch_does(
    library: str, make_clip: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.setattr(LIBRARIES[library], "installed", lambda: True)  # type: ignore[index]
    source, cache = make_clip(frames=3), Path(os.environ["XDG_CACHE_HOME"]) / "vidsr"
    lossless = ("--scale", 2, "--encoder", "ffv1", "--json")
    for engine in ("torch", library):
        words = ("upscale", source, "-o", out / f"{engine}.mkv", "--engine", engine, *lossless)
        assert vidsr_command(*words).exit_code == 0
    assert (cache / "engines.json").is_file()
    assert bool(list(cache.glob("openvino/*.blob"))) == (library == "openvino")
    ours, theirs = (frames_of(out / f"{engine}.mkv") for engine in (library, "torch"))
    assert len(ours) == len(theirs) == 3
    for a, b in zip(ours, theirs, strict=True):  # a rounding may fall to the other side
        assert np.abs(a.astype(int) - b).max() <= 1


def test_the_plan_tells_what_was_measured(make_clip: ClipMaker) -> None:
    told = vidsr_command("upscale", make_clip(), "--dry-run").stdout
    assert "torch on cpu, fp32" in told
    assert "torch fp32 planar" in told
    assert "ms a tile of a core" in told


def test_a_cache_that_cannot_be_written_is_said(
    make_clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told = vidsr_command("upscale", make_clip(), "--dry-run").stdout
    assert "cannot be written: nothing is measured or kept" in told


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray() for frame in file.decode(video=0)]
