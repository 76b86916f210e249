"""PyTorch's networks as ncnn's: run once on a small picture, and written down while they run.

The result is a list of layers in ncnn's text format and the weights, one after the other
(github.com/Tencent/ncnn/wiki/param-and-model-file-structure). ncnn is not needed for that.
"""

from __future__ import annotations

import inspect
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vidsr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

INPUT, OUTPUT = "input", "output"  # names of both ends
_PROBE = (16, 24)  # (h, w) of the picture
_MAGIC = 7767517  # first line of the list
_FP32 = struct.pack("<I", 0)  # before weights: they are not compressed


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
        self._names = {id(probe): INPUT}
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
            own = INPUT if number == 0 else str(number)
            shown = OUTPUT if own == output_name else own
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
    places, _, height, width = weight.shape
    side, step, margin, spread = map(_square, ((height, width), stride, padding, dilation))
    if step != 1:
        raise ModelError("ncnn: only convolutions of every pixel are written down")
    words = f"0={places} 1={side} 2={spread} 4={margin} 5={int(bias is not None)}"
    kind = "Convolution" if groups == 1 else "ConvolutionDepthWise"
    several = "" if groups == 1 else f" 7={groups}"
    biases = [] if bias is None else [_raw(bias)]
    return [(kind, f"{words} 6={weight.numel()}{several}", [_FP32, _raw(weight), *biases])]


def _square(both: Any) -> int:
    """What holds across and down."""
    down, across = (both, both) if isinstance(both, int) else both
    if down != across:
        raise ModelError("ncnn: only square convolutions are written down")
    return int(down)


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
