"""Every real clip through reader and writer: nothing is lost but what is named."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidsr.errors import MediaError, VidsrError
from vidsr.frame import Frame
from vidsr.media.encoders import EncoderRequest, choose_format
from vidsr.media.probe import probe
from vidsr.media.reader import Trim, VideoReader
from vidsr.media.verify import compare
from vidsr.media.writer import VideoWriter
from vidsr.planning import choose_container

SHORT = (
    "real/again.mkv",
    "real/bbb_176x144_192kbps_15fps_mpeg4.mp4",
    "real/bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4",
    "real/bbb_960x540_60fps_vp8.webm",
    "real/book.mkv",
    "real/sample_with_increasing_timestamps_320w_240h_5s.mp4",
    "awkward/bbb_176x144_128kbps_15fps_h263.3gp",
    "awkward/bt601.mov",
    "awkward/edit_list_start.mp4",
    "awkward/fullrange_yuvj.mp4",
    "awkward/gray8_ffv1.mkv",
    "awkward/h265_with_metadata_track.mp4",
    "awkward/hdr10_pq_bt2020.mp4",
    "awkward/hlg10-color-test.mp4",
    "awkward/interlaced_480i_sar32-27.mp4",
    "awkward/odd_641x359_yuv444.mp4",
    "awkward/prores_422_10_321x181.mov",
    "awkward/rotate90_tag.mp4",
    "awkward/sample.avi",
    "awkward/sample.flv",
    "awkward/sample_fpcm_32le.mp4",
    "awkward/sample_fragmented.mp4",
    "awkward/sample_h265.ts",
    "awkward/sample_portrait.mp4",
    "awkward/sample_rotate_and_reflect.mp4",
    "awkward/sample_with_ass_subtitles.mkv",
    "awkward/sample_with_chapters.mkv",
    "awkward/sample_with_metadata.mp4",
    "awkward/sample_with_pgs_subtitles.mkv",
    "awkward/single_frame.mp4",
    "awkward/two_audio_two_subs_attachment.mkv",
    "awkward/vfr_30_then_10.mp4",
)


def doubled(frame, video):
    planes = tuple(plane.repeat(2, axis=0).repeat(2, axis=1) for plane in frame.planes)
    shapes = video.layout.plane_shapes(video.width, video.height)
    if video.layout != frame.layout:
        planes = remade(planes, frame.layout, video.layout, shapes)
    planes = tuple(plane[:h, :w] for plane, (h, w) in zip(planes, shapes, strict=True))
    return replace(frame, planes=planes, layout=video.layout, color=video.color)


def enlarge(source, folder, *, trim=None):
    trim = trim or Trim()
    info = probe(source)
    request = EncoderRequest(preset="ultrafast", threads=2)
    video, _ = choose_format(info, (2 * info.width, 2 * info.height), request)
    video = replace(video, sample_aspect=info.sample_aspect)
    path, tracks, notes = choose_container(info, folder / source.name, explicit=False, video=video)
    copied = tuple(track.stream.index for track in tracks if track.action == "copy")
    reader = VideoReader(info, copied=copied, threads=2, trim=trim)
    writer = VideoWriter(
        path, source=info, video=video, tracks=tracks, start=trim.start, end=trim.end
    )
    with writer:
        for item in reader:
            writer.write(doubled(item, video) if isinstance(item, Frame) else item)
        report = writer.finish()
    dropped = frozenset(track.stream.index for track in tracks if track.action == "drop")
    return path, dropped, reader.report, report, notes
