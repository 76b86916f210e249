"""vidsr makes video and pictures larger, frame by frame, and loses nothing on the way.

The map of rooms, from the top floor down; imports go down only:

    cli          words -> Job; events -> a progress bar or JSON lines; the only room that prints
    api          the library: upscale(), colorize(), Upscaler
    batch        many files: what there is, what is done, who does it
    job          THE MAIN PATH: plan(job), run(plan)         | training   how weights are made
    draft        Job -> Plan: all that is decided before the first frame
    bench        how fast this machine is                    | doctor     what is here and missing
    still        a single picture: the same, in memory       | resume     what of a long run is done
    networks     which networks a plan takes, how they run, and made ready
    planning     what comes out: size, container, name       | memory  what a run takes, and a limit
    request      Job: what was asked for | events  what a run tells
    pipeline     decode | compute | encode, overlapped       | evaluation how good a picture is
    following    the stage that carries the picture before along the motion
    stages       what happens to one picture: tensor in, tensor out | coloring   the one that colors
    lanes        queues of work on a device: streams, threads
    reuse        which parts of a picture need the network
    media        files and colour    | engines  a network on a device
    models       networks and cards  | tiling   cut into tiles, blend them back
    lab          sRGB <-> CIE L*a*b* | motion   optical flow and cuts
    frame        Frame, ColorSpec, PixelLayout   | files    outputs appear whole, by rename
    errors       everything that can go wrong, with its exit code

    import vidsr
    vidsr.upscale("old.mp4", "new.mp4", scale=4)
    larger = vidsr.Upscaler("fast-x4")(picture)

Importing vidsr loads nothing heavy; the first use of a name does.

Note [Libraries]
~~~~~~~~~~~~~~~~
What is not super-resolution is left to well-kept libraries, each behind one door: PyAV for codecs
and containers (media), ffmpeg-python for a system ffmpeg (media/ffmpeg), Pillow for stills
(media/images and image_writer, and what reads training pictures), safetensors for weights (models,
training), typer and rich for the command line, ncnn and OpenVINO as faster engines
(engines/ncnn_engine and openvino_engine, in extras of their names), scikit-image for SSIM and
CIEDE2000 (evaluation) and matplotlib for plots (evaluation, training), both in the extra `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Upscaler", "__version__", "colorize", "upscale"]

if TYPE_CHECKING:
    from vidsr.api import Upscaler, colorize, upscale


def __getattr__(name: str) -> Any:
    if name in {"colorize", "upscale", "Upscaler"}:
        from vidsr import api

        return getattr(api, name)
    raise AttributeError(f"module 'vidsr' has no attribute {name!r}")
