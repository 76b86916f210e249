"""The library: what the command line itself calls."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsr.errors import RequestError, VidsrError
from vidsr.job import Event, Job, Result, open_stages, plan, run
from vidsr.planning import EngineRequest, SizeRequest, Target, choose_model, plan_engine
from vidsr.stages import Stage

Picture = TypeVar("Picture", NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32], Tensor)


def upscale(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    scale: int | None = None,
    model: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Enlarge a video or a picture; sound, subtitles and every frame come along.

    Args:
        source: the file.
        destination: the new file; None puts it beside the source.
        scale: 2, 3 or 4; None chooses by the size of the picture.
        model: a family, a member (`vidsr models` lists them) or a checkpoint's path.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        overwrite: replace an existing file.
        on_event: called with each `Progress` and with the `Result`.

    Returns:
        What was done. For every option of the command line, make a `vidsr.job.Job` and `run` it.

    Raises:
        VidsrError: what went wrong; nothing is left behind.
    """
    job = Job(
        source=Path(source),
        destination=None if destination is None else Path(destination),
        size=SizeRequest(scale=scale),
        engine=EngineRequest(model=model, device=device),
        overwrite=overwrite,
    )
    for event in run(plan(job)):
        if on_event:
            on_event(event)
        if isinstance(event, Result):
            return event
    raise VidsrError(f"{source}: the run ended without a result")


class Upscaler:
    """Enlarges single pictures that are already in memory.

    Keeps the network ready on its device, so one instance should serve many pictures.
    """

    def __init__(self, model: str, *, device: str = "auto") -> None:
        """Load a model by name or checkpoint path.

        Raises:
            ModelError: unknown model, or weights that are not those of its card.
            DeviceError: no such device.
        """
        self._model, self._device = model, device
        self.card, _ = choose_model(model, Fraction(1))
        self._stages: dict[tuple[int, int], tuple[str, Stage]] = {}  # of the last picture size

    @property
    def scale(self) -> int:
        """Output pixels per input pixel, each way."""
        return self.card.scale

    def __call__(self, picture: Picture) -> Picture:
        """Enlarge one picture; type, range and layout stay.

        Args:
            picture: (H,W,3) array of R'G'B', uint8 or uint16 at full range, or float32 in [0,1]; or
                a tensor (3,H,W) or (N,3,H,W), floating point in [0,1].

        Raises:
            RequestError: another shape or type.
        """
        if isinstance(picture, Tensor):
            return self._enlarge_tensor(picture)
        full = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(picture.dtype, 1.0)
        numbers = full > 1 or np.issubdtype(picture.dtype, np.floating)
        if not numbers or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise RequestError(
                "an array is uint8, uint16 or float32 of shape (H,W,3), not "
                f"{picture.dtype} {picture.shape}"
            )
        # A copy, since torch warns of arrays that are read-only and takes no mirrored ones.
        rgb = torch.from_numpy(np.array(picture, order="C")).permute(2, 0, 1)[None].float() / full
        larger = self._enlarge(rgb)[0].permute(1, 2, 0).clamp(0, 1) * full
        return (larger.round() if full > 1 else larger).cpu().numpy().astype(picture.dtype)

    def _enlarge_tensor(self, picture: Tensor) -> Tensor:
        rgb = picture.ndim in {3, 4} and picture.shape[-3] == 3 and picture.numel() > 0
        if not picture.is_floating_point() or not rgb:
            raise RequestError(
                f"a tensor is floating point (3,H,W) or (N,3,H,W), not {picture.dtype} "
                f"{tuple(picture.shape)}"
            )
        pictures = picture if picture.ndim == 4 else picture[None]
        larger = torch.cat([self._enlarge(one[None].float()) for one in pictures])
        larger = larger.to(picture.device, picture.dtype)
        return larger if picture.ndim == 4 else larger[0]

    @torch.inference_mode()
    def _enlarge(self, rgb: Tensor) -> Tensor:
        height, width = rgb.shape[-2:]
        if (height, width) not in self._stages:
            request = EngineRequest(model=self._model, device=self._device)
            engine = plan_engine(request, Fraction(1), (width, height), cache_dir=None)
            size = (width * self.scale, height * self.scale)
            target = Target(*size, Fraction(self.scale), square_pixels=False)
            self._stages = {(height, width): (engine.device, open_stages(engine, target)[0])}
        device, stage = self._stages[height, width]
        enlarged = stage(rgb.to(device))
        bad = stage.faulty is not None and bool(stage.faulty.any())
        return stage.redo(rgb.to(device)) if bad else enlarged
