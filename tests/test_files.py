from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from vidsr.files import appearing, locked, part_of, put_in_place


def made(path: Path, content: bytes = b"new") -> Path:
    part = part_of(path)
    part.write_bytes(content)
    put_in_place(part, path)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    part = part_of(tmp_path / "a.mp4")
    assert part.parent == tmp_path
    assert part.name.startswith(".")
    assert part.suffix == ".mp4"
    assert made(tmp_path / "a.mp4").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_file_that_is_replaced_leaves_its_permissions(tmp_path: Path, mode: int) -> None:
    path = made(tmp_path / "a.mp4", b"old")
    path.chmod(mode)
    assert mode_of(made(path)) == mode
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_that_the_user_gives_new_files(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        assert mode_of(made(tmp_path / "a.mp4")) == 0o666 & ~umask
    finally:
        os.umask(before)


def test_bytes_reach_the_disk_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "a.mp4", []

    def note(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        steps.append((kind, path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    made(path)
    assert steps == [("file", False), ("folder", True)]


def test_a_link_where_the_part_is_to_lie_leads_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part_of(tmp_path / "a.mp4").symlink_to(victim)
    made(tmp_path / "a.mp4")
    assert victim.read_bytes() == b"precious"


def test_a_link_that_is_overwritten_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = made(tmp_path / "elsewhere" / "b.mp4", b"precious")
    (tmp_path / "a.mp4").symlink_to(target)
    assert not made(tmp_path / "a.mp4").is_symlink()
    assert target.read_bytes() == b"precious"


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = made(tmp_path / "a.json", b"old")
    with contextlib.suppress(ZeroDivisionError), appearing(path) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_ends_well_gives_its_file_the_name(tmp_path: Path) -> None:
    path = made(tmp_path / "a.json", b"old")
    with appearing(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_another_holds_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("ab") as first, path.open("ab") as second:
        assert locked(first)
        assert not locked(second)
    with path.open("ab") as third:
        assert locked(third)


def test_where_there_are_no_locks_nobody_else_holds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "lock").open("ab") as file:
        assert locked(file)
