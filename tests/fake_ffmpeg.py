"""Small programs that stand in for a system ffmpeg: one that works, and some that do not."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = '''#!{python}
import os, sys, time

HELP = """Encoder libx264 [a stand-in]:
    Supported pixel formats: yuv420p yuv422p yuv444p yuv420p10le
"""


def say(text):
    sys.stderr.write(text + "\\n")
    sys.stderr.flush()


if "-h" in sys.argv:
    if "encoder=libx264" in sys.argv:
        print(HELP)
    else:
        say("Codec is not recognized by FFmpeg.")
    sys.exit(0)

import av
from fractions import Fraction

output = next(word for word in sys.argv if word.startswith("file:"))
clock = Fraction(*map(int, sys.argv[sys.argv.index("-enc_time_base") + 1].split(":")))


class Input:
    def read(self, size):
        return sys.stdin.buffer.read(size)


def frames():
    """The pictures that come, the second and later ones numbered from one."""
    with av.open(Input(), format="nut") as pipe:
        for number, picture in enumerate(pipe.decode(video=0)):
            picture.pts = round(picture.pts * picture.time_base / clock)
            picture.time_base = clock
            yield number, picture


def encode(pictures):
    with av.open(output, "w", format="nut", options={{"avoid_negative_ts": "disabled"}}) as file:
        stream = None
        for picture in pictures:
            if stream is None:
                stream = file.add_stream("libx264", rate=25, options={{"preset": "ultrafast"}})
                stream.width, stream.height = picture.width, picture.height
                stream.pix_fmt = picture.format.name
                stream.time_base = stream.codec_context.time_base = clock
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


{behavior}
'''

BEHAVIORS = {
    "works": "encode(picture for _, picture in frames())",
    "talks without end": """
def talking():
    for _, picture in frames():
        for _ in range(5000):
            say("frame=1 fps=0.0 and so on, more than any pipe takes unread")
        yield picture
encode(talking())
""",
    "dies midway": """
def dying():
    for number, picture in frames():
        if number == 3:
            say("[h264_fake @ 0x5] first words")
            say("[h264_fake @ 0x5] the device is gone")
            say("Conversion failed!")
            sys.exit(187)
        yield picture
encode(dying())
""",
    "is killed midway": """
def killed():
    for number, picture in frames():
        if number == 3:
            os.kill(os.getpid(), 9)
        yield picture
encode(killed())
""",
    "fails at the end": """
pictures = [picture for _, picture in frames()]
if len(pictures) > 1:
    say("muxing failed")
    sys.exit(1)
encode(pictures)
""",
    "hangs up and stays": """
def hanging():
    for number, picture in frames():
        if number == 3:
            os.close(0)
            time.sleep(600)
        yield picture
encode(hanging())
""",
    "writes nothing": """
pictures = [picture for _, picture in frames()]
if len(pictures) == 1:
    encode(pictures)
""",
    "refuses": 'say("[libx264] Error setting option shine"); sys.exit(1)',
    "loses a frame": "encode(picture for number, picture in frames() if number != 3)",
    "doubles a frame": """
def doubled():
    for number, picture in frames():
        yield picture
        if number == 3:
            picture.pts += 1
            yield picture
encode(doubled())
""",
    "moves a frame": """
def moved():
    for number, picture in frames():
        picture.pts += number == 3
        yield picture
encode(moved())
""",
    "makes it smaller": """
pictures = [picture for _, picture in frames()]
half = pictures[0].width // 2
encode(pictures if len(pictures) == 1 else [one.reformat(width=half) for one in pictures])
""",
}


def fake_ffmpeg(folder: Path, behavior: str) -> Path:
    """An executable that behaves as `BEHAVIORS` says; a trial of one frame it mostly passes."""
    path = folder / "my ffmpeg"
    path.write_text(PROGRAM.format(python=sys.executable, behavior=BEHAVIORS[behavior]))
    path.chmod(0o755)
    return path
