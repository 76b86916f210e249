"""Steps that a GPU is told once and then repeats."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from vidsr.training.run import Losses

log = logging.getLogger("vidsr.training")

WARM_UP_CALLS = 3  # in which algorithms are chosen and lasting memory is taken

Work = Callable[[Tensor, Tensor], Losses]


def recorded(work: Work, device: torch.device) -> Work:
    """The work itself, or on CUDA what repeats it; the shapes of its arguments must not change."""
    return _Recorded(work) if device.type == "cuda" else work


class _Recorded:
    """A CUDA graph of some work, made at its fourth call.

    A training step is a thousand small launches, and with each of them the processor is slower than
    the GPU: measured, a step of the perceptual stage took 69 ms, and the GPU worked for 12 of them.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._calls = 0
        self._inputs: tuple[Tensor, ...] = ()
        self._losses: Losses = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._recordable = True

    def __call__(self, *inputs: Tensor) -> Losses:
        self._calls += 1
        if self._calls > WARM_UP_CALLS and self._recordable:
            if self._graph is None:
                self._record(inputs)
            if self._graph is not None:
                for held, given in zip(self._inputs, inputs, strict=True):
                    held.copy_(given)
                self._graph.replay()
                return {name: loss.clone() for name, loss in self._losses.items()}
        # Not on the usual stream, which a recording must not wait for.
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            losses = self._work(*inputs)
        torch.cuda.current_stream().wait_stream(self._aside)
        return losses

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(given.clone() for given in inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer stream is what a recording that fails leaves behind.
            here = torch.cuda.stream(torch.cuda.current_stream())
            with here, torch.cuda.graph(graph, stream=self._aside):
                self._losses = self._work(*self._inputs)
        except RuntimeError as exc:
            log.warning("a step cannot be recorded, so it is slower: %s", exc)
            self._recordable = False
        else:
            self._graph = graph
