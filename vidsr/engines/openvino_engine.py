"""Networks on the processor through OpenVINO (extra: vidsr[openvino]).

Note [OpenVINO's own ways]
~~~~~~~~~~~~~~~~~~~~~~~~~~
- Its `convert_model` reports each conversion to a server of its maker's, without asking. The
  PyTorch frontend below it does not, so that one is called here, on a traced network.
- Left alone it computes in bf16 wherever the processor lists it, faster or not, so the precision is
  always said. A precision that the processor lacks it replaces by f32 in silence: `precisions`
  tells.
- `import_model` takes a blob with altered weights for good, so the store keeps a hash in front.
- A model of any height and width takes 0 to 2 % longer than one of a fixed shape (2026.4, 32 and 64
  channels), and its pixels are the same to the bit, in parts of a picture too. So one is compiled,
  and parts of every shape run on it (Note [What did not change]).
- Threads are not pinned: every worker has a compiled model of its own (Note [Two slots]), and each
  would be pinned to the same first core. A worker on every core took no more processor time than
  one worker on all of them: 98 % (fast-x2), 95 % (fast-x4), 99 to 100 % (64 channels, SRGAN).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.metadata
import importlib.util
import io
import threading
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vidsr.engines.library import CONVERSION, check_faithful, loading
from vidsr.engines.precision import DTYPES, Precision
from vidsr.engines.remembered import processor, replace_file
from vidsr.engines.torch_engine import device_errors
from vidsr.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")
MOST_KEPT = 24  # compiled models in the store; each is as large as the weights
KERNELS_KEPT = 256  # one for each layer and shape; without a limit 3,000 shapes took 670 MB
_LISTED: dict[str, Precision] = {"FP32": "fp32", "BF16": "bf16", "FP16": "fp16"}
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_EXAMPLE = (8, 8)  # (h, w) of the picture on which a network is traced
_CONVERTING = threading.Lock()  # tracing sets torch's and Python's global state aside


@dataclass(frozen=True)
class Store:
    """A folder of compiled models; a broken one is compiled again, a full disk costs only time."""

    folder: Path
    weights: str  # what the weights are: other weights are another model

    def read(self, kind: str) -> bytes | None:
        """What was kept of these weights under `kind`, to the bit; else None."""
        try:
            content = self._path(kind).read_bytes()
        except OSError:
            return None
        digest, blob = content[:32], content[32:]
        return blob if hashlib.sha256(blob).digest() == digest else None

    def write(self, kind: str, blob: bytes) -> None:
        """Keep a compiled model, and of all only the latest `MOST_KEPT`."""
        if not replace_file(self._path(kind), hashlib.sha256(blob).digest() + blob):
            return
        with contextlib.suppress(OSError):  # another process cleans up at the same time
            kept = sorted(self.folder.glob("*.blob"), key=lambda path: path.stat().st_mtime)
            for old in kept[:-MOST_KEPT]:
                old.unlink()

    def _path(self, kind: str) -> Path:
        words = f"{self.weights} / {kind} / {processor()} / {version()} / {CONVERSION}"
        return self.folder / f"{hashlib.sha256(words.encode()).hexdigest()}.blob"


class OpenVINOEngine:
    """An `Engine` that runs the converted network, compiled for any picture at its first call."""

    device = CPU
    any_shape = True
    block = 1

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: int,
        precision: Precision,
        tile: tuple[int, int],
        batch: int = 1,
        threads: int = 1,
        store: Store | None = None,
    ) -> None:
        """Make ready; `precision` is one of `precisions()`.

        Args:
            network: fp32, on the processor, in eval mode; it is not copied and not changed.
            scale: output pixels per input pixel, each way.
            precision: of the arithmetic; input and output are float32.
            tile: (h, w) of the input.
            batch: tiles per call.
            threads: that one call may use.
            store: where compiled models are kept; None compiles anew.
        """
        self.scale = scale
        self.dtype = DTYPES[precision]
        self.precision: Precision = precision
        self.tile = tile
        self.batch = batch
        self._model = _Model(network, precision, batch, threads, store)

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        """See `Engine`.

        Raises:
            ModelError: OpenVINO cannot convert the network (at the first call).
        """
        if tiles.shape != self._shape:
            raise ValueError(
                f"tiles of shape {tuple(tiles.shape)}; this engine takes {self._shape}"
            )
        height, width = self.tile
        with device_errors(CPU):
            clamped = tiles.clamp(0, 1).contiguous()
            output = torch.empty(self.batch, 3, height * self.scale, width * self.scale)
            self._model.run(clamped, output)
        return output

    def resized(self, tile: tuple[int, int], batch: int) -> OpenVINOEngine:
        """See `Engine`."""
        other = copy.copy(self)
        other.tile = tile
        if batch != self.batch:
            other.batch, other._model = batch, replace(self._model, batch=batch)
        return other

    def in_fp32(self) -> OpenVINOEngine:
        """See `Engine`."""
        other = copy.copy(self)
        other.precision, other.dtype = "fp32", torch.float32
        other._model = replace(self._model, precision="fp32")
        return other

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.batch, 3, *self.tile


@dataclass
class _Model:
    """A network that is compiled when it first runs; engines of any tile share it.

    Who decides what to compute tries out parts while a worker is at a picture, so one at a time.
    """

    network: nn.Module
    precision: Precision
    batch: int
    threads: int
    store: Store | None
    _request: Any = field(default=None, init=False)
    _running: threading.Lock = field(default_factory=threading.Lock, init=False)

    def run(self, tiles: Tensor, output: Tensor) -> None:
        """Enlarge contiguous tiles (batch,3,h,w) into `output`, without a copy."""
        with self._running:
            request = self._request = self._request or self._compiled().create_infer_request()
            request.set_input_tensor(_shared(tiles))
            request.set_output_tensor(_shared(output))
            request.infer()

    def _compiled(self) -> Any:
        import openvino

        core = openvino.Core()
        kind = f"{self.batch} pictures of any size, {self.precision}"
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT,
        }
        if self.store and (blob := self.store.read(kind)):
            with contextlib.suppress(RuntimeError):  # whole, and yet not for this OpenVINO
                return core.import_model(io.BytesIO(blob), "CPU", options)
        compiled = core.compile_model(convert(self.network, self.batch), "CPU", options)
        if self.store:
            exported = io.BytesIO()
            compiled.export_model(exported)
            self.store.write(kind, exported.getvalue())
        return compiled


def convert(network: nn.Module, batch: int) -> Any:
    """An `openvino.Model` of a network for inputs (batch,3,H,W) of any size.

    Raises:
        ModelError: OpenVINO does not know an operation, or the network cannot be traced.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch import ConversionExtension
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with _CONVERTING, _conversion_errors(network), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # jit.trace is deprecated; torch.export takes 5 times as long
        example = torch.rand(1, 3, *_EXAMPLE)
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        frontend = FrontEndManager().load_by_framework("pytorch")
        frontend.add_extension(ConversionExtension("aten::pixel_shuffle", _depth_to_space))
        decoder = TorchScriptPythonDecoder(traced)  # must outlive the conversion
        model = frontend.convert(frontend.load(decoder))
        model.reshape([batch, 3, -1, -1])
    return model


def _depth_to_space(context: Any) -> Any:
    """PixelShuffle as the one operation that it is.

    By itself the frontend gives two reshapes and a transposition, which for a picture of any size
    are computed as such, between copies into another layout: a tenth of a network's time and more.
    """
    from openvino import opset1

    factor = context.get_values_from_const_input(1)
    return opset1.depth_to_space(context.get_input(0), "depth_first", factor).outputs()


def check_convertible(network: nn.Module, scale: int) -> None:
    """Prove on a small picture that the converted network gives what the network gives.

    Raises:
        ModelError: it cannot be converted, or it gives something else.
    """

    def open_engine(tile: tuple[int, int]) -> OpenVINOEngine:
        return OpenVINOEngine(network, scale=scale, precision="fp32", tile=tile)

    with _conversion_errors(network):
        check_faithful("OpenVINO", open_engine, network)


@contextlib.contextmanager
def _conversion_errors(network: nn.Module) -> Iterator[None]:
    """Translate what tracing and the frontend raise; OpenVINO's own types derive from nothing."""
    from openvino import frontend

    failures = (
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
        frontend.NotImplementedFailure,
        frontend.GeneralFailure,
        DeviceError,
        RuntimeError,
        TypeError,
        ValueError,
    )
    try:
        yield
    except failures as exc:
        name, why = type(network).__name__, str(exc).strip().rsplit("\n", 1)[-1]
        raise ModelError(f"OpenVINO cannot convert {name} ({why})") from exc


def _shared(tensor: Tensor) -> Any:
    import openvino

    return openvino.Tensor(tensor.numpy(), shared_memory=True)


def installed() -> bool:
    """Whether the extra is there; loads nothing."""
    return importlib.util.find_spec("openvino") is not None


def version() -> str:
    """Of OpenVINO, as a word for keys and tables; loads nothing."""
    return f"openvino {importlib.metadata.version('openvino')}" if installed() else "no openvino"


def precisions() -> tuple[Precision, ...]:
    """What the processor computes in by itself, by OpenVINO's list; fp32 comes first.

    Listed is not fast: there are processors whose bf16 is slower than fp32.

    Raises:
        DeviceError: OpenVINO is not installed, or does not load.
    """
    with loading("OpenVINO", "openvino", installed=installed()):
        import openvino

    listed = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for name, precision in _LISTED.items() if name in listed)
