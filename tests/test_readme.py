"""What README and CONTRIBUTING say is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ClipMaker, gradient
from PIL import Image

ROOT = Path(__file__).parents[1]


def test_the_speed_tables_are_what_the_benchmarks_measured() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_python_examples_run_as_written(
    make_clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(frames=2, size=(64, 288)).rename(tmp_path / "old.mp4")
    Image.fromarray(gradient(0, 24, 16)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().split("## From Python")[1].split("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "new.mp4").is_file()
    assert len(list(tmp_path.glob("old-*.mp4"))) == 1


def test_every_note_is_listed_where_it_stands() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text()
    for path in sorted((ROOT / "vidsr").rglob("*.py")):
        room = path.relative_to(ROOT / "vidsr").as_posix()
        titles = re.findall(r"^Note \[(.+?)\]", path.read_text(), re.MULTILINE)
        rows = [line for line in table.splitlines() if f"| `{room}` |" in line]
        for title in titles:
            assert any(title in row for row in rows), f"{room} holds Note [{title}]"
