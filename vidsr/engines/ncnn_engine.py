"""Networks on the processor through ncnn (extra: vidsr[ncnn]).

Note [ncnn's own ways]
~~~~~~~~~~~~~~~~~~~~~~
- 3x3 convolutions are computed by Winograd's way (Lavin and Gray 2016, arXiv:1509.09308): F(4x4)
  takes a quarter of the multiplications, but moves its features through memory several times. On
  two cores of an AVX2 processor that share their memory, a tile of 48 pixels took 0.5 of OpenVINO's
  time with 64 channels, one of 128 and more 0.8 to 1.1, with 24 to 32 channels 1.3 to 1.7; 1.6 to
  2.5 times its memory. The results differ from torch's by about 1e-6.
- Which of Winograd's ways it takes goes by the picture's size unless only one is allowed. F(6x6)
  is less exact and no faster; so F(4x4) alone, and a pixel's arithmetic is the same everywhere.
- F(4x4) computes blocks of 4x4 pixels together. In theory a pixel depends on its own neighbours
  alone, but its last bits depend on all that its block saw. So parts of a picture begin at
  multiples of 4, and what they must be shown to be exact is four times the network's reach.
- It would store features in half precision wherever it can; all of that is turned off.
- There is no reader for PyTorch's networks in it; see `ncnn_model`.
"""

from __future__ import annotations

import copy
import ctypes
import importlib.metadata
import importlib.util
import io
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidsr.engines.library import check_faithful, loading
from vidsr.engines.ncnn_model import INPUT, OUTPUT, written
from vidsr.engines.precision import Precision
from vidsr.engines.torch_engine import device_errors
from vidsr.errors import ModelError, OutOfMemory

CPU = torch.device("cpu")
BLOCK = 4  # pixels each way that Winograd's F(4x4) computes together


class NcnnEngine:
    """An `Engine` that runs the network as ncnn's, made at its first call."""

    device = CPU
    dtype = torch.float32
    any_shape = True
    block = BLOCK

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: int,
        tile: tuple[int, int],
        batch: int = 1,
        threads: int = 1,
    ) -> None:
        """Make ready.

        Args:
            network: fp32, on the processor, in eval mode; it is not copied and not changed.
            scale: output pixels per input pixel, each way.
            tile: (h, w) of the input.
            batch: tiles per call, computed one after the other.
            threads: that one call may use.
        """
        self.scale = scale
        self.tile = tile
        self.batch = batch
        self._model = _Model(network, threads)

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        """See `Engine`.

        Raises:
            ModelError: ncnn has no such layer (at the first call).
        """
        expected = (self.batch, 3, *self.tile)
        if tiles.shape != expected:
            raise ValueError(f"tiles of shape {tuple(tiles.shape)}; this engine takes {expected}")
        with device_errors(CPU):
            outputs = [self._model.run(tile) for tile in tiles.clamp(0, 1).contiguous()]
            return outputs[0][None] if self.batch == 1 else torch.stack(outputs)

    def resized(self, tile: tuple[int, int], batch: int) -> NcnnEngine:
        """See `Engine`."""
        other = copy.copy(self)
        other.tile, other.batch = tile, batch
        return other

    def in_fp32(self) -> NcnnEngine:
        """See `Engine`; it is."""
        return self


class _Model:
    """A network that is written down when it first runs; any number of threads may run it."""

    def __init__(self, network: nn.Module, threads: int) -> None:
        self._network, self._threads = network, threads
        self._net: Any = None
        self._making = threading.Lock()  # a net must outlive those who run it

    def run(self, tile: Tensor) -> Tensor:
        """Enlarge one (3,h,w), contiguous."""
        import ncnn

        with self._making:
            if self._net is None:
                self._net = _loaded(*written(self._network), self._threads)
        extractor = self._net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(tile.numpy()))
        failed, output = extractor.extract(OUTPUT)
        if failed:  # it says no more; what is left to fail in a loaded network is memory
            raise OutOfMemory("cpu: out of memory")
        return torch.from_numpy(np.asarray(output))


def _loaded(layers: str, weights: bytes, threads: int) -> Any:
    import ncnn

    net = ncnn.Net()
    options = net.opt
    options.num_threads = threads
    options.use_vulkan_compute = False
    options.use_winograd23_convolution = options.use_winograd63_convolution = False
    for name in dir(options):
        if name.startswith(("use_fp16", "use_bf16", "use_int8")):
            setattr(options, name, False)
    if net.load_param_mem(layers) or net.load_model(_reader(weights)):
        raise ModelError("ncnn cannot load this network")
    return net


def _reader(weights: bytes) -> Any:
    """What gives ncnn the weights; its `load_model_mem` would keep pointers into freed memory."""
    import ncnn

    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    left = io.BytesIO(weights)

    class Reader(ncnn.DataReader):  # type: ignore[misc]
        def read(self, buffer: object, size: int) -> int:
            given = left.read(size)
            ctypes.memmove(address(buffer, None), given, len(given))
            return len(given)

    return Reader()


def check_convertible(network: nn.Module, scale: int) -> None:
    """Prove on a small picture that ncnn's network gives what the network gives.

    Raises:
        ModelError: it cannot be written down, or gives something else.
    """
    check_faithful("ncnn", lambda tile: NcnnEngine(network, scale=scale, tile=tile), network)


def installed() -> bool:
    """Whether the extra is there; loads nothing."""
    return importlib.util.find_spec("ncnn") is not None


def version() -> str:
    """Of ncnn, as a word for keys and tables; loads nothing."""
    return f"ncnn {importlib.metadata.version('ncnn')}" if installed() else "no ncnn"


def precisions() -> tuple[Precision, ...]:
    """What it computes in here.

    Raises:
        DeviceError: ncnn is not installed, or does not load.
    """
    with loading("ncnn", "ncnn", installed=installed()):
        import ncnn  # noqa: F401 - whether it loads
    return ("fp32",)
