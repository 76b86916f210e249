"""The README's figures are those that were measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_speed_tables_are_what_the_benchmarks_measured() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
