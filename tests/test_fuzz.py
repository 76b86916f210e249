"""Two hundred damaged files; `make fuzz` takes two thousand."""

from __future__ import annotations

from pathlib import Path

import fuzz as fuzzing
import pytest


def test_damaged_files_give_nothing_but_errors_of_ours() -> None:
    assert [str(finding) for finding in fuzzing.fuzz(200)] == []


def test_the_same_number_is_the_same_mutant() -> None:
    seeds = {"a.png": bytes(range(256)), "b.mp4": bytes(1000)}
    mutants = [fuzzing.mutant(seeds, number) for number in range(40)]
    assert mutants == [fuzzing.mutant(seeds, number) for number in range(40)]
    assert {name for name, _ in mutants} == set(seeds)
    assert sum(content == seeds[name] for name, content in mutants) < 10


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os; tell('3 began a'); os.kill(os.getpid(), 11)", "seed 3: died with -11"),
        ("tell('3 began a'); time.sleep(60)", "seed 3: no answer in 1 s"),
        ("tell('3 began a'); tell('3 a: KeyError')", "seed 3: a: KeyError"),
    ],
)
def test_the_watchdog_finds_crashes_and_hangs_and_goes_on_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, found: str
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys, time\n"
        "def tell(line): print(line, flush=True)\n"
        "first, last = map(int, sys.argv[-2:])\n"
        "for number in range(first, last):\n"
        f"    if number == 3: {code}\n"
        "    else: tell(f'{number} began a'); tell(f'{number} ended')\n"
    )
    monkeypatch.setattr(fuzzing, "__file__", str(worker))
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    assert [str(finding) for finding in fuzzing._watch(tmp_path, 0, 6)] == [found]
