import copy
import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from vidsr.errors import ModelError, RequestError
from vidsr.training import checkpoint
from vidsr.training.discriminators import (
    UNetDiscriminator,
    VGGDiscriminator,
    open_discriminator,
)
from vidsr.training.losses import discriminator_loss, generator_loss

OWN = ["unet", "vgg"]
needs_basicsr = pytest.mark.skipif(
    importlib.util.find_spec("basicsr") is None,
    reason="needs basicsr; the README says how to install it",
)


@pytest.fixture(autouse=True)
def one_seed_and_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network waits for its threads longer than it computes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def taught(discriminator, steps, *, side=32):
    """Train to tell noise from smoothed noise; returns the losses."""
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-4)
    generator = torch.Generator().manual_seed(7)
    losses = []
    for _ in range(steps):
        sharp = torch.rand(4, 3, side, side, generator=generator)
        smooth = nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1, count_include_pad=False)
        loss = discriminator_loss(discriminator(sharp), discriminator(smooth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_unet_judges_every_pixel():
    assert UNetDiscriminator(4)(torch.rand(2, 3, 24, 40)).shape == (2, 1, 24, 40)


def test_the_vgg_judges_pictures_of_any_size():
    for height, width in [(96, 96), (17, 50), (1, 1)]:
        assert VGGDiscriminator(4)(torch.rand(2, 3, height, width)).shape == (2, 1)


def test_features_are_the_activations_of_the_stages():
    picture = torch.rand(1, 3, 32, 48)
    shapes = [tuple(stage.shape[1:]) for stage in UNetDiscriminator(4).features(picture)]
    assert shapes == [
        (4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (16, 8, 12), (8, 16, 24), (4, 32, 48),
    ]  # fmt: skip
    shapes = [tuple(stage.shape[1:]) for stage in VGGDiscriminator(4).features(picture)]
    assert shapes == [
        (4, 32, 48), (4, 16, 24), (8, 16, 24), (8, 8, 12), (16, 8, 12), (16, 4, 6), (32, 4, 6),
        (32, 2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_logits_of_features_are_those_of_the_pictures(name):
    discriminator = open_discriminator(name, 4).eval()
    pictures = torch.rand(2, 3, 16, 16)
    logits = discriminator.logits(discriminator.features(pictures))
    assert torch.equal(logits, discriminator(pictures))


@pytest.mark.parametrize(("height", "width"), [(20, 16), (16, 4)])
def test_the_unet_names_sides_that_it_cannot_judge(height, width):
    with pytest.raises(RequestError, match=f"multiples of 8, not {width}x{height}"):
        UNetDiscriminator(4)(torch.rand(1, 3, height, width))


@pytest.mark.parametrize("name", OWN)
def test_all_layers_but_the_first_and_last_have_spectral_norm_one(name):
    discriminator = open_discriminator(name, 4)
    for _ in range(100):  # each pass makes one step of the power method
        discriminator(torch.rand(1, 3, 8, 8))
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [is_parametrized(layer) for layer in layers] == [
        False, *[True] * (len(layers) - 2), False,
    ]  # fmt: skip
    for layer in layers[1:-1]:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert norm == pytest.approx(1, abs=0.02)  # the power method's own error


@pytest.mark.parametrize("name", OWN)
def test_a_discriminator_learns_to_tell_sharp_from_smooth(name):
    losses = taught(open_discriminator(name, 8), 90)
    assert losses[0] == pytest.approx(1.386, abs=0.2)  # a guess: 2 ln 2
    assert losses[-1] < 0.1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", OWN)
def test_a_restored_discriminator_trains_on_as_if_never_stopped(name, memory_format, tmp_path):
    original = open_discriminator(name, 4).to(memory_format=memory_format)
    taught(original, 3)
    checkpoint.save(tmp_path / "run", checkpoint.network_tensors("critic", original), {})
    restored = open_discriminator(name, 4).to(memory_format=memory_format)
    checkpoint.restore_network("critic", restored, checkpoint.load(tmp_path / "run")[0])
    ours, theirs = restored.state_dict(), original.state_dict()
    assert any(key.endswith("._u") for key in theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert taught(restored, 3) == taught(original, 3)
    ours, theirs = restored.state_dict(), original.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_checkpoint_of_another_discriminator_is_refused():
    tensors = checkpoint.network_tensors("critic", UNetDiscriminator(4))
    with pytest.raises(ModelError, match="another network"):
        checkpoint.restore_network("critic", VGGDiscriminator(4), tensors)


@pytest.mark.parametrize("name", OWN)
def test_a_frozen_discriminator_still_teaches_the_generator(name):
    discriminator = open_discriminator(name, 4).requires_grad_(False)
    fake = torch.rand(2, 3, 16, 16, requires_grad=True)
    generator_loss(discriminator(fake)).backward()
    assert fake.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in discriminator.parameters())


@pytest.mark.parametrize("name", OWN)
def test_half_precision_is_near_full_precision(name):
    discriminator = open_discriminator(name, 4).eval()
    pictures = torch.rand(2, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = discriminator(pictures)
    full = discriminator(pictures)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), full, atol=0.02)  # bf16 has 8 bits; logits are below 1
    discriminator.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        discriminator(pictures).float().mean().backward()


def test_unknown_names_are_answered_with_the_known_ones():
    for name in ("resnet", "basicsr:RRDBNet"):
        with pytest.raises(RequestError, match=rf"{name}'; there are unet, vgg, basicsr:UNet"):
            open_discriminator(name, 4)


def test_a_missing_basicsr_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "basicsr.archs", None)
    with pytest.raises(RequestError, match=r"basicsr cannot be imported \(.+\); the README"):
        open_discriminator("basicsr:UNetDiscriminatorSN", 4)


class Judge(nn.Module):
    """In the manner of BasicSR: picky about sizes, and with torch's first spectral norm."""

    def __init__(self, num_in_ch, num_feat):
        super().__init__()
        self.inner = torch.nn.utils.spectral_norm(nn.Conv2d(num_in_ch, num_feat, 3, padding=1))
        self.outer = nn.Conv2d(num_feat, 1, 3, padding=1)

    def forward(self, pictures):
        assert pictures.size(2) == 16, "Input size must be 16"
        return self.outer(nn.functional.leaky_relu(self.inner(pictures), 0.2, inplace=True))


@pytest.fixture
def stand_in(monkeypatch):
    """A discriminator from a stand-in for basicsr."""
    names = ("torchvision.transforms", "torchvision.transforms.functional_tensor", "basicsr.archs")
    torchvision, _, archs = modules = [ModuleType(name) for name in names]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    torchvision.functional = ModuleType("functional")
    archs.discriminator_arch = ModuleType("discriminator_arch")
    archs.discriminator_arch.UNetDiscriminatorSN = Judge
    return open_discriminator("basicsr:UNetDiscriminatorSN", 4)


def test_a_foreign_discriminator_has_features_too(stand_in):
    pictures = torch.rand(2, 3, 16, 16)
    inner, logits = stand_in.eval().features(pictures)
    assert inner.shape == (2, 4, 16, 16)
    assert torch.equal(logits, stand_in(pictures))
    assert stand_in.logits([inner, logits]) is logits
    assert not stand_in.network.inner._forward_hooks


def test_a_foreign_discriminator_can_be_copied_after_training(stand_in):
    taught(stand_in, 2, side=16)
    twin = copy.deepcopy(stand_in.eval())
    assert not twin.training
    pictures = torch.rand(2, 3, 16, 16)
    assert torch.equal(twin(pictures), stand_in(pictures))
    taught(stand_in.train(), 1, side=16)
    assert not torch.equal(twin(pictures), stand_in.eval()(pictures))


def test_a_size_that_a_foreign_discriminator_refuses_is_one_sentence(stand_in):
    with pytest.raises(RequestError, match="refuses the patch: Input size must be 16"):
        stand_in.features(torch.rand(2, 3, 8, 8))


@needs_basicsr
@pytest.mark.filterwarnings("ignore")  # basicsr's own
@pytest.mark.parametrize(
    ("name", "shape"),
    [("UNetDiscriminatorSN", (2, 1, 128, 128)), ("VGGStyleDiscriminator", (2, 1))],
)
def test_basicsrs_discriminators_are_trained_copied_and_restored(name, shape, tmp_path):
    discriminator = open_discriminator(f"basicsr:{name}", 4)
    taught(discriminator, 2, side=128)
    pictures = torch.rand(2, 3, 128, 128)
    twin = copy.deepcopy(discriminator.eval())
    features = twin.features(pictures)
    assert features[-1].shape == shape
    assert torch.equal(features[-1], discriminator(pictures))
    checkpoint.save(tmp_path / "run", checkpoint.network_tensors("critic", discriminator), {})
    restored = open_discriminator(f"basicsr:{name}", 4).eval()
    checkpoint.restore_network("critic", restored, checkpoint.load(tmp_path / "run")[0])
    assert torch.equal(restored(pictures), discriminator(pictures))
