"""Many files: what is listed, done, done again, skipped, refused; and who does it."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ClipMaker, gradient
from family import ship_family, tiny_colorizer, tiny_model
from PIL import Image

from vidsr import batch
from vidsr.batch import BatchRequest, Folder, Listed, LocalExecutor, Outcome, Summary, Told, run
from vidsr.batch.executor import Task, Telling, work
from vidsr.batch.listing import Identity, list_folder, list_inputs
from vidsr.batch.outcome import shared_exit_code
from vidsr.batch.record import FILE_NAME, Record
from vidsr.errors import DeviceError, MediaError, ModelError, RequestError, VidsrError
from vidsr.events import Progress, Result
from vidsr.media.encoders import EncoderRequest
from vidsr.media.probe import probe
from vidsr.request import ColorRequest, EngineRequest, Job, SizeRequest

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def mixed(folder: Path, make_clip: ClipMaker) -> Path:
    """A clip, a picture, a clip in a folder, one that is broken, and a text."""
    clip = make_clip("in/a.mp4", frames=3)
    draw(folder / "b.png")
    make_clip("in/deep/c.mkv", frames=2)
    (folder / "broken.mp4").write_bytes(clip.read_bytes()[:500])
    (folder / "notes.txt").write_text("Nothing to see.\n")
    return folder


def draw(path: Path, size: tuple[int, int] = (24, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gradient(0, *size)).save(path)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def job_of(**changes: object) -> Job:
    job = Job(
        Path(),
        size=SizeRequest(scale=2),
        engine=EngineRequest(device="cpu"),
        encoder=EncoderRequest(preset="ultrafast"),
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def request_of(source: Path | tuple[Path, ...], out: Path, **changes: object) -> BatchRequest:
    inputs = Folder(source, recursive=True) if isinstance(source, Path) else source
    return BatchRequest(inputs, out, job_of(**changes))


def summary_of(request: BatchRequest, executor: batch.Executor | None = None) -> Summary:
    *_, summary = run(request, executor)
    assert isinstance(summary, Summary)
    return summary


def statuses(summary: Summary) -> dict[str, str]:
    return {outcome.source.name: outcome.status for outcome in summary.outcomes}


def reasons(summary: Summary) -> dict[str, str]:
    return {outcome.source.name: outcome.reason for outcome in summary.outcomes}


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ a folder


def test_a_mixed_folder_keeps_its_tree_and_one_broken_file_stops_nothing(
    mixed: Path, out: Path
) -> None:
    summary = summary_of(request_of(mixed, out))
    assert statuses(summary) == {
        "a.mp4": "done",
        "b.png": "done",
        "c.mkv": "done",
        "broken.mp4": "failed",
        "notes.txt": "ignored",
    }
    assert tree(out) == {"a.mp4", "b.png", "deep/c.mkv", FILE_NAME}
    assert summary.exit_code == MediaError.exit_code
    assert (probe(out / "a.mp4").width, size_of(out / "b.png")) == (96, (48, 32))


def test_a_second_run_skips_what_is_done_and_tries_again_what_failed(
    mixed: Path, out: Path
) -> None:
    summary_of(request_of(mixed, out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    second = summary_of(request_of(mixed, out))
    assert second.counts == {"skipped": 3, "ignored": 1, "failed": 1}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before


def test_the_first_event_says_how_many_are_to_do_and_every_event_is_plain_data(
    mixed: Path, out: Path
) -> None:
    events = list(run(request_of(mixed, out)))
    assert events[0] == Listed(4)
    assert all(pickle.loads(pickle.dumps(event)) == event for event in events)
    begun = [event.source.name for event in events if isinstance(event, Told)]
    ended = [event.source.name for event in events if isinstance(event, Outcome)]
    assert begun == ["a.mp4", "b.png", "c.mkv"]
    assert set(ended) > set(begun)


@pytest.mark.parametrize(
    "change",
    [
        {"size": SizeRequest(scale=4)},
        {"encoder": EncoderRequest(preset="ultrafast", crf=30)},
        {"engine": EngineRequest(device="cpu", model="fast-x4")},
    ],
    ids=["size", "crf", "model"],
)
def test_a_changed_setting_does_it_again(
    folder: Path, out: Path, make_clip: ClipMaker, change: dict[str, object]
) -> None:
    make_clip("in/a.mp4", frames=2)
    summary_of(request_of(folder, out))
    (outcome,) = summary_of(request_of(folder, out, **change)).outcomes
    assert (outcome.status, outcome.again) == ("done", "the settings have changed")


@pytest.mark.parametrize(
    "change",
    [
        {"overwrite": True},
        {"strict": True},
        {"engine": EngineRequest(device="auto", threads=1)},
    ],
    ids=["overwrite", "strict", "where"],
)
def test_how_and_where_it_runs_does_nothing_again(
    folder: Path, out: Path, change: dict[str, object]
) -> None:
    draw(folder / "a.png")
    summary_of(request_of(folder, out))
    assert summary_of(request_of(folder, out, **change)).counts == {"skipped": 1}


def test_a_changed_input_is_done_again(folder: Path, out: Path) -> None:
    draw(folder / "a.png")
    summary_of(request_of(folder, out))
    draw(folder / "a.png", (32, 16))
    (outcome,) = summary_of(request_of(folder, out)).outcomes
    assert (outcome.status, outcome.again) == ("done", "the input has changed")
    assert size_of(out / "a.png") == (64, 32)


def test_other_weights_of_the_same_name_do_it_again(folder: Path, out: Path, family: Path) -> None:
    draw(folder / "a.png")
    summary_of(request_of(folder, out))
    tiny_model(family, "fast-x2", scale=2, seed=77)
    (outcome,) = summary_of(request_of(folder, out)).outcomes
    assert (outcome.status, outcome.again) == ("done", "the model has changed")


def test_a_checkpoint_of_the_users_own_counts_by_its_content(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    draw(folder / "a.png")
    mine = tiny_model(tmp_path / "mine", "mine-x2", scale=2, seed=3)  # not as what ships
    request = request_of(folder, out, engine=EngineRequest(device="cpu", model=str(mine)))
    assert summary_of(request).counts == {"done": 1}
    assert summary_of(request).counts == {"skipped": 1}
    tiny_model(tmp_path / "mine", "mine-x2", scale=2, seed=5)
    assert summary_of(request).counts == {"done": 1}


def test_an_output_that_is_gone_is_made_again(folder: Path, out: Path) -> None:
    draw(folder / "a.png")
    summary_of(request_of(folder, out))
    (out / "a.png").unlink()
    (outcome,) = summary_of(request_of(folder, out)).outcomes
    assert (outcome.status, outcome.again) == ("done", "its output is gone or was changed")


def test_a_file_that_no_batch_has_made_is_not_replaced_unless_asked(
    folder: Path, out: Path
) -> None:
    draw(folder / "a.png")
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    (outcome,) = summary_of(request_of(folder, out)).outcomes
    assert (outcome.status, outcome.exit_code) == ("failed", RequestError.exit_code)
    assert "--overwrite" in outcome.reason
    assert (out / "a.png").read_bytes() == b"mine"
    assert summary_of(request_of(folder, out, overwrite=True)).counts == {"done": 1}


def test_an_output_that_the_user_changed_is_not_replaced(folder: Path, out: Path) -> None:
    draw(folder / "a.png")
    summary_of(request_of(folder, out))
    (out / "a.png").write_bytes(b"painted over")
    assert summary_of(request_of(folder, out)).counts == {"failed": 1}
    assert (out / "a.png").read_bytes() == b"painted over"


def test_a_tree_that_moved_with_its_times_is_still_done(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    draw(folder / "a.png")
    summary_of(request_of(folder, out))
    folder.rename(tmp_path / "elsewhere")
    assert summary_of(request_of(tmp_path / "elsewhere", out)).counts == {"skipped": 1}


def test_a_container_is_changed_only_where_it_must_be(
    folder: Path, out: Path, make_clip: ClipMaker
) -> None:
    make_clip("in/a.avi", frames=2, codec="mpeg4", options={})
    make_clip("in/b.mov", frames=2)
    summary = summary_of(request_of(folder, out))
    assert tree(out) == {"a.mkv", "b.mov", FILE_NAME}
    done = next(o.result for o in summary.outcomes if o.source.name == "a.avi")
    assert done is not None
    assert any(".mkv instead of .avi" in note for note in done.notes)
    assert summary_of(request_of(folder, out)).counts == {"skipped": 2}


def test_two_inputs_of_one_output_are_named_and_the_one_that_keeps_its_name_is_done(
    folder: Path, out: Path, make_clip: ClipMaker
) -> None:
    make_clip("in/a.avi", frames=2, codec="mpeg4", options={})
    make_clip("in/a.mkv", frames=3)
    summary = summary_of(request_of(folder, out))
    assert statuses(summary) == {"a.avi": "failed", "a.mkv": "done"}
    assert str(out / "a.mkv") in reasons(summary)["a.avi"]
    assert "rename" in reasons(summary)["a.avi"]
    assert summary.exit_code == RequestError.exit_code


def test_what_is_done_keeps_its_output_when_another_input_of_that_name_comes(
    folder: Path, out: Path, make_clip: ClipMaker
) -> None:
    make_clip("in/a.avi", frames=2, codec="mpeg4", options={})
    summary_of(request_of(folder, out))
    make_clip("in/a.mkv", frames=3)
    assert statuses(summary_of(request_of(folder, out))) == {"a.avi": "skipped", "a.mkv": "failed"}


def test_pictures_that_differ_in_their_suffix_alone_do_not_clash(folder: Path, out: Path) -> None:
    draw(folder / "a.png")
    draw(folder / "a.jpg")
    assert summary_of(request_of(folder, out)).counts == {"done": 2}
    assert tree(out) == {"a.png", "a.jpg", FILE_NAME}


def test_outputs_take_the_format_of_their_kind_that_is_asked_for(mixed: Path, out: Path) -> None:
    asked = request_of(mixed, out, formats=(".mkv", ".jpg"))
    assert summary_of(asked).counts["done"] == 3
    assert tree(out) == {"a.mkv", "b.jpg", "deep/c.mkv", FILE_NAME}
    assert summary_of(asked).counts["skipped"] == 3
    assert statuses(summary_of(request_of(mixed, out)))["a.mp4"] == "done"


def test_pictures_that_would_become_one_are_named_and_one_is_done(folder: Path, out: Path) -> None:
    draw(folder / "a.bmp")
    draw(folder / "a.png")
    summary = summary_of(request_of(folder, out, formats=(".png",)))
    assert statuses(summary) == {"a.bmp": "failed", "a.png": "done"}
    assert str(out / "a.png") in reasons(summary)["a.bmp"]


# ------------------------------------------------------------------ what is listed


def test_without_recursive_folders_are_named_and_not_entered(mixed: Path, out: Path) -> None:
    listing = list_folder(Folder(mixed), out)
    assert [entry.name for entry in listing.entries] == [
        Path("a.mp4"),
        Path("b.png"),
        Path("broken.mp4"),
    ]
    assert reasons(Summary(tuple(listing.left), 0))["deep"] == "a folder; --recursive enters it"


@pytest.mark.parametrize(
    ("include", "found"),
    [
        (("*.png",), {"b.png"}),
        (("deep/*",), {"c.mkv"}),
        (("*.png", "*.mkv"), {"b.png", "c.mkv"}),
        (("*.gone",), set()),
    ],
)
def test_include_takes_names_and_relative_paths(
    mixed: Path, out: Path, include: tuple[str, ...], found: set[str]
) -> None:
    listing = list_folder(Folder(mixed, recursive=True, include=include), out)
    assert {entry.source.name for entry in listing.entries} == found
    assert listing.left == []


def test_outputs_inside_the_input_folder_are_no_inputs(mixed: Path) -> None:
    out = mixed / "larger"
    assert summary_of(request_of(mixed, out)).counts["done"] == 3
    second = summary_of(request_of(mixed, out))
    assert second.counts == {"skipped": 3, "ignored": 1, "failed": 1}


def test_the_input_folder_is_no_output_folder(mixed: Path) -> None:
    with pytest.raises(RequestError, match="is the input folder itself"):
        summary_of(request_of(mixed, mixed))


def test_an_output_folder_around_the_input_does_not_overwrite_inputs(
    tmp_path: Path, make_clip: ClipMaker
) -> None:
    make_clip("top/in/in/a.mp4", frames=2)  # -> top/in/a.mp4
    inner = make_clip("top/in/a.mp4", frames=2)
    before = inner.read_bytes()
    summary = summary_of(request_of(tmp_path / "top/in", tmp_path / "top", overwrite=True))
    assert inner.read_bytes() == before
    assert summary.counts == {"done": 1, "failed": 1}
    assert f"belongs to {inner}" in summary.outcomes[-2].reason + summary.outcomes[-1].reason


def test_links_are_followed_once_so_that_loops_end(folder: Path, out: Path, tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere/b.png")
    draw(folder / "a.png")
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "there").symlink_to(tmp_path / "elsewhere")
    (folder / "there-too").symlink_to(tmp_path / "elsewhere")
    listing = list_folder(Folder(folder, recursive=True), out)
    assert [entry.name for entry in listing.entries] == [Path("a.png"), Path("there/b.png")]
    why = reasons(Summary(tuple(listing.left), 0))
    assert why["loop"] == f"a link to {folder}, which is entered already"
    assert "entered already" in why["there-too"]
    assert "leads nowhere" in why["self"]


def test_a_link_in_the_output_folder_does_not_lead_out_of_it(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    draw(folder / "deep/a.png")
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out / "deep").symlink_to(tmp_path / "elsewhere")
    (outcome,) = summary_of(request_of(folder, out)).outcomes
    assert "leads out of" in outcome.reason
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(ROOT, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_a_failure_and_the_others_are_done(
    folder: Path, out: Path
) -> None:
    draw(folder / "a.png")
    draw(folder / "locked/b.png")
    (folder / "locked").chmod(0)
    try:
        summary = summary_of(request_of(folder, out))
    finally:
        (folder / "locked").chmod(0o700)
    assert statuses(summary) == {"a.png": "done", "locked": "failed"}
    assert "cannot be read" in reasons(summary)["locked"]
    assert summary.exit_code == MediaError.exit_code


def test_a_folder_that_the_system_refuses_is_named(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(folder / "a.png")
    draw(folder / "locked/b.png")
    iterdir = Path.iterdir

    def refuse(path: Path) -> Iterable[Path]:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    listing = list_folder(Folder(folder, recursive=True), out)
    assert [entry.source.name for entry in listing.entries] == ["a.png"]
    (locked,) = listing.left
    assert (locked.status, locked.exit_code) == ("failed", MediaError.exit_code)


def test_what_is_neither_video_nor_picture_is_ignored_and_says_why(
    folder: Path, out: Path, clips: Path
) -> None:
    (folder / "sound.m4a").symlink_to(clips / "awkward/audio_only.m4a")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "data.bin").write_bytes(bytes(1000))
    (folder / "empty.dat").touch()
    (folder / "readme.txt").write_text("words\n" * 50)
    os.mkfifo(folder / "pipe.mp4")
    listing = list_folder(Folder(folder, recursive=True), out)
    assert listing.entries == []
    assert reasons(Summary(tuple(listing.left), 0)) == {
        "sound.m4a": "holds no video",
        ".hidden.png": "hidden",
        "data.bin": "neither video nor picture",
        "empty.dat": "neither video nor picture",
        "readme.txt": "neither video nor picture",
        "pipe.mp4": "no regular file",
    }


def test_an_empty_folder_is_done_at_once_and_leaves_nothing(folder: Path, out: Path) -> None:
    summary = summary_of(request_of(folder, out))
    assert (summary.counts, summary.exit_code) == ({}, 0)
    assert not out.exists()


@pytest.mark.parametrize(
    ("codes", "shared"), [([], 0), ([0, 0], 0), ([3, 0, 3], 3), ([3, 4], 1), ([6], 6)]
)
def test_failures_of_one_class_end_with_its_exit_code(codes: list[int], shared: int) -> None:
    assert shared_exit_code(codes) == shared


# ------------------------------------------------------------------ many names


def test_names_and_globs_are_expanded_once_each(folder: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw(folder / name)
    (folder / "d.txt").write_text("d")
    listing = list_inputs([folder / "b.png", folder / "*"])
    assert [entry.source.name for entry in listing.entries] == ["b.png", "a.png", "c.png"]
    assert reasons(Summary(tuple(listing.left), 0)) == {"d.txt": "neither video nor picture"}


def test_a_file_whose_own_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    draw(folder / "a[1].png")
    draw(folder / "a1.png")
    (entry,) = list_inputs([folder / "a[1].png"]).entries
    assert entry.source.name == "a[1].png"


@pytest.mark.parametrize("word", ["gone.png", "*.gone"])
def test_a_name_that_is_not_there_is_an_error(folder: Path, out: Path, word: str) -> None:
    draw(folder / "a.png")
    with pytest.raises(MediaError, match=r"no such file|no file matches"):
        summary_of(request_of((folder / "a.png", folder / word), out))
    assert not out.exists()


def test_a_folder_among_names_says_which_command_takes_it(folder: Path) -> None:
    with pytest.raises(RequestError, match="vidsr batch"):
        list_inputs([folder])


def test_two_files_of_one_name_from_two_folders_clash(folder: Path, out: Path) -> None:
    first, second = draw(folder / "x/a.png"), draw(folder / "y/a.png", (32, 16))
    summary = summary_of(request_of((first, second), out))
    assert [(o.source, o.status) for o in summary.outcomes] == [
        (second, "failed"),
        (first, "done"),
    ]
    later = summary_of(request_of((second,), out))
    assert later.counts == {"failed": 1}  # another source made what is there


def test_names_whose_outputs_would_be_inputs_are_refused(folder: Path) -> None:
    here, there = draw(folder / "a.png"), draw(folder / "x/a.png")
    before = here.read_bytes()
    summary = summary_of(request_of((here, there), folder, overwrite=True))
    assert summary.counts == {"failed": 2}
    assert here.read_bytes() == before


# ------------------------------------------------------------------ what could not begin


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"engine": EngineRequest(model="nonsense")}, ModelError),
        ({"engine": EngineRequest(model="/gone.pth")}, ModelError),
        ({"color": ColorRequest(), "size": None}, ModelError),
    ],
)
def test_a_model_that_is_not_there_fails_once_and_not_for_every_file(
    mixed: Path, out: Path, changes: dict[str, object], error: type[VidsrError]
) -> None:
    with pytest.raises(error):
        summary_of(request_of(mixed, out, **changes))
    assert not out.exists()


def test_an_output_folder_must_have_a_parent_and_be_no_file(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such folder to make"):
        summary_of(request_of(mixed, tmp_path / "not/there"))
    with pytest.raises(RequestError, match="is a file"):
        summary_of(request_of(mixed, mixed / "b.png"))


def test_no_jobs_are_an_error(mixed: Path, out: Path) -> None:
    with pytest.raises(RequestError, match="--jobs 0"):
        BatchRequest(Folder(mixed), out, job_of(), jobs=0)


# ------------------------------------------------------------------ the record


def test_a_line_that_was_cut_short_is_passed_over_and_spoils_no_other(
    folder: Path, out: Path
) -> None:
    for name in ("a.png", "b.png"):
        draw(folder / name)
    summary_of(request_of(folder, out))
    record = out / FILE_NAME
    record.write_text(record.read_text()[:-30])
    assert statuses(summary_of(request_of(folder, out))) == {"a.png": "skipped", "b.png": "done"}
    assert summary_of(request_of(folder, out)).counts == {"skipped": 2}


def cut_off(request: BatchRequest) -> None:
    """Run a batch that ends when an output has its name, before that is recorded."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            summary_of(request)


def failing(*_: object, **__: object) -> Iterator[Result]:
    raise MediaError("the disk is full")
    yield


def test_an_output_that_came_and_was_not_recorded_is_done_again(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(folder / "a.png")
    cut_off(request_of(folder, out))
    with monkeypatch.context() as patch:  # and once more, now before a new one came
        patch.setattr("vidsr.batch.executor.run", failing)
        assert summary_of(request_of(folder, out)).counts == {"failed": 1}
    assert tree(out) == {"a.png", FILE_NAME}
    assert summary_of(request_of(folder, out)).counts == {"done": 1}
    assert summary_of(request_of(folder, out)).counts == {"skipped": 1}
    (out / "a.png").write_bytes(b"painted over")
    assert summary_of(request_of(folder, out)).counts == {"failed": 1}


def test_an_output_that_came_from_another_source_is_not_replaced(folder: Path, out: Path) -> None:
    first, second = draw(folder / "x/a.png"), draw(folder / "y/a.png", (32, 16))
    cut_off(request_of((first,), out))
    assert summary_of(request_of((second,), out)).counts == {"failed": 1}
    assert size_of(out / "a.png") == (48, 32)


def test_what_was_done_counts_no_more_once_another_output_came_in_its_place(
    folder: Path, out: Path
) -> None:
    draw(folder / "a.bmp")  # as many bytes whatever is in it
    summary_of(request_of(folder, out))
    cut_off(request_of(folder, out, engine=EngineRequest(device="cpu", model="fast-x4")))
    (outcome,) = summary_of(request_of(folder, out)).outcomes
    assert (outcome.status, outcome.again) == ("done", "a run was cut off before it was recorded")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_batch_began_and_did_not_make_is_not_its_own_later(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    draw(folder / "a.png")
    mine = out / "a.png"
    if overwrite:
        out.mkdir()
        mine.write_bytes(b"mine")
    with monkeypatch.context() as patch:
        patch.setattr("vidsr.batch.executor.run", failing)
        summary_of(request_of(folder, out, overwrite=overwrite))
    assert out.exists() == overwrite
    out.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    assert summary_of(request_of(folder, out)).counts == {"failed": 1}
    assert mine.read_bytes() == b"mine"


def test_a_result_that_nobody_took_when_the_batch_ended_is_done_again(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    model = str(tiny_model(tmp_path / "mine", "mine-x2", scale=2))
    names = {draw(folder / name).name for name in ("a.png", "b.png")}
    request = request_of(folder, out, engine=EngineRequest(device="cpu", model=model, threads=2))
    events = run(replace(request, jobs=2))
    next(event for event in events if isinstance(event, Outcome))
    for _ in range(50):  # the other worker goes on meanwhile
        if names <= tree(out):
            break
        time.sleep(0.1)
    events.close()
    assert summary_of(request).counts == {"done": 1, "skipped": 1}


def test_a_folder_without_locks_is_no_obstacle(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    draw(folder / "a.png")
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert summary_of(request_of(folder, out)).counts == {"done": 1}


@pytest.mark.parametrize("line", ["[]", "7", "{}", '{"name": "a"}', "\x00\xff"])
def test_a_record_of_nonsense_is_no_obstacle(folder: Path, out: Path, line: str) -> None:
    draw(folder / "a.png")
    out.mkdir()
    (out / FILE_NAME).write_text(line + "\n")
    assert summary_of(request_of(folder, out)).counts == {"done": 1}


def test_a_second_batch_into_the_same_folder_waits_its_turn(folder: Path, out: Path) -> None:
    draw(folder / "a.png")
    out.mkdir()
    with Record(out).writing(), pytest.raises(RequestError, match="another batch"):
        summary_of(request_of(folder, out))
    assert list(out.iterdir()) == []


def test_a_preview_says_what_would_be_done_and_does_nothing(mixed: Path, out: Path) -> None:
    assert batch.preview(request_of(mixed, out)).counts == {"ignored": 1, "waiting": 4}
    assert not out.exists()
    summary_of(request_of(mixed, out))
    summary = batch.preview(request_of(mixed, out, size=SizeRequest(scale=4)))
    assert reasons(summary)["a.mp4"] == "the settings have changed"
    assert batch.preview(request_of(mixed, out)).counts["skipped"] == 3


def test_the_record_is_json_a_line_and_names_what_was_asked(folder: Path, out: Path) -> None:
    source = draw(folder / "a.png")
    summary_of(request_of(folder, out))
    begun, done = map(json.loads, (out / FILE_NAME).read_text().splitlines())
    assert begun == {"name": "a.png", "source": str(source), "output": "a.png", "before": None}
    assert (done["name"], done["output"], done["source"]) == ("a.png", "a.png", str(source))
    assert done["asked"]["size"]["scale"] == 2
    assert "formats" not in done["asked"]  # a word that older records do not know
    assert done["identity"] == [source.stat().st_size, source.stat().st_mtime_ns]


# ------------------------------------------------------------------ who does it


class Scripted:
    """An executor that tells what it is given to tell, and keeps the tasks."""

    def __init__(self, *tellings: Telling) -> None:
        self.tellings = tellings
        self.tasks: list[Task] = []

    def run(self, tasks: Iterable[Task]) -> Generator[tuple[int, Telling], None, None]:
        for task, telling in zip(tasks, self.tellings, strict=True):
            self.tasks.append(task)
            yield task.number, telling


def test_failures_of_several_classes_end_with_1(folder: Path, out: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(folder / name)
    executor = Scripted(MediaError("a"), DeviceError("b"))
    assert summary_of(request_of(folder, out), executor).exit_code == 1


def test_several_at_once_share_the_threads_that_are_asked_for(folder: Path, out: Path) -> None:
    draw(folder / "a.png")
    request = request_of(folder, out, engine=EngineRequest(device="cpu", threads=6))
    executor = Scripted(MediaError("a"))
    summary_of(replace(request, jobs=3), executor)
    (task,) = executor.tasks
    assert (task.job.engine.threads, task.job.encoder.threads) == (2, 2)
    assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize("asked", [None, 12 << 30])
def test_several_at_once_share_the_memory_that_a_batch_may_take(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    monkeypatch.setattr("vidsr.memory.free_memory", lambda _: 15 << 30)
    draw(folder / "a.png")
    executor = Scripted(MediaError("a"))
    summary_of(replace(request_of(folder, out, max_memory=asked), jobs=3), executor)
    (task,) = executor.tasks
    assert task.job.max_memory == 4 << 30


@pytest.mark.parametrize("change", ["grown", "gone"])
def test_a_file_that_changes_while_it_waits_is_left_and_named(
    folder: Path, out: Path, change: str
) -> None:
    source = draw(folder / "a.png")
    task = Task(0, replace(job_of(), source=source, destination=out), Identity.of(source))
    if change == "grown":
        draw(source, (64, 64))
    else:
        source.unlink()
    (error,) = work(task, None)
    assert isinstance(error, MediaError)
    assert ("run the batch again" in str(error)) == (change == "grown")
    assert not out.exists()


def test_the_output_of_a_file_that_changes_while_it_is_read_is_removed(
    folder: Path, out: Path, make_clip: ClipMaker
) -> None:
    source = make_clip("in/a.mp4", frames=2)
    task = Task(0, replace(job_of(), source=source, destination=out), Identity.of(source))
    told = work(task, None)
    next(told)
    os.utime(source, ns=(1, 1))
    *_, error = told
    assert isinstance(error, MediaError)
    assert "while it was read" in str(error)
    assert list(out.iterdir()) == []


def test_a_fault_of_our_own_is_told_like_any_other(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = draw(folder / "a.png")

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("vidsr.batch.executor.plan", fail)
    (error,) = work(Task(0, replace(job_of(), source=source), Identity.of(source)), None)
    assert isinstance(error, VidsrError)
    assert "unexpected ZeroDivisionError: no" in str(error)


def test_stopping_midway_keeps_what_is_done_and_the_next_run_goes_on(
    folder: Path, out: Path, make_clip: ClipMaker
) -> None:
    draw(folder / "a.png")
    make_clip("in/b.mp4", frames=4)
    events = run(request_of(folder, out))
    for event in events:
        if isinstance(event, Told) and event.source.name == "b.mp4":
            break
    events.close()
    assert tree(out) == {"a.png", FILE_NAME}
    assert statuses(summary_of(request_of(folder, out))) == {"a.png": "skipped", "b.mp4": "done"}


def test_processes_that_die_cost_the_files_that_they_were_at(
    folder: Path, out: Path, tmp_path: Path, make_clip: ClipMaker
) -> None:
    model = str(tiny_model(tmp_path / "mine", "mine-x2", scale=2))
    for name in ("a.mp4", "b.mp4"):
        make_clip(f"in/{name}", frames=400)  # long enough to be at work when they are killed
    draw(folder / "c.png")
    (folder / "d.png").write_bytes(b"no picture")
    request = request_of(folder, out, engine=EngineRequest(device="cpu", model=model, threads=2))
    outcomes = []
    for event in run(replace(request, jobs=2)):
        outcomes += [event] if isinstance(event, Outcome) else []
        if isinstance(event, Told) and not outcomes:
            for child in multiprocessing.active_children():
                child.kill()
    died, broken = "the process at work on it died", "no picture"
    why = {outcome.source.name: outcome.reason for outcome in outcomes}
    assert [died in why["a.mp4"], died in why["b.mp4"], broken in why["d.png"]] == [True] * 3
    assert [outcome.source.name for outcome in outcomes if outcome.status == "done"] == ["c.png"]
    assert multiprocessing.active_children() == []


def test_color_without_a_size_keeps_the_size(folder: Path, out: Path, tmp_path: Path) -> None:
    model = tiny_colorizer(tmp_path / "mine")
    Image.fromarray(gradient(0, 24, 16)).convert("L").save(folder / "a.png")
    request = request_of(folder, out, size=None, color=ColorRequest(model=str(model)))
    (outcome,) = summary_of(request).outcomes
    assert outcome.status == "done", outcome.reason
    assert size_of(out / "a.png") == (24, 16)
    assert summary_of(request).counts == {"skipped": 1}


def test_results_and_progress_come_through_as_they_are(folder: Path, out: Path) -> None:
    source = draw(folder / "a.png")
    task = Task(0, replace(job_of(), source=source, destination=out), Identity.of(source))
    tellings = [telling for _, telling in LocalExecutor().run([task])]
    assert isinstance(tellings[-1], Result)
    assert not any(isinstance(telling, Progress | VidsrError) for telling in tellings)
