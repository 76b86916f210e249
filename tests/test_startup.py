"""What is loaded when: a command that only prints must not wait for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "av", "numpy", "PIL", "ffmpeg", "safetensors", "skimage", "matplotlib")


def loaded_by(code: str) -> list[str]:
    """Which of the heavy packages a fresh interpreter holds after `code`."""
    tail = (
        f"; import sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    found: list[str] = eval(ended.stderr.splitlines()[-1])
    return found


def running(arguments: list[str]) -> str:
    return (
        f"import sys, contextlib; from vidsr.cli import app\n"
        f"with contextlib.suppress(SystemExit): app({arguments!r}, prog_name='vidsr')\n"
        "0"
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["upscale", "--help"], ["upscale"], ["nonsense"]]
)
def test_commands_that_only_print_load_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(running(arguments)) == []


def test_importing_vidsr_loads_nothing_heavy() -> None:
    assert loaded_by("import vidsr; vidsr.__version__; vidsr.__all__") == []


def test_the_first_use_of_a_public_name_loads_what_it_needs() -> None:
    assert "torch" in loaded_by("import vidsr; assert callable(vidsr.upscale)")


def test_an_unknown_name_is_an_attribute_error() -> None:
    import vidsr

    with pytest.raises(AttributeError, match="downscale"):
        vidsr.downscale  # noqa: B018
