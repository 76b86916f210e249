import importlib.util
import math
import sys

import pytest
import torch
from torch.nn import functional as F

from vidsr.errors import RequestError
from vidsr.training.discriminators import open_discriminator
from vidsr.training.losses import (
    CriticFeatures,
    charbonnier,
    color_consistency,
    discriminator_loss,
    feature_matching,
    generator_loss,
    haar_difference,
    l1,
    lattice,
    log_charbonnier,
    open_content_loss,
)

needs_basicsr = pytest.mark.skipif(
    importlib.util.find_spec("basicsr") is None,
    reason="needs basicsr; the README says how to install it",
)


def pictures(seed, *shape):
    return torch.rand(*(shape or (2, 3, 24, 32)), generator=torch.Generator().manual_seed(seed))


def test_charbonnier_is_l1_but_smooth_at_zero():
    ours, target = pictures(1), pictures(2)
    assert charbonnier(ours, target).item() == pytest.approx(l1(ours, target).item(), rel=1e-3)
    assert charbonnier(target, target, epsilon=0.01).item() == pytest.approx(0.01)
    equal = target.clone().requires_grad_()
    charbonnier(equal, target).backward()
    assert torch.equal(equal.grad, torch.zeros_like(equal))


def test_a_guessing_discriminator_loses_two_ln_two():
    guess = torch.zeros(2, 1)
    assert discriminator_loss(guess, guess).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(guess).item() == pytest.approx(math.log(2))


def test_a_right_discriminator_loses_little_and_its_generator_much():
    real, fake = torch.full((2, 1, 4, 4), 9.0), torch.full((2, 1), -9.0)
    assert discriminator_loss(real, fake) < 1e-3
    assert discriminator_loss(fake, real).item() == pytest.approx(18, abs=1e-3)
    assert generator_loss(fake).item() == pytest.approx(9, abs=1e-3)


def test_a_generator_that_fools_nobody_still_has_a_gradient():
    fake = torch.full((1, 1), -50.0, requires_grad=True)
    generator_loss(fake).backward()
    assert fake.grad.item() == pytest.approx(-1)


def test_huge_logits_stay_finite():
    huge = torch.full((1, 1), 1e5)
    assert torch.isfinite(discriminator_loss(-huge, huge))
    assert torch.isfinite(generator_loss(-huge))


def test_no_layer_dominates_feature_matching():
    fake, real = [pictures(1), pictures(2)], [pictures(3), pictures(4)]
    loud = feature_matching([fake[0] * 1000, fake[1]], [real[0] * 1000, real[1]])
    assert loud.item() == pytest.approx(feature_matching(fake, real).item(), rel=1e-5)


def test_feature_matching_is_zero_for_equals_and_one_for_nothing():
    real = [pictures(1), -pictures(2)]
    assert feature_matching(real, real) == 0
    assert feature_matching([0 * layer for layer in real], real).item() == pytest.approx(1)
    silent = [torch.zeros(2, 4)]
    assert feature_matching(silent, silent) == 0


def test_feature_matching_teaches_only_the_fake_side():
    fake, real = pictures(1).requires_grad_(), pictures(2).requires_grad_()
    feature_matching([fake], [real]).backward()
    assert fake.grad is not None
    assert real.grad is None


def test_features_of_different_networks_are_not_matched():
    with pytest.raises(ValueError, match="longer"):
        feature_matching([pictures(1)], [pictures(1), pictures(2)])


@pytest.mark.parametrize("name", ["unet", "vgg"])
def test_a_frozen_critic_stays_as_it_was(name):
    discriminator = open_discriminator(name, 4)
    critic = CriticFeatures(discriminator)
    output, target = pictures(1).requires_grad_(), pictures(2)
    before = critic.feature_matching(output, target)
    discriminator(target).mean().backward()
    with torch.no_grad():
        for weight in discriminator.parameters():
            weight.add_(1)
    after = critic.feature_matching(output, target)
    assert torch.equal(before, after)
    after.backward()
    assert output.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in critic.critic.parameters())
    assert critic.feature_matching(target, target) == 0


def test_detail_is_free_but_a_tint_is_not():
    target = pictures(1)
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    checks = (0.1 * (-1.0) ** (rows + columns)).expand_as(target)
    assert color_consistency(target + checks, target) < 1e-6
    tint = torch.tensor([0.03, 0, -0.03])[:, None, None]
    assert color_consistency(target + tint, target).item() == pytest.approx(0.02, abs=1e-6)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_lattice_of_the_scale_counts_and_texture_does_not(scale):
    target = pictures(3, 2, 3, 16 * scale, 16 * scale)
    texture = 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    dot = torch.zeros(scale, scale)
    dot[0, 0] = 0.02
    dots = dot.tile(16, 16)

    assert lattice(target, target, scale) == 0
    assert lattice(target + 0.02, target, scale) < 1e-6  # a color, the same everywhere
    share = 1 / scale**2
    assert lattice(target + dots, target, scale).item() == pytest.approx(
        0.02 * 2 * share * (1 - share), rel=1e-3
    )
    assert lattice(target + texture, target, scale) < 0.003  # it averages out
    assert lattice(target[..., :scale, :scale], target[..., -scale:, -scale:], scale) > 0


def test_haar_responses_are_compared_by_their_magnitude():
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert haar_difference(noise, noise).item() == pytest.approx(0, abs=1e-6)
    assert haar_difference(-noise, noise).item() == pytest.approx(0, abs=1e-6)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    assert 0.2 < haar_difference(blurred, noise) < 1


def test_a_nearly_perfect_picture_counts_for_what_it_gains():
    target = torch.full((2, 3, 16, 16), 0.5)
    errors = torch.tensor([0.004, 0.04], requires_grad=True)
    log_charbonnier(target + errors.view(2, 1, 1, 1), target).backward()
    near, far = errors.grad
    assert 5 < near / far < 8
    assert log_charbonnier(target, target).item() == pytest.approx(0.008, abs=1e-3)


def test_pictures_of_few_and_of_many_lines_count_alike():
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    faint = noise / 10
    wrong = [noise.roll(1, -1), faint.roll(1, -1)]
    alone = [haar_difference(*pair).item() for pair in zip(wrong, (noise, faint), strict=True)]
    both = haar_difference(torch.cat(wrong), torch.cat((noise, faint)))
    assert both.item() == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_haar_responses_of_a_blurred_picture_pull_it_towards_contrast():
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    contrast = torch.tensor(0.5, requires_grad=True)
    haar_difference((noise - 0.5) * contrast + 0.5, noise).backward()
    assert contrast.grad < 0


def test_losses_are_fp32_whatever_comes_in():
    half, target = pictures(1).bfloat16(), pictures(2)
    losses = [
        charbonnier(half, target),
        l1(half, target),
        color_consistency(half, target),
        feature_matching([half], [half]),
        discriminator_loss(half, half),
        generator_loss(half),
    ]
    assert {loss.dtype for loss in losses} == {torch.float32}


def test_content_losses_are_opened_by_name():
    assert open_content_loss("charbonnier") is charbonnier
    assert open_content_loss("l1") is l1


def test_unknown_names_are_answered_with_the_known_ones():
    for name in ("l3", "basicsr:GANLoss"):
        with pytest.raises(
            RequestError, match=rf"{name}'; there are charbonnier, log_charbonnier, l1, basicsr:Ch"
        ):
            open_content_loss(name)


def test_a_missing_basicsr_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "basicsr.losses", None)
    with pytest.raises(RequestError, match=r"basicsr cannot be imported \(.+\); the README"):
        open_content_loss("basicsr:L1Loss")


@needs_basicsr
@pytest.mark.filterwarnings("ignore")  # basicsr's own
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("CharbonnierLoss", lambda output, target: charbonnier(output, target, epsilon=1e-6)),
        ("L1Loss", l1),
        ("MSELoss", F.mse_loss),
    ],
)
def test_basicsrs_content_losses_are_those_that_we_know(name, ours):
    output, target = pictures(1).requires_grad_(), pictures(2)
    loss = open_content_loss(f"basicsr:{name}")(output, target)
    assert loss.item() == pytest.approx(ours(output, target).item(), rel=1e-5)
    loss.backward()
    assert output.grad.abs().sum() > 0
