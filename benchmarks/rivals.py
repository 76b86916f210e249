"""The same network, weights, clip and encoder: `vidsr upscale` against ncnn and Real-ESRGAN.

    python benchmarks/rivals.py CLIP --checkpoint realesr-animevideov3.pth \
        --ncnn realesr-animevideov3-x4 [--frames 10] [--pairs 5] [--realesrgan-python PYTHON]

`--ncnn` is the stem of a .param and a .bin. The clip's first frames are stored without loss, and
each rival makes a whole video of them: `vidsr upscale` as a command, from its start; ncnn (PyPI) on
the processor in this process, decoding and encoding with PyAV at x264's same CRF and preset, in the
faster of two ways: all threads on a frame, or a frame on every core. Real-ESRGAN insists on CUDA
unless its device is set, so its own classes are driven by a small script, in the Python that is
named, and only its network is timed, which is in its favour; without it one sentence is said.
Outputs are verified first: 45 dB to ours on the first frame. Ratios are medians over the pairs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np

from vidsr import Upscaler
from vidsr.engines.remembered import processor, usable_cores

CRF, PRESET = "17", "medium"  # vidsr's own defaults
NEAR_DB = 45.0  # weights stored in fp16 give some 58
BARS = {"ncnn": 2.0, "Real-ESRGAN": 3.0}
REALESRGAN = """
import sys, time
import numpy, torch
from realesrgan import RealESRGANer
from realesrgan.archs.srvgg_arch import SRVGGNetCompact
frames, checkpoint, output = sys.argv[1:]
network = SRVGGNetCompact(3, 3, 64, 16, 4, "prelu")
larger = RealESRGANer(4, checkpoint, model=network, half=False, device=torch.device("cpu"))
began = time.perf_counter()
results = [larger.enhance(frame[..., ::-1], outscale=4)[0] for frame in numpy.load(frames)]
print(time.perf_counter() - began)
numpy.save(output, results[0][..., ::-1])
"""

Frame = np.ndarray  # (H,W,3) uint8, RGB
Runner = Callable[[], float]  # runs it all once; seconds


def main() -> None:
    """Verify, measure in pairs, print, write."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = _cut(options.clip, folder / "clip.mkv", options.frames)
        frames = _decoded(clip)
        exact = Upscaler(str(options.checkpoint), device="cpu")(frames[0])
        ours = VidsrCommand(clip, options.checkpoint, folder)
        ours.run()  # fills its cache, as any first use does
        rivals: dict[str, Runner] = {}
        psnr = {}
        ncnn = NcnnVideo(clip, options.ncnn, folder)
        psnr["ncnn"] = _near("ncnn", ncnn.enlarge(frames[0]), exact)
        ncnn.tune(frames)
        rivals["ncnn"] = ncnn.run
        if script := realesrgan(options, frames, exact, folder):
            rivals["Real-ESRGAN"] = script
        pairs = {rival: race(ours.run, run, options.pairs) for rival, run in rivals.items()}
    report = {
        "processor": processor(),
        "cores": usable_cores(),
        "clip": options.clip.name,
        "frames": len(frames),
        "size": [frames[0].shape[1], frames[0].shape[0]],
        "engine": ours.engine,
        "ncnn": ncnn.words,
        "psnr": psnr,
        "rivals": {rival: _medians(taken) for rival, taken in pairs.items()},
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _draw(report)
    print(f"JSON: {options.json}")


class VidsrCommand:
    """The whole command, in a process of its own."""

    def __init__(self, clip: Path, checkpoint: Path, folder: Path) -> None:
        self._environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        self._words = [sys.executable, "-m", "vidsr", "upscale", str(clip), "--scale", "4"]
        self._words += ["--model", str(checkpoint), "-o", str(folder / "ours.mkv"), "--overwrite"]
        plan = json.loads(self._call("--dry-run", "--json"))
        self.engine = f"{plan['engine']} ({plan.get('measured', 'not measured')})"

    def run(self) -> float:
        """Seconds from start to end."""
        began = time.perf_counter()
        self._call("--quiet", "--crf", CRF, "--preset", PRESET)
        return time.perf_counter() - began

    def _call(self, *more: str) -> str:
        return subprocess.run(
            [*self._words, *more],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        ).stdout


class NcnnVideo:
    """ncnn on the processor: decode, enlarge, encode."""

    def __init__(self, clip: Path, stem: Path, folder: Path) -> None:
        self._clip, self._stem, self._output = clip, stem, folder / "ncnn.mkv"
        self._open(1, usable_cores())

    @property
    def words(self) -> str:
        """How it runs."""
        return f"{self._workers} frames at once, {self._threads} threads each"

    def _open(self, workers: int, threads: int) -> None:
        import ncnn

        self._workers, self._threads = workers, threads
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        failed = self._net.load_param(f"{self._stem}.param") or self._net.load_model(
            f"{self._stem}.bin"
        )
        if failed:
            raise SystemExit(f"{self._stem}.param and .bin cannot be read by ncnn")

    def tune(self, frames: list[Frame]) -> None:
        """Take the faster of a frame on all threads, and a frame on every core."""
        cores = usable_cores()
        some = (frames * cores)[: 2 * cores]
        seconds = {}
        for way in ((1, cores), (cores, 1)):
            self._open(*way)
            self.enlarge(frames[0])
            began = time.perf_counter()
            self._all(some)
            seconds[way] = time.perf_counter() - began
        self._open(*min(seconds, key=lambda way: seconds[way]))

    def run(self) -> float:
        """Seconds from the file to the larger file; the network is loaded already."""
        began = time.perf_counter()
        with av.open(str(self._clip)) as source, av.open(str(self._output), "w") as target:
            video = source.streams.video[0]
            stream = target.add_stream("libx264", rate=video.average_rate)
            stream.options = {"crf": CRF, "preset": PRESET}
            stream.width, stream.height = 4 * video.width, 4 * video.height
            stream.pix_fmt = "yuv420p"
            frames = [picture.to_ndarray(format="rgb24") for picture in source.decode(video)]
            for larger in self._all(frames):
                picture = av.VideoFrame.from_ndarray(larger, format="rgb24")
                target.mux(stream.encode(picture.reformat(format="yuv420p")))
            target.mux(stream.encode(None))
        return time.perf_counter() - began

    def enlarge(self, frame: Frame) -> Frame:
        """One picture."""
        import ncnn

        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), dtype=np.float32) / 255
        extractor = self._net.create_extractor()
        extractor.input(self._net.input_names()[0], ncnn.Mat(planes))
        _, output = extractor.extract(self._net.output_names()[0])
        codes = np.rint(np.clip(np.array(output), 0, 1) * 255)
        return np.ascontiguousarray(codes.astype(np.uint8).transpose(1, 2, 0))

    def _all(self, frames: list[Frame]) -> list[Frame]:
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self.enlarge, frames))


def realesrgan(
    options: argparse.Namespace, frames: list[Frame], exact: Frame, folder: Path
) -> Runner | None:
    """Real-ESRGAN's own classes in another process, or None, said, if they cannot be imported."""
    given, output = folder / "frames.npy", folder / "first.npy"
    np.save(given, np.stack(frames))
    words = [options.realesrgan_python, "-c", REALESRGAN, given, options.checkpoint, output]

    def run() -> float:
        ended = subprocess.run(words, check=True, capture_output=True, text=True)
        return float(ended.stdout.splitlines()[-1])

    trial = [shutil.which(options.realesrgan_python) or "false", "-c", "import realesrgan"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        print(f"Real-ESRGAN is skipped: {options.realesrgan_python} cannot import realesrgan")
        return None
    run()
    _near("Real-ESRGAN", np.load(output), exact)
    return run


def race(ours: Runner, theirs: Runner, pairs: int) -> list[tuple[float, float]]:
    """Seconds of both, in turns; every second pair begins with the rival."""
    taken = []
    for number in range(pairs):
        if number % 2:
            other, own = theirs(), ours()
        else:
            own, other = ours(), theirs()
        taken.append((own, other))
    return taken


def _medians(pairs: list[tuple[float, float]]) -> dict[str, float]:
    own, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    return {"vidsr_seconds": own, "seconds": other, "times_faster": ratio}


def _near(name: str, picture: Frame, exact: Frame) -> float:
    """PSNR to ours; leaves if it is another picture."""
    error = float(((picture.astype(float) - exact.astype(float)) ** 2).mean())
    psnr = 10 * math.log10(255**2 / max(error, 1e-9))
    if psnr < NEAR_DB:
        raise SystemExit(f"{name} gives another picture: {psnr:.1f} dB to ours")
    return psnr


def _cut(clip: Path, path: Path, count: int) -> Path:
    """The first frames of a clip, stored without loss as 8-bit 4:2:0."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream("ffv1", rate=video.average_rate)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for number, decoded in enumerate(itertools.islice(source.decode(video), count)):
            picture = decoded.reformat(format="yuv420p")
            picture.pts, picture.time_base = number, 1 / video.average_rate
            target.mux(stream.encode(picture))
        target.mux(stream.encode(None))
    return path


def _decoded(clip: Path) -> list[Frame]:
    with av.open(str(clip)) as source:
        return [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]


def _draw(report: dict[str, object]) -> None:
    width, height = report["size"]
    print(f"\n{report['processor']}, {report['cores']} cores; {report['clip']}, the same weights,")
    print(f"{report['frames']} frames of {width}x{height} to x4, x264 {PRESET} CRF {CRF}")
    print(f"vidsr: {report['engine']}; ncnn: {report['ncnn']}\n")
    print("| rival | its seconds | vidsr's seconds, whole command | times faster | bar |")
    print("| --- | --- | --- | --- | --- |")
    for name, figures in report["rivals"].items():
        print(
            f"| {name} | {figures['seconds']:.2f} | {figures['vidsr_seconds']:.2f} | "
            f"{figures['times_faster']:.2f} | {BARS[name]} |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="SRVGGNetCompact 64x16 x4")
    parser.add_argument("--ncnn", type=Path, required=True, help="stem of its .param and .bin")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--realesrgan-python", default=sys.executable)
    parser.add_argument("--json", type=Path, default=Path("rivals.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
