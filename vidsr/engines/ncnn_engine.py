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
- There is no reader for PyTorch's networks in it. Here the network runs once on a small picture,
  what it calls is written down, and that is the model: a list of layers, and their weights.
"""

from __future__ import annotations

import copy
import ctypes
import importlib.metadata
import importlib.util
import inspect
import io
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vidsr.engines.conversion import check_faithful
from vidsr.engines.precision import Precision
from vidsr.engines.torch_engine import device_errors
from vidsr.errors import DeviceError, ModelError, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

INSTALL = "pip install 'vidsr[ncnn]'"
CPU = torch.device("cpu")
BLOCK = 4  # pixels each way that Winograd's F(4x4) computes together
_PROBE = (16, 24)  # (h, w) of the picture on which a network is written down
_MAGIC = 7767517  # first line of ncnn's parameter files
_FP32 = struct.pack("<I", 0)  # before weights: they are not compressed
_INPUT, _OUTPUT = "input", "output"


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
        extractor.input(_INPUT, ncnn.Mat(tile.numpy()))
        failed, output = extractor.extract(_OUTPUT)
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


# ---------------------------------------------------------------- a network, written down


@torch.inference_mode()
def written(network: nn.Module) -> tuple[str, bytes]:
    """A network for inputs (1,3,H,W) as ncnn's list of layers and their weights.

    Raises:
        ModelError: it calls what is not known here, or looks at more than convolutions do.
    """
    probe = torch.rand(1, 3, *_PROBE, generator=torch.Generator().manual_seed(0))
    recorder = _Recorder(probe)
    with recorder:
        output = network(probe)
    return recorder.model(output)


class _Recorder(TorchFunctionMode):
    """Writes down each function that is called on what came from the input."""

    def __init__(self, probe: Tensor) -> None:
        super().__init__()
        self._names = {id(probe): _INPUT}
        self._kept: list[object] = [probe]  # so that no other object gets its id
        self._layers: list[tuple[str, list[str], str]] = [("Input", [], "")]
        self._weights: list[bytes] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            tensors = [arg for arg in _flat(args) if isinstance(arg, Tensor)]
            sources = [self._names[id(arg)] for arg in tensors if id(arg) in self._names]
            if sources:
                self._write(func, args, kwargs, sources, result)
        return result

    def _write(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sources: list[str],
        result: Tensor,
    ) -> None:
        self._kept += [result, *args]
        if func in _NOTHING and torch.equal(result, args[0]):
            self._names[id(result)] = sources[0]
            return
        writer = _WRITERS.get(func)
        if writer is None:
            raise ModelError(f"ncnn: no layer for {getattr(func, '__name__', func)}")
        try:
            inspect.signature(writer).bind(*args, **kwargs)
        except TypeError as exc:
            raise ModelError(f"ncnn: {func.__name__} is called in a way not foreseen") from exc
        if writer in _JOINING and len(sources) < sum(isinstance(a, Tensor) for a in _flat(args)):
            raise ModelError(f"ncnn: {func.__name__} of what does not come from the input")
        for kind, options, weights in writer(*args, **kwargs):
            self._weights += weights
            self._layers.append((kind, sources, options))
            sources = [str(len(self._layers) - 1)]
        self._names[id(result)] = sources[0]

    def model(self, output: Tensor) -> tuple[str, bytes]:
        """The list of layers up to `output`, and all weights."""
        output_name = self._names.get(id(output))
        if output_name is None:
            raise ModelError("ncnn: the network's output does not come from its input")
        uses = Counter(name for _, sources, _ in self._layers for name in sources)
        lines: list[str] = []
        blobs = 0
        left: dict[str, list[str]] = {}
        for number, (kind, sources, options) in enumerate(self._layers):
            own = _INPUT if number == 0 else str(number)
            shown = _OUTPUT if own == output_name else own
            inputs = [left[name].pop() for name in sources]
            lines.append(f"{kind} {own} {len(inputs)} 1 {' '.join([*inputs, shown])} {options}")
            blobs += 1
            left[own] = [shown]
            if uses[own] > 1:  # what goes several ways is split
                left[own] = [f"{own}_{use}" for use in range(uses[own])]
                names = " ".join([shown, *left[own]])
                lines.append(f"Split {own}s 1 {uses[own]} {names}")
                blobs += uses[own]
        text = "\n".join([str(_MAGIC), f"{len(lines)} {blobs}", *lines, ""])
        return text, b"".join(self._weights)


def _flat(args: tuple[Any, ...]) -> list[Any]:
    return [one for arg in args for one in (arg if isinstance(arg, (list, tuple)) else [arg])]


_Layer = tuple[str, str, list[bytes]]  # ncnn's name of it, its options, and its weights


def _raw(weights: Tensor) -> bytes:
    return weights.detach().float().contiguous().numpy().tobytes()


def _convolution(
    _input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> list[_Layer]:
    wide, narrow, height, width = weight.shape
    plain = all(tuple(steps) == (1, 1) for steps in (stride, dilation)) and groups == 1
    if not plain or height != width or tuple(padding) != (height // 2, width // 2):
        raise ModelError("ncnn: only plain convolutions that keep the size are written down")
    pieces = (width // 3) ** 2
    if width % 3 == 0 and 1 < pieces * wide <= narrow:
        return _in_two(weight, bias)
    return [_convolution_layer(weight, bias, f"4={width // 2}")]


def _convolution_layer(
    weight: Tensor, bias: Tensor | None, options: str, kind: str = "Convolution"
) -> _Layer:
    words = f"0={len(weight)} 1={weight.shape[-1]} 5={int(bias is not None)} 6={weight.numel()}"
    biases = [] if bias is None else [_raw(bias)]
    return kind, f"{words} {options}", [_FP32, _raw(weight), *biases]


def _in_two(weight: Tensor, bias: Tensor | None) -> list[_Layer]:
    """A convolution (O,I,3n,3n) as 3x3 ones to (O*n*n), which another adds up, each in its place.

    SRGAN's last is 9x9. ncnn would unroll it, which takes 81 times the memory of its features and
    more time than all other layers.
    """
    wide, narrow, side, _ = weight.shape
    parts = side // 3
    pieces = weight.reshape(wide, narrow, parts, 3, parts, 3).permute(0, 2, 4, 1, 3, 5)
    small = pieces.reshape(-1, narrow, 3, 3)
    sums = torch.eye(parts**2).reshape(1, parts**2, parts, parts).repeat(wide, 1, 1, 1)
    return [
        _convolution_layer(small, None, f"4={side // 2}"),
        _convolution_layer(sums, bias, f"2=3 7={wide}", "ConvolutionDepthWise"),
    ]


def _prelu(_input: Tensor, weight: Tensor) -> list[_Layer]:
    return [("PReLU", f"0={weight.numel()}", [_raw(weight)])]


def _relu(_input: Tensor, negative_slope: float = 0.0, **_others: object) -> list[_Layer]:
    return [("ReLU", f"0={negative_slope}", [])]


def _pixel_shuffle(_input: Tensor, factor: int) -> list[_Layer]:
    return [("PixelShuffle", f"0={factor}", [])]


def _interpolate(
    _input: Tensor,
    size: object = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    **_others: object,
) -> list[_Layer]:
    ways = {"nearest": 1, "bilinear": 2}
    if mode not in ways or align_corners or size is not None:
        raise ModelError(f"ncnn: no enlargement by {mode} as it is asked for")
    return [("Interp", f"0={ways[mode]} 1={float(scale_factor)} 2={float(scale_factor)}", [])]


def _binary(operation: int, one: Any, other: Any) -> list[_Layer]:
    numbers = [arg for arg in (one, other) if not isinstance(arg, Tensor)]
    scalar = f" 1=1 2={numbers[0]}" if numbers else ""
    return [("BinaryOp", f"0={operation}{scalar}", [])]


def _add(one: Any, other: Any) -> list[_Layer]:
    return _binary(0, one, other)


def _multiply(one: Any, other: Any) -> list[_Layer]:
    return _binary(2, one, other)


def _concatenate(_inputs: Any, dim: int) -> list[_Layer]:
    if dim != 1:
        raise ModelError("ncnn: only features are joined")
    return [("Concat", "0=0", [])]


_WRITERS: dict[Any, Callable[..., list[_Layer]]] = {
    torch.conv2d: _convolution,
    F.conv2d: _convolution,
    torch.prelu: _prelu,
    F.relu: _relu,
    torch.relu: _relu,
    F.leaky_relu: _relu,
    torch.pixel_shuffle: _pixel_shuffle,
    F.interpolate: _interpolate,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__radd__: _add,
    torch.mul: _multiply,
    Tensor.mul: _multiply,
    Tensor.__mul__: _multiply,
    Tensor.__rmul__: _multiply,
    torch.cat: _concatenate,
}
_JOINING = {_add, _multiply, _concatenate}
# What a picture whose sides need no filling goes through unchanged.
_NOTHING = {F.pad, torch.pixel_unshuffle, Tensor.__getitem__}


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
    if not installed():
        raise DeviceError(f"--engine ncnn needs ncnn; add it with {INSTALL}")
    try:
        import ncnn  # noqa: F401 - whether it loads
    except (ImportError, OSError) as exc:
        raise DeviceError(
            f"ncnn does not load ({exc}); choose --engine torch, or mend it with {INSTALL}"
        ) from exc
    return ("fp32",)
