"""Which engine is fastest for each network, and does `auto` find it?

    python benchmarks/engines.py [--models NAME_OR_CHECKPOINT,...] [--rounds 5] [--json FILE]

Measures what ships, and an SRGAN generator 64x16 x4 with random weights, on one picture: torch in
each layout and precision that `auto` considers, OpenVINO in each precision that it lists, and ncnn.
First every output is held against torch's in fp32 (60 dB in fp32, 45 dB in half; exits 1 below).
Then all ways run in turns, as a plan runs them: a worker on every core, each with a picture. Ratios
are medians over the rounds; a way of more than twice the fastest's time after a round runs no more.

Bars: `auto` within 3 % of the fastest; OpenVINO f32 at least 1.2 times torch's best layout on the
fast models and the SRGAN generator; where bf16 products are faster, bf16 at least 1.8 times fp32 on
networks with 64 channels, at 90 % of the peak. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidsr.engines import openvino_engine
from vidsr.engines.choice import LIBRARIES, Way, Wish, ways_for
from vidsr.engines.memory import keep_freed_memory
from vidsr.engines.precision import DTYPES, Precision
from vidsr.engines.remembered import processor
from vidsr.media.demo import draw_frame
from vidsr.models.card import shipped_cards
from vidsr.models.load import load_mixed
from vidsr.models.srgan import SRGANGenerator, SRGANOptions
from vidsr.networks import EnginePlan, open_stages, plan_engine
from vidsr.planning import Target
from vidsr.request import EngineRequest
from vidsr.stages import Stage

BARS_DB = {"fp32": 60.0, "bf16": 45.0, "fp16": 45.0}
HOPELESS = 2.0  # times the fastest, after one round
AUTO_BAR, OPENVINO_BAR, HALF_BAR, PEAK_BAR = 1.03, 1.2, 1.8, 0.9


def main() -> None:
    """Verify, measure, print, write."""
    options = _arguments()
    keep_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory() as folder:
        models = options.models.split(",") if options.models else _all_models(Path(folder))
        report = {
            "processor": processor(),
            "versions": ", ".join(
                [f"torch {torch.__version__}", *(one.version() for one in LIBRARIES.values())]
            ),
            "size": options.size,
            "rounds": options.rounds,
            "matrix_product_gflops": _peaks(),
            "models": [measure(model, options, Path(folder)) for model in models],
        }
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _draw(report)
    print(f"JSON: {options.json}")


def measure(model: str, options: argparse.Namespace, cache: Path) -> dict[str, object]:
    """All ways of one model: seconds a picture, ratios, and what `auto` took."""
    width, height = options.size
    asked = EngineRequest(model=model, device="cpu")
    auto = plan_engine(asked, Fraction(1), (width, height), cache_dir=cache)
    ways = ways_for(Wish(half=auto.weights.half), cache)
    plans = {
        way.words: dataclasses.replace(
            auto, kind=way.engine, precision=way.precision, layout=way.layout
        )
        for way in ways
    }
    picture = torch.from_numpy(draw_frame(1.0, width, height)).permute(2, 0, 1)[None].float() / 255
    network = load_mixed(auto.weights)
    psnr = verify(plans, network, picture)
    rounds = race(plans, network, picture, options.rounds)
    taken = Way(auto.kind, auto.precision, auto.layout).words
    work = _work(network, picture)
    return {
        "model": auto.card.name,
        "network": f"{auto.card.network} {auto.card.sizes}",
        "tile": auto.tile,
        "workers": auto.workers,
        "psnr_to_fp32": psnr,
        "seconds": {name: statistics.median(times) for name, times in rounds.items()},
        "gflops": {name: work / 1e9 / statistics.median(each) for name, each in rounds.items()},
        "auto": taken,
        "measured_by_auto": auto.measured,
        "ratios": _ratios(rounds, taken),
    }


@torch.inference_mode()
def verify(plans: dict[str, EnginePlan], network: nn.Module, picture: Tensor) -> dict[str, float]:
    """PSNR of each way to torch in fp32; leaves if one is below its bar."""
    exact = _stages(plans["torch fp32 planar"], network, picture)[0](picture)
    psnr = {}
    for name, plan in plans.items():
        difference = _stages(plan, network, picture)[0](picture).float() - exact
        psnr[name] = -10 * math.log10(max(float((difference**2).mean()), 1e-15))
        if psnr[name] < BARS_DB[plan.precision]:
            raise SystemExit(f"{plan.card.name} by {name}: {psnr[name]:.1f} dB, a wrong picture")
    return psnr


def race(
    plans: dict[str, EnginePlan], network: nn.Module, picture: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Seconds a picture, way by way in turns; every worker has a picture."""
    workers = {
        name: [_stages(plan, network, picture) for _ in range(plan.workers)]
        for name, plan in plans.items()
    }
    times: dict[str, list[float]] = {name: [] for name in plans}
    plan = next(iter(plans.values()))
    torch.set_num_threads(plan.threads)
    with ThreadPoolExecutor(plan.workers) as pool:

        def once(name: str) -> float:
            began = time.perf_counter()
            list(pool.map(lambda stages: _enlarge(stages, picture), workers[name]))
            return (time.perf_counter() - began) / plan.workers

        first = {name: once(name) for name in plans}  # compiles, and fetches memory
        running = [name for name in plans if first[name] < 2 * HOPELESS * min(first.values())]
        for _ in range(rounds):
            for name in running:
                times[name].append(once(name))
            best = min(times[name][-1] for name in running)
            running = [name for name in running if times[name][-1] < HOPELESS * best]
    return {name: taken or [first[name]] for name, taken in times.items()}


@torch.inference_mode()
def _enlarge(stages: list[Stage], picture: Tensor) -> None:
    for stage in stages:
        picture = stage(picture)


def _stages(plan: EnginePlan, network: nn.Module, picture: Tensor) -> list[Stage]:
    scale = plan.card.scale
    height, width = picture.shape[-2:]
    target = Target(width * scale, height * scale, Fraction(scale), square_pixels=False)
    return open_stages(plan, target, network)  # type: ignore[arg-type]


def _ratios(rounds: dict[str, list[float]], taken: str) -> dict[str, float]:
    """Medians over the rounds of what the bars are about."""
    complete = max(len(times) for times in rounds.values())
    whole = {name: times for name, times in rounds.items() if len(times) == complete}

    def ratio(ours: str, theirs: list[str]) -> float:
        """How many times faster `ours` is than the best of `theirs`, round by round."""
        best = min(theirs, key=lambda name: statistics.median(rounds[name]))
        pairs = zip(rounds[best], rounds[ours], strict=False)
        return statistics.median(other / own for other, own in pairs)

    torchs = [name for name in rounds if name.startswith("torch fp32")]
    ratios = {"auto_to_best": 1 / ratio(taken, list(whole))}
    if "ncnn fp32" in rounds:
        ratios["ncnn_fp32_over_torch_fp32"] = ratio("ncnn fp32", torchs)
    if "openvino fp32" in rounds:
        ratios["openvino_fp32_over_torch_fp32"] = ratio("openvino fp32", torchs)
    if "openvino bf16" in rounds:
        ratios["openvino_bf16_over_torch_fp32"] = ratio("openvino bf16", torchs)
    return ratios


def _peaks() -> dict[str, float]:
    """Matrix products of all cores, GFLOP/s; bf16 only where it is not emulated."""
    peaks = {}
    half = "bf16" in (openvino_engine.precisions() if openvino_engine.installed() else ())
    for name in ("fp32", "bf16") if half else ("fp32",):
        precision: Precision = "bf16" if name == "bf16" else "fp32"
        matrix = torch.rand(2048, 2048).to(DTYPES[precision])
        best = math.inf
        for _ in range(4):
            began = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - began)
        peaks[name] = 2 * 2048**3 / best / 1e9
    return peaks


@torch.inference_mode()
def _work(network: nn.Module, picture: Tensor) -> float:
    """Floating-point operations of the convolutions for a picture."""
    piece, operations = picture[..., :32, :32], [0.0]

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        operations[0] += 2 * module.weight.numel() * output.shape[-1] * output.shape[-2]

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    network(piece)
    for hook in hooks:
        hook.remove()
    return operations[0] * picture.numel() / piece.numel()


def _all_models(folder: Path) -> list[str]:
    """What ships and enlarges, and a large generator with random weights."""
    names = [card.name for card in shipped_cards() if card.task == "upscale" and not card.is_twin]
    torch.manual_seed(0)
    path = folder / "srgan-64x16-x4-random.safetensors"
    save_file(SRGANGenerator(SRGANOptions()).state_dict(), path)
    return [*names, str(path)]


def _draw(report: dict[str, object]) -> None:
    width, height = report["size"]
    peaks = ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in report["matrix_product_gflops"].items())
    print(f"\n{report['processor']}; {report['versions']}; matrix product {peaks}")
    print(f"ms a picture of {width}x{height}, medians of {report['rounds']} rounds\n")
    print("| model | way | ms | GFLOP/s | PSNR to fp32 |")
    print("| --- | --- | --- | --- | --- |")
    for entry in report["models"]:
        for name, seconds in sorted(entry["seconds"].items(), key=lambda item: item[1]):
            auto = " (auto)" if name == entry["auto"] else ""
            print(
                f"| {entry['model']} | {name}{auto} | {seconds * 1e3:.1f} | "
                f"{entry['gflops'][name]:.0f} | {entry['psnr_to_fp32'][name]:.0f} dB |"
            )
    print()
    for entry in report["models"]:
        ratios = entry["ratios"]
        words = [f"auto takes {ratios['auto_to_best']:.3f} of the fastest (bar {AUTO_BAR})"]
        if "ncnn_fp32_over_torch_fp32" in ratios:
            words.append(f"ncnn {ratios['ncnn_fp32_over_torch_fp32']:.2f} times torch")
        if "openvino_fp32_over_torch_fp32" in ratios:
            gain = ratios["openvino_fp32_over_torch_fp32"]
            words.append(f"OpenVINO f32 {gain:.2f} times torch (bar {OPENVINO_BAR})")
        if "openvino_bf16_over_torch_fp32" in ratios:
            gain = ratios["openvino_bf16_over_torch_fp32"]
            words.append(
                f"bf16 {gain:.2f} times torch fp32 (bar {HALF_BAR} and {PEAK_BAR:.0%} of the peak, "
                "where bf16 products are faster)"
            )
        print(f"{entry['model']}: {'; '.join(words)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--models", help="names or checkpoints, separated by commas")
    parser.add_argument(
        "--size",
        type=lambda text: tuple(map(int, text.split("x"))),
        default=(320, 180),
        metavar="WxH",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("engines.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
