"""The error tree: exit codes, and survival of the way to another process."""

from __future__ import annotations

import pickle

import pytest

from vidsr import errors
from vidsr.errors import VidsrError

EXIT_CODES = {
    "VidsrError": 1,
    "RequestError": 2,
    "MediaError": 3,
    "ModelError": 4,
    "DeviceError": 5,
    "OutOfMemory": 5,
    "VerificationError": 6,
    "Interrupted": 130,
}
CLASSES = [
    item
    for item in vars(errors).values()
    if isinstance(item, type) and issubclass(item, BaseException)
]


def test_exit_codes_are_those_of_the_table_and_no_class_is_missing() -> None:
    assert {error.__name__: error.exit_code for error in CLASSES} == EXIT_CODES


def test_no_code_is_zero_or_that_of_another_branch() -> None:
    branches = [error for error in CLASSES if error.__base__ is VidsrError]
    codes = [error.exit_code for error in branches]
    assert len(set(codes)) == len(codes)
    assert not {0, VidsrError.exit_code} & set(codes)


def test_the_table_in_the_docstring_says_the_same_codes() -> None:
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├──", "").replace("└──", "").replace("│", "").split()
        if len(words) > 1 and words[0] in EXIT_CODES and words[1].isdecimal():
            assert int(words[1]) == EXIT_CODES[words[0]]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_pickles_with_its_message(kind: type[VidsrError]) -> None:
    error = pickle.loads(pickle.dumps(kind("clip.mp4: cannot be read (why)")))
    assert type(error) is kind
    assert str(error) == "clip.mp4: cannot be read (why)"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_one_except_catches_all(kind: type[VidsrError]) -> None:
    with pytest.raises(VidsrError):
        raise kind("anything")
