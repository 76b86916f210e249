"""The PyTorch engine: its contract, and how it fails."""

import pytest
import torch
from torch import nn

from vidsr.engines.torch_engine import TorchEngine, available_devices, device_errors, open_device
from vidsr.errors import DeviceError, OutOfMemory
from vidsr.models.compact import Compact, CompactOptions

CPU = torch.device("cpu")


def engine_of(network, precision="fp32", tile=(12, 16), batch=2):
    return TorchEngine(network, scale=2, device=CPU, precision=precision, tile=tile, batch=batch)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Compact(CompactOptions(scale=2, channels=8, blocks=2)).eval()


class Fails(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, _tiles):
        raise self.error


def test_the_engine_gives_what_the_network_gives(network):
    tiles = torch.rand(2, 3, 12, 16)
    output = engine_of(network)(tiles)
    assert output.shape == (2, 3, 24, 32)
    # channels_last picks another kernel: another order of addition.
    torch.testing.assert_close(output, network(tiles), rtol=0, atol=1e-5)


def test_input_is_clamped_in_a_copy_and_output_is_not(network):
    tiles = torch.rand(2, 3, 12, 16) * 3 - 1
    before = tiles.clone()
    engine = engine_of(network)
    torch.testing.assert_close(engine(tiles), engine(tiles.clamp(0, 1)), rtol=0, atol=0)
    assert torch.equal(tiles, before)
    assert engine(torch.ones(2, 3, 12, 16)).max() > 1  # the residual adds to white


def test_the_output_is_the_callers_to_change(network):
    with torch.inference_mode():
        engine_of(network)(torch.rand(2, 3, 12, 16)).add_(1)


def test_half_precision_is_near_and_leaves_the_given_network_alone(network):
    tiles = torch.rand(2, 3, 12, 16)
    engine = engine_of(network, "bf16")
    output = engine(tiles)
    assert output.dtype == engine.dtype == torch.bfloat16
    assert next(network.parameters()).dtype == torch.float32
    # bf16 has 8 bits of mantissa: 1/256 per rounding, a handful of them here.
    torch.testing.assert_close(output.float(), network(tiles), rtol=0, atol=5 / 256)


def test_in_fp32_uses_the_weights_before_they_were_rounded(network):
    tiles = torch.rand(2, 3, 12, 16)
    exact = engine_of(network, "bf16").in_fp32()
    assert torch.equal(exact(tiles), engine_of(network)(tiles))


def test_resized_keeps_weights_and_leaves_the_first_engine_alone(network):
    first = engine_of(network)
    other = first.resized((5, 7), 1)
    assert other(torch.rand(1, 3, 5, 7)).shape == (1, 3, 10, 14)
    assert first(torch.rand(2, 3, 12, 16)).shape == (2, 3, 24, 32)


def test_another_shape_is_refused_with_both_shapes(network):
    with pytest.raises(ValueError, match=r"\(1, 3, 12, 16\).*\(2, 3, 12, 16\)"):
        engine_of(network)(torch.rand(1, 3, 12, 16))


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_a_full_memory_is_out_of_memory(error):
    with pytest.raises(OutOfMemory) as caught:
        engine_of(Fails(error))(torch.rand(2, 3, 12, 16))
    assert type(caught.value.__cause__) is type(error)


def test_the_real_allocator_says_what_we_listen_for():
    with pytest.raises(OutOfMemory), device_errors(CPU):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_any_other_failure_is_a_device_error():
    with pytest.raises(DeviceError, match="cpu failed: illegal access") as caught:
        engine_of(Fails(RuntimeError("illegal access")))(torch.rand(2, 3, 12, 16))
    assert not isinstance(caught.value, OutOfMemory)


def test_auto_takes_the_first_device_that_there_is():
    assert str(open_device("auto")) == available_devices()[0]
    assert open_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "cuda:", ""])
def test_an_unknown_device_is_refused_with_those_that_there_are(name):
    with pytest.raises(DeviceError, match=r"--device auto or .*cpu"):
        open_device(name)


def test_devices_are_listed_fastest_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert available_devices() == ["cuda:0", "cuda:1", "cpu"]
    assert open_device("auto") == open_device("cuda") == torch.device("cuda", 0)
    assert open_device("cuda:1") == torch.device("cuda", 1)
