"""Files of packets and how they are joined: nothing is lost, and time only goes forward."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest

from vidsr.errors import MediaError
from vidsr.media.segments import Coded, PacketFile, is_whole, joined, read_packets

TICK = Fraction(1, 1000)


def stored(path: Path, pts: list[int]) -> Path:
    file = PacketFile(path)
    for number, moment in enumerate(pts):
        file.add(Coded(moment, 7, number == 0, b"%d" % moment * 20))
    file.finish()
    return path


def test_packets_come_back_as_they_were(tmp_path: Path) -> None:
    path = stored(tmp_path / "a", [-5, 40, 20, 1 << 40])
    assert list(read_packets(path)) == [
        Coded(-5, 7, True, b"-5" * 20),
        Coded(40, 7, False, b"40" * 20),
        Coded(20, 7, False, b"20" * 20),
        Coded(1 << 40, 7, False, b"1099511627776" * 20),
    ]
    assert is_whole(path, 4)
    assert not is_whole(path, 5)


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    file = PacketFile(tmp_path / "a")
    file.add(Coded(0, 1, True, b"x"))
    assert not (tmp_path / "a").exists()
    file.abandon()
    assert list(tmp_path.iterdir()) == []


def test_every_cut_and_every_altered_byte_of_the_data_is_noticed(tmp_path: Path) -> None:
    path = stored(tmp_path / "a", [0, 2, 1])
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert not is_whole(path, 3)
    for place in (0, 45, len(data) - 30):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert not is_whole(path, 3)


def test_a_missing_or_damaged_segment_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        list(read_packets(tmp_path / "gone"))
    path = stored(tmp_path / "a", [0, 1])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MediaError, match="run the same command"):
        list(read_packets(path))


@pytest.mark.parametrize(
    ("segments", "dts"),
    [
        ([[0, 1, 2], [3, 4]], [0, 1, 2, 3, 4]),
        # One frame is held back: the first decoding time lies before zero.
        ([[0, 20, 10], [30, 50, 40]], [-10, 0, 10, 20, 30, 40]),
        # Pyramids; the second reorders less than the first.
        ([[0, 40, 20, 10, 30], [50, 70, 60]], [-20, -10, 0, 10, 20, 30, 40, 50]),
        # Variable rate: a long pause shows in the decoding times, but never one after its pts.
        ([[0, 900, 10], [1000, 1010, 1005]], [-10, 0, 10, 900, 1000, 1005]),
        # The last packet is the last shown: it is decoded as late as its duration asks for.
        ([[0, 20, 10], [100, 200]], [-10, 0, 10, 20, 190]),
        ([[7]], [7]),
    ],
)
def test_decoding_times_increase_and_never_pass_a_pts(
    tmp_path: Path, segments: list[list[int]], dts: list[int]
) -> None:
    paths = [stored(tmp_path / str(n), pts) for n, pts in enumerate(segments)]
    packets = list(joined(paths, TICK))
    assert [packet.pts for packet in packets] == [pts for some in segments for pts in some]
    assert [packet.dts for packet in packets] == dts
    assert all(one < other for one, other in itertools.pairwise(dts))
    assert all((packet.dts or 0) <= (packet.pts or 0) for packet in packets)
    assert {packet.time_base for packet in packets} == {TICK}
    assert [packet.is_keyframe for packet in packets].count(True) == len(segments)
