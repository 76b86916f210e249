"""How much main memory a run will take, and how it is made to fit.

Note [What a run takes]
~~~~~~~~~~~~~~~~~~~~~~~
Four things, whatever the length of a film: the process itself; frames that wait in queues; an
encoder that looks ahead (`encoders.encoder_bytes`); and networks at work, each with its tile and
with its picture in float, at the input's and at the output's size. If that is more than the limit,
the encoder looks less far ahead first, which costs a little quality for its bits, and only as far
as one network with the smallest tile needs; the rest bounds tiles and workers, which costs time.
All of it are estimates, of the right size and not exact.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from vidsr.errors import RequestError

PROCESS_BYTES = 350 << 20  # Python, PyTorch and FFmpeg, loaded and used once (measured on Linux)
LEAST_NETWORK = 64 << 20  # of one network with a small tile
SHARE = 0.8  # of the memory that is free, if no limit is given
FLOAT_RGB = 12  # bytes a pixel
FRAME = 3  # of planes as they are written, in 16 bits or without subsampling
CGROUPS = Path("/sys/fs/cgroup")  # as a container sees its own limits


def memory_limit(asked: int | None) -> int:
    """Bytes that a run may take: as asked for, or a share of what is free."""
    return int(SHARE * free_memory(torch.device("cpu"))) if asked is None else asked


def free_memory(device: torch.device) -> int:
    """Bytes that could be taken on the device now, without swapping.

    What PyTorch holds on CUDA for tensors to come counts as free: tensors to come will have it.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return min([_free_of_machine(), *_free_of_container()])


def _free_of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration):
        pass
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 4 << 30  # systems that do not tell: assume little


def _free_of_container() -> Iterator[int]:
    """What is left of each limit that a container puts on its processes (cgroups).

    What the kernel keeps of files counts as taken there but is given up when it is needed.
    """
    for folder, limit, used, dropped in (
        (CGROUPS, "memory.max", "memory.current", "inactive_file"),  # version 2
        (
            CGROUPS / "memory",  # version 1
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            most, taken = (
                int((folder / name).read_text(encoding="ascii")) for name in (limit, used)
            )
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            cached = next(int(line.split()[1]) for line in lines if line.startswith(f"{dropped} "))
        except (OSError, ValueError, StopIteration):  # no limit ("max"), or no such system
            continue
        yield max(0, most - taken + cached)


def picture_bytes(size: tuple[int, int], target: tuple[int, int], run: int = 1) -> int:
    """What a picture takes on its way through a network: in float before, twice so after.

    Args:
        size: (width, height) before.
        target: after.
        run: pictures that one worker takes in a row; two such runs of results wait.
    """
    before, after = (width * height for width, height in (size, target))
    return FLOAT_RGB * (before + 2 * after) + 2 * (run - 1) * FRAME * after


def check_memory(parts: dict[str, int], limit: int) -> int:
    """The sum of the parts, in bytes.

    Raises:
        RequestError: it is above the limit; with all figures.
    """
    total = sum(parts.values())
    if total > limit:
        figures = ", ".join(f"{name} {size >> 20}" for name, size in parts.items())
        raise RequestError(
            f"about {total >> 20} MiB of memory are needed ({figures}) and {limit >> 20} may be "
            "taken; ask for a smaller --height or --tile, raise --max-memory or free some"
        )
    return total
