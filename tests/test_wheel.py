"""The wheel: built, installed elsewhere, and used far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import av
import pytest
from conftest import ClipMaker

CHECKOUT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]


def run(command: list[str], folder: Path, **environment: str) -> str:
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds vidsr as its wheel installs it."""
    pytest.importorskip("hatchling", reason="builds a wheel: needs hatchling (extra: test)")
    folder = tmp_path_factory.mktemp("wheel")
    wheel = [*PIP, "wheel", "--no-deps", "--no-build-isolation", str(CHECKOUT), "-w", str(folder)]
    run(wheel, folder)
    (built,) = folder.glob("vidsr-*.whl")
    target = folder / "site"
    run([*PIP, "install", "--no-deps", "--no-index", "--target", str(target), str(built)], folder)
    return target


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def python(installed: Path, folder: Path, *arguments: str) -> str:
    """Run with the installed wheel; its folder goes before the editable install's path hook."""
    site_packages = sysconfig.get_path("purelib")
    path = os.pathsep.join([str(installed), site_packages])
    cache = str(folder.parent / "cache")
    command = [sys.executable, *arguments]
    return run(command, folder, PYTHONPATH=path, XDG_CACHE_HOME=cache, PYTHONSAFEPATH="1")


def test_the_wheel_carries_weights_and_cards(installed: Path) -> None:
    shipped = {path.name for path in (installed / "vidsr" / "weights").iterdir()}
    cards = {name for name in shipped if name.endswith(".json")}
    assert cards
    assert {name.replace(".json", ".safetensors") for name in cards} <= shipped


def test_the_wheel_carries_what_rooms_read_beside_them(installed: Path) -> None:
    assert (installed / "vidsr" / "evaluation" / "niqe.npz").is_file()
    assert (installed / "vidsr" / "training" / "recipes.toml").is_file()


def test_the_wheel_holds_the_package_and_nothing_beside_it(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()}
    assert {name for name in names if "dist-info" not in name} <= {"vidsr", "bin"}


def test_the_installed_package_is_the_one_that_runs(installed: Path, elsewhere: Path) -> None:
    where = python(installed, elsewhere, "-c", "import vidsr; print(vidsr.__file__)")
    assert Path(where.strip()).is_relative_to(installed)


def test_the_installed_wheel_upscales_in_an_empty_folder(
    installed: Path, elsewhere: Path, make_clip: ClipMaker
) -> None:
    clip = make_clip(frames=3)
    arguments = ["upscale", str(clip), "-o", "out.mp4", "--device", "cpu", "--precision", "fp32"]
    said = python(installed, elsewhere, "-m", "vidsr", *arguments)
    assert "wrote out.mp4" in said
    assert [path.name for path in elsewhere.iterdir()] == ["out.mp4"]
    with av.open(str(elsewhere / "out.mp4")) as written:
        frames = list(written.decode(video=0))
    assert len(frames) == 3
    assert frames[0].width / 48 == frames[0].height / 32 > 1
