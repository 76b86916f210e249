"""Every error that vidsr raises on purpose, with the exit code of its class.

    VidsrError                 1   unexpected
    ├── RequestError           2   the arguments or the plan cannot work
    ├── MediaError             3   a file cannot be read, decoded, encoded or written
    ├── ModelError             4   weights missing, damaged, or not what their card says
    ├── DeviceError            5   no such device, or it failed
    │   └── OutOfMemory            the device's memory is full (a smaller tile may fit)
    ├── VerificationError      6   the output is not what was promised
    └── Interrupted          130   stopped by the user

A message is one sentence with the value that was wrong and the way out. Errors take positional
arguments only, so that they survive pickling to another process.
"""


class VidsrError(Exception):
    """Root of the tree; catching it catches all that vidsr raises on purpose."""

    exit_code = 1


class RequestError(VidsrError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class MediaError(VidsrError):
    """A media file cannot be read, decoded, encoded or written."""

    exit_code = 3


class ModelError(VidsrError):
    """A weights file is missing, damaged, or not what its card says."""

    exit_code = 4


class DeviceError(VidsrError):
    """The device is missing or failed."""

    exit_code = 5


class OutOfMemory(DeviceError):  # noqa: N818 - the field's own word
    """The device ran out of memory; the same work with a smaller tile may fit."""


class VerificationError(VidsrError):
    """The finished output is not what the plan promised."""

    exit_code = 6


class Interrupted(VidsrError):  # noqa: N818 - not a fault
    """The user stopped the run."""

    exit_code = 130
