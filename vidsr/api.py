"""The library: what the command line itself calls."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsr.coloring import Look
from vidsr.engines.choice import EngineName
from vidsr.errors import RequestError, VidsrError
from vidsr.events import Event, Result
from vidsr.job import plan, run
from vidsr.models.families import largest_scale
from vidsr.models.load import load_mixed
from vidsr.networks import fit_tile, open_stages, plan_engine
from vidsr.planning import Target
from vidsr.request import ColorRequest, EngineRequest, Job, SizeRequest
from vidsr.stages import Stage

Picture = TypeVar("Picture", NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32], Tensor)


def upscale(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    scale: int | None = None,
    model: str | None = None,
    device: str = "auto",
    fidelity: float | None = None,
    overwrite: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Enlarge a video or a picture; sound, subtitles and every frame come along.

    Args:
        source: the file.
        destination: the new file; None puts it beside the source.
        scale: 2, 3 or 4; None chooses by the size of the picture.
        model: a family, a member (`vidsr models` lists them) or a checkpoint's path; None chooses
            by the device.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        fidelity: from 0 (looks) to 1 (true to the source), for models with perceptual weights; None
            takes the model's default.
        overwrite: replace an existing file.
        on_event: called with each `Progress` and with the `Result`.

    Returns:
        What was done. For every option of the command line, make a `vidsr.job.Job` and `run` it.

    Raises:
        VidsrError: what went wrong; nothing is left behind but what a long run goes on from.
    """
    job = Job(
        source=Path(source),
        destination=None if destination is None else Path(destination),
        size=SizeRequest(scale=scale),
        engine=EngineRequest(model=model, device=device, fidelity=fidelity),
        overwrite=overwrite,
    )
    return _finish(job, on_event)


def colorize(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    model: str | None = None,
    device: str = "auto",
    saturation: float = 1.0,
    reference: str | Path | None = None,
    overwrite: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Give a black-and-white video or picture color; its luma stays as it is, to the bit.

    Args:
        source: the file.
        destination: the new file; None puts it beside the source.
        model: a model that colors, or a checkpoint's path; None takes the one that ships.
        device: as in `upscale`.
        saturation: of the colors; 1 is as predicted, 0 grey.
        reference: a picture whose colors are to be matched.
        overwrite: replace an existing file.
        on_event: called with each `Progress` and with the `Result`.

    Returns:
        What was done. For every option of the command line, or to enlarge in the same pass, make a
        `vidsr.job.Job` with a `color` and `run` it.

    Raises:
        VidsrError: what went wrong, an input in color included; what is left is as in `upscale`.
    """
    color = ColorRequest(
        model, Look(saturation=saturation), None if reference is None else Path(reference)
    )
    job = Job(
        source=Path(source),
        destination=None if destination is None else Path(destination),
        size=None,
        engine=EngineRequest(device=device),
        color=color,
        overwrite=overwrite,
    )
    return _finish(job, on_event)


def _finish(job: Job, on_event: Callable[[Event], None] | None) -> Result:
    for event in run(plan(job)):
        if on_event:
            on_event(event)
        if isinstance(event, Result):
            return event
    raise VidsrError(f"{job.source}: the run ended without a result")


class Upscaler:
    """Enlarges single pictures that are already in memory.

    Keeps the network ready on its device, so one instance should serve many pictures.
    """

    def __init__(
        self,
        model: str,
        *,
        scale: int | None = None,
        device: str = "auto",
        fidelity: float | None = None,
        engine: EngineName | Literal["auto"] = "auto",
        cache_dir: Path | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a family, a member, or a checkpoint's path.
            scale: 2, 3 or 4; what the network gives beyond it is reduced again. None takes the
                model's own, and of a family x4, else its largest.
            device: as in `upscale`.
            fidelity: as in `upscale`.
            engine: "torch", "openvino", "ncnn" (processors alone, with their extras) or
                "auto".
            cache_dir: where measurements and compiled models are kept; without it nothing is
                measured, and "auto" is torch on a processor.

        Raises:
            ModelError: unknown model, or weights that are not those of its card.
            RequestError: the model does not reach the scale, or has nothing to mix.
            DeviceError: no such device, or a library is missing.
        """
        SizeRequest(scale=scale)  # checks it
        request = EngineRequest(model=model, device=device, fidelity=fidelity, engine=engine)
        factor = Fraction(scale or largest_scale(model))
        self._engine = plan_engine(request, factor, (1, 1), cache_dir=cache_dir)
        self._network = load_mixed(self._engine.weights)
        self._stages: dict[tuple[int, int], list[Stage]] = {}  # of the last picture size
        self.card = self._engine.card
        self.scale = scale or self.card.scale  # output pixels per input pixel, each way

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
        if not isinstance(picture, np.ndarray):
            raise RequestError(
                f"a picture is an array or a tensor, not {type(picture).__name__}; "
                "vidsr.upscale takes files"
            )
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
            self._stages = {(height, width): self._open(width, height)}
        larger = rgb.to(self._engine.device)
        for stage in self._stages[height, width]:
            picture, larger = larger, stage(larger)
            if stage.faulty is not None and bool(stage.faulty.any()):
                larger = stage.redo(picture)
        return larger

    def _open(self, width: int, height: int) -> list[Stage]:
        engine = fit_tile(self._engine, (width, height))
        size = (width * self.scale, height * self.scale)
        target = Target(*size, Fraction(self.scale), square_pixels=False)
        return open_stages(engine, target, self._network)
