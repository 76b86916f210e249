import torch

from vidsr.training.patchgan import PatchDiscriminator


def test_there_is_a_logit_for_each_patch():
    critic = PatchDiscriminator(8)
    logits = critic(torch.rand(2, 1, 64, 48), torch.rand(2, 2, 64, 48))
    assert logits.shape == (2, 1, 6, 4)


def test_a_logit_sees_seventy_pixels():
    critic = PatchDiscriminator(8).double()
    for part in critic.body:
        if isinstance(part, torch.nn.GroupNorm):  # which looks everywhere
            part.forward = lambda features: features
    lightness = torch.rand(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = critic(lightness, torch.rand(1, 2, 128, 128, dtype=torch.float64))
    logits[0, 0, 7, 7].backward()
    rows = torch.nonzero(lightness.grad[0, 0].abs().sum(1)).flatten()
    assert rows[-1] - rows[0] + 1 == 70
