"""Writes the README's speed tables from what the benchmarks measured.

    python benchmarks/readme.py [--check]

`benchmarks/results/` holds the JSON of engines.py, reuse.py, rivals.py, pipeline.py, scaling.py and
hour.py, all of one kind of machine. With `--check` nothing is written, and a README that says
something else is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- written by benchmarks/readme.py -->\n", "<!-- until here -->\n"
WAYS = {
    "ncnn fp32": "ncnn",
    "openvino fp32": "OpenVINO",
    "torch fp32": "torch",
    "torch fp32 planar": "torch, planar",
}


def main() -> None:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + "\n" + "\n".join(speed()) + "\n" + END + after
    if check and wanted != text:
        sys.exit("README.md is not what benchmarks/results say; run python benchmarks/readme.py")
    if not check:
        README.write_text(wanted, encoding="utf-8")


def speed() -> Iterator[str]:
    """All lines of the section."""
    yield from engines(_result("engines"))
    yield from reuse(_result("reuse"))
    yield from rivals(_result("rivals"))
    yield from whole(_result("pipeline"), _result("scaling"), _result("hour"))


def engines(report: dict[str, Any]) -> Iterator[str]:
    """Which engine is fastest for each network."""
    width, height = report["size"]
    yield _paragraph(
        f"What computes the network, by `python benchmarks/engines.py`: {report['processor']}, two "
        f"cores, fp32, {report['rounds']} rounds, ms for a picture of {width}x{height} on both "
        "cores:"
    )
    yield ""
    yield "| model | " + " | ".join(WAYS.values()) + " | least PSNR to torch | `auto` takes |"
    yield "| --- " * (len(WAYS) + 3) + "|"
    for entry in report["models"]:
        name = "an SRGAN generator 64x16 x4"
        name = name if entry["model"].startswith("srgan") else f"`{entry['model']}`"
        cells = [_ms(entry["seconds"].get(way)) for way in WAYS]
        psnr = f"{min(entry['psnr_to_fp32'].values()):.0f} dB"
        yield f"| {name} | " + " | ".join([*cells, psnr, WAYS[entry["auto"]]]) + " |"
    yield ""


def reuse(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is not computed again, and what that costs in quality."""
    yield _paragraph(
        "What reuse saves, by `python benchmarks/reuse.py`, five pairs; time is that of network "
        "and colour, as a share of the time without reuse. Exact reuse gives the same pictures to "
        "the bit; low-res clips for motion are made from the originals (H.264, CRF 20):"
    )
    yield ""
    yield (
        "| clip | model | reuse | network ran on | time | CPU time | PSNR-Y to the original "
        "(last second) | to every frame computed | flicker |"
    )
    yield "| --- " * 9 + "|"
    for row in rows:
        scores = ["the same", "identical", "1"]
        if row["reuse"] == "motion":
            change, last = row["psnr_y_change"], row["psnr_y_change_last_second"]
            scores = [
                f"{change:+.2f} dB ({last:+.2f})",
                f"{row['psnr_to_computed']:.1f} dB",
                f"{row['flicker_ratio']:.2f}",
            ]
        clip = row["clip"].rpartition(".")[0].split("_")[0].split("-battle")[0]
        cells = [
            f"{clip}, {row['frames']} frames",
            f"`{row['model']}`",
            row["reuse"],
            f"{row['computed']:.0%}",
            f"{row['wall_ratio']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            *scores,
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def rivals(report: dict[str, Any]) -> Iterator[str]:
    """Others with the same weights."""
    width, height = report["size"]
    yield _paragraph(
        "Others with the same weights (realesr-animevideov3), by `python benchmarks/rivals.py`: "
        f"{report['frames']} frames of {width}x{height} to x4, x264 medium CRF 17, medians of "
        "pairs. vidsr is the whole command from its start; ncnn is loaded already and decodes and "
        "encodes too; Real-ESRGAN is its own classes, the network alone:"
    )
    yield ""
    yield "| rival | its seconds | vidsr's seconds | vidsr is |"
    yield "| --- | --- | --- | --- |"
    for name, figures in report["rivals"].items():
        times = figures["times_faster"]
        words = (
            f"{times:.2f} times as fast" if times >= 1 else f"**slower**, {times:.2f} times as fast"
        )
        yield (f"| {name} | {figures['seconds']:.1f} | {figures['vidsr_seconds']:.1f} | {words} |")
    yield ""


def whole(
    pipeline: list[dict[str, Any]], scaling: dict[str, Any], hour: dict[str, Any]
) -> Iterator[str]:
    """The parts of the command, and how it grows."""
    words = []
    for report in pipeline:
        seconds = {part["part"]: part["wall_seconds"] for part in report["parts"]}
        alone = ", ".join(f"{name} {seconds[name]:.2f}" for name in list(seconds)[:-1])
        words.append(
            f"The whole command, `fast-x2` with x264 medium on {report['frames']} frames of "
            f"320x240 (`make bench`), each part alone in seconds: {alone}; all together "
            f"{seconds['whole']:.2f}, {report['frames'] / seconds['whole']:.1f} frames/s, "
            f"{report['ratio']:.2f} times its bound (the slowest part, or all parts' CPU seconds "
            "over the cores)."
        )
    frames = ", ".join(f"{ms:.1f} from {what}" for what, ms in scaling["ms_a_frame"].items())
    pixels = ", ".join(f"{us:.2f} at {size}" for size, us in scaling["us_a_pixel"].items())
    words.append(
        "With length and size (`python benchmarks/scaling.py`): ms a frame of 192x108, "
        f"{frames}; µs a pixel, {pixels}. Memory over an hour of a tiny clip "
        f"({hour['frames']:,} frames, `python benchmarks/hour.py`): {hour['early_mib']:.0f} MiB at "
        f"its start, {hour['late_mib']:.0f} MiB at its end."
    )
    yield _paragraph(" ".join(words))


def _paragraph(words: str) -> str:
    return textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False)


def _ms(seconds: float | None) -> str:
    return (
        ""
        if seconds is None
        else f"{seconds * 1e3:,.3g}"
        if seconds < 1
        else f"{seconds * 1e3:,.0f}"
    )


def _result(name: str) -> Any:
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
