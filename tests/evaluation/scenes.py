"""Pictures with waves, edges and texture, drawn without random numbers: the same for ever."""

from __future__ import annotations

import numpy as np


def scene(height: int, width: int) -> np.ndarray:
    """Waves and squares of three colors under a fine texture, RGB (H,W,3) uint8."""
    y, x = np.mgrid[:height, :width].astype(float)
    planes = [
        128
        + 60 * np.sin(x / (9 + 3 * k) + y / (17 - 2 * k))
        + 40 * np.sign(np.sin(x / 23 + k) * np.cos(y / 19))
        for k in range(3)
    ]
    return codes(np.stack(planes, axis=-1) + 6 * texture(height, width)[..., None])


def damaged(picture: np.ndarray) -> np.ndarray:
    """The picture blurred, with other texture, and with a cast from blue to red."""
    blurred = sum(np.roll(picture.astype(float), shift, (0, 1)) for shift in np.ndindex(2, 2)) / 4
    noise = 8 * texture(*picture.shape[:2], start=7)[..., None]
    return codes(blurred + noise + np.array([6.0, 0.0, -6.0]))


def texture(height: int, width: int, start: int = 0) -> np.ndarray:
    """Hashed places: mean 0, deviation 1, much like noise; (H,W)."""
    y, x = np.mgrid[:height, :width].astype(np.uint64)
    hashed = (x + start) * 0x9E3779B1 + y * 0x85EBCA77
    for _ in range(2):
        hashed = ((hashed ^ (hashed >> np.uint64(15))) * 0x2C1B3C6D) % 2**32
    uniform = sum(((hashed >> np.uint64(shift)) % 256) / 255 - 0.5 for shift in (0, 8, 16, 24))
    return uniform * np.sqrt(3)


def codes(samples: np.ndarray) -> np.ndarray:
    return samples.clip(0, 255).round().astype(np.uint8)
