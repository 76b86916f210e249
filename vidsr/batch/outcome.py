"""What became of each file of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vidsr.errors import VidsrError
from vidsr.events import Result

# done now | done by an earlier run | not meant for us | could not be done | to be done
Status = Literal["done", "skipped", "ignored", "failed", "waiting"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file, or of a folder that was not entered."""

    source: Path
    status: Status
    reason: str = ""  # why it was not done; of what waits, why it is to be done again
    exit_code: int = 0  # of a failure's class
    result: Result | None = None  # of what is done now
    again: str = ""  # why it was done again, if it was

    @classmethod
    def of_failure(cls, source: Path, error: VidsrError) -> Outcome:
        """A file that could not be done."""
        return cls(source, "failed", str(error), error.exit_code)


@dataclass(frozen=True)
class Summary:
    """All that became of a batch; its last event."""

    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def counts(self) -> dict[Status, int]:
        """How many ended how."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {status: found[status] for status in get_args(Status) if found[status]}

    @property
    def exit_code(self) -> int:
        """0 if nothing failed, the code that all failures share, else 1."""
        return shared_exit_code(outcome.exit_code for outcome in self.outcomes)


def shared_exit_code(codes: Iterable[int]) -> int:
    """0 if all are, the one that all others share, else 1."""
    failures = {code for code in codes if code}
    return failures.pop() if len(failures) == 1 else min(len(failures), 1)
