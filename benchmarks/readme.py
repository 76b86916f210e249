"""Writes the README's speed tables from what the benchmarks measured.

    python benchmarks/readme.py [--check]

`benchmarks/results/` holds the JSON of engines.py and rivals.py, a file for each kind of processor,
and of reuse.py, pipeline.py, scaling.py and hour.py. With `--check` nothing is written, and a
README that says something else is an error.
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
    "openvino bf16": "OpenVINO, bf16",
    "torch fp32": "torch",
    "torch fp32 planar": "torch, planar",
    "torch bf16": "torch, bf16",
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
    yield from engines(_results("engines"))
    yield from reuse(_result("reuse"))
    yield from rivals(_results("rivals"))
    yield from stages(_result("pipeline"))
    yield from growth(_result("scaling"), _result("hour"))
    yield from card(_result("gpu"))


def engines(reports: list[dict[str, Any]]) -> Iterator[str]:
    """Which engine is fastest for each network."""
    width, height = reports[0]["size"]
    yield _paragraph(
        "What computes the network, by `python benchmarks/engines.py`: ms for a picture of "
        f"{width}x{height} on both cores, {reports[0]['rounds']} rounds; a matrix product reaches "
        + "; ".join(_peak(report) for report in reports)
        + ":"
    )
    yield ""
    yield "| processor, model | " + " | ".join(WAYS.values()) + " | `auto` takes |"
    yield "| --- " * (len(WAYS) + 2) + "|"
    for report in reports:
        for entry in report["models"]:
            srgan = entry["model"].startswith("srgan")
            name = "SRGAN generator 64x16 x4" if srgan else f"`{entry['model']}`"
            cells = [_ms(entry["seconds"].get(way)) for way in WAYS]
            row = [f"{_kind(report)}, {name}", *cells, WAYS[entry["auto"]]]
            yield "| " + " | ".join(row) + " |"
    fp32, half = _least_psnr(reports, "fp32"), _least_psnr(reports, "bf16")
    yield ""
    yield _paragraph(f"To torch in fp32 all have at least {fp32:.0f} dB, in bf16 {half:.0f} dB.")
    yield ""


def _kind(report: dict[str, Any]) -> str:
    """What a processor is called in tables: its widest instructions."""
    half = report["matrix_product_gflops"].get("bf16", 0)
    return "bf16" if half > report["matrix_product_gflops"]["fp32"] else "AVX2"


def _peak(report: dict[str, Any]) -> str:
    peaks = report["matrix_product_gflops"].items()
    words = " and ".join(f"{peak:.0f} GFLOP/s in {name}" for name, peak in peaks)
    return f"{words} on the {_kind(report)} kind ({report['processor']})"


def _least_psnr(reports: list[dict[str, Any]], precision: str) -> float:
    return min(
        psnr
        for report in reports
        for entry in report["models"]
        for way, psnr in entry["psnr_to_fp32"].items()
        if precision in way
    )


def reuse(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is not computed again, and what that costs in quality."""
    yield _paragraph(
        f"What reuse saves, by `python benchmarks/reuse.py` on {rows[0]['processor']}, five pairs; "
        "time is that of network and colour, as a share of the time without reuse. Exact reuse "
        "gives the same pictures to the bit; low-res clips for motion are made from the originals "
        "(H.264, CRF 20):"
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
    yield _paragraph(
        "Where motion changes a frame of the demo's cartoon most, pixel for pixel: every frame "
        "computed, and carried along the motion (`--pictures`):"
    )
    yield ""
    yield " ".join(
        f"![{what}](benchmarks/results/edge-{name}.png)"
        for what, name in (("every frame computed", "computed"), ("along the motion", "motion"))
    )
    yield ""


def rivals(reports: list[dict[str, Any]]) -> Iterator[str]:
    """Others with the same weights."""
    width, height = reports[0]["size"]
    yield _paragraph(
        "Others with the same weights (realesr-animevideov3), by `python benchmarks/rivals.py`: "
        f"{reports[0]['frames']} frames of {width}x{height} to x4, x264 medium CRF 17, medians of "
        "pairs. vidsr is the whole command from its start; ncnn is loaded already and decodes and "
        "encodes too; Real-ESRGAN is its own classes, the network alone:"
    )
    yield ""
    yield "| processor | vidsr computes with | rival | its seconds | vidsr's seconds | vidsr is |"
    yield "| --- " * 6 + "|"
    for report in reports:
        library, precision, *_ = report["engine"].split(", ")
        engine = f"{library.partition(' on ')[0]}, {precision}"
        for name, figures in report["rivals"].items():
            times = figures["times_faster"]
            words = f"{times:.2f} times as fast"
            words = words if times >= 1 else f"**slower**, {words}"
            seconds = [f"{figures[key]:.1f}" for key in ("seconds", "vidsr_seconds")]
            row = [report["processor"], engine, name, *seconds, words]
            yield "| " + " | ".join(row) + " |"
    yield ""


def stages(reports: list[dict[str, Any]]) -> Iterator[str]:
    """What each part of the command takes alone, and all together."""
    parts = [part["part"] for part in reports[0]["parts"]]
    yield _paragraph(
        "The whole command with x264 medium, each part alone and all together, by `python "
        f"benchmarks/pipeline.py` on {reports[0]['processor']}, seconds for frames of 320x240; the "
        "bound is the slowest part, or all parts' CPU seconds over the cores. SRGAN has random "
        "weights; before: commit caecfe2, with torch alone:"
    )
    yield ""
    yield "| model, computed with, frames | " + " | ".join(parts) + " | whole / bound |"
    yield "| --- " * (len(parts) + 2) + "|"
    for report in reports:
        model = "SRGAN generator 64x16" if report["model"] == "srgan" else f"`{report['model']}`"
        name = f"{model}, {report['engine']}, {report['frames']}"
        seconds = [f"{part['wall_seconds']:.2f}" for part in report["parts"]]
        yield "| " + " | ".join([name, *seconds, f"{report['ratio']:.2f}"]) + " |"
    yield ""


def growth(scaling: dict[str, Any], hour: dict[str, Any]) -> Iterator[str]:
    """How time and memory grow."""
    frames = ", ".join(f"{ms:.1f} from {what}" for what, ms in scaling["ms_a_frame"].items())
    pixels = ", ".join(f"{us:.2f} at {size}" for size, us in scaling["us_a_pixel"].items())
    yield _paragraph(
        "With length and size (`python benchmarks/scaling.py`): ms a frame of 192x108, "
        f"{frames}; µs a pixel, {pixels}. Memory over an hour of a tiny clip "
        f"({hour['frames']:,} frames, `python benchmarks/hour.py`): {hour['early_mib']:.0f} MiB at "
        f"its start, {hour['late_mib']:.0f} MiB at its end."
    )


def card(report: dict[str, Any]) -> Iterator[str]:
    """What a GPU does: right first, then fast."""
    psnr = {name.split()[0]: dB["auto"] for name, dB in report.items() if name.endswith(" dB")}
    peak = report["matrix fp16 TFLOP/s"]
    yield ""
    yield _paragraph(
        f"On a GPU ({report['device']}, torch {report['torch']}, fp16), by `python "
        f"benchmarks/gpu.py`: {len(psnr)} models have {min(psnr.values()):.0f} to "
        f"{max(psnr.values()):.0f} dB to fp32 on a processor, frames that overlap in the streams "
        f"differ by {report['lanes with fast-x4 differ by']} from those one by one; a matrix "
        f"product reaches {peak:.0f} TFLOP/s. This card has no encoder: {report['encoder']}, "
        "preset ultrafast, on 16 cores. Frames a second at x4:"
    )
    yield ""
    yield "| model, size | engine alone | file to file | busy: decoder, network, encoder |"
    yield "| --- | --- | --- | --- |"
    for name, alone in report.items():
        if name.endswith(" engine"):
            what = name.removesuffix(" engine")
            whole = report[f"{what} file to file"]
            busy = ", ".join(f"{share:.0%}" for share in whole["busy"].values())
            model, size = what.split()
            rate = whole["steady_fps"] or whole["fps"]
            yield f"| `{model}`, {size} | {alone['fps']:.0f} | {rate:.0f} | {busy} |"


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


def _results(name: str) -> list[Any]:
    """Of all kinds of processors."""
    return [_result(path.stem) for path in sorted((HERE / "results").glob(f"{name}-*.json"))]


def _result(name: str) -> Any:
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
