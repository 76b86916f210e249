import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vidsr.errors import RequestError, VidsrError
from vidsr.evaluation.metrics import shrink
from vidsr.training import data
from vidsr.training.data import Album, Crops, Squares, gradients, load_pictures


def save_noise(path, height=40, width=50, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_pictures_come_in_the_order_of_their_paths(tmp_path):
    second, first = save_noise(tmp_path / "b.png", seed=1), save_noise(tmp_path / "a/z.png", seed=2)
    pictures = load_pictures([tmp_path], min_side=16)
    assert [picture.dtype for picture in pictures] == [torch.uint8] * 2
    assert np.array_equal(pictures[0].permute(1, 2, 0).numpy(), first)
    assert np.array_equal(pictures[1].permute(1, 2, 0).numpy(), second)


def test_broken_and_small_pictures_are_skipped_and_named(tmp_path, caplog):
    save_noise(tmp_path / "good.png")
    save_noise(tmp_path / "small.png", height=15)
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "vidsr.training"):
        assert len(load_pictures([tmp_path], min_side=16)) == 1
    for name in ("small.png: smaller", "broken.png: not a readable", "empty.jpg: not a readable"):
        assert name in caplog.text


def test_folders_without_usable_pictures_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"no picture of at least 16x16 pixels among 0 files"):
        load_pictures([tmp_path], min_side=16)
    save_noise(tmp_path / "small.png", width=8)
    with pytest.raises(RequestError, match=r"among 1 files in .*"):
        load_pictures([tmp_path], min_side=16)
    with pytest.raises(RequestError, match="no such folder"):
        load_pictures([tmp_path / "gone"], min_side=16)


def test_one_seed_gives_the_same_batches():
    pictures = [torch.randint(256, (3, 30, 40), dtype=torch.uint8) for _ in range(3)]
    crops = Crops(pictures, scale=3, patch=6, batch=4)
    first, second = (torch.Generator().manual_seed(5) for _ in range(2))
    for _ in range(3):
        ours, theirs = crops.draw(first), crops.draw(second)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_batches_are_pairs_of_the_right_shape_and_range():
    crops = Crops([torch.randint(256, (3, 18, 18), dtype=torch.uint8)], scale=3, patch=6, batch=4)
    low_res, high_res = crops.draw(torch.Generator().manual_seed(0))
    assert low_res.shape == (4, 3, 6, 6)
    assert high_res.shape == (4, 3, 18, 18)
    assert 0 <= float(high_res.min()) <= float(high_res.max()) <= 1
    assert torch.equal(shrink(high_res, 3), low_res)


@pytest.mark.parametrize("degradation", ["clean", "mixed", "video"])
def test_only_originals_of_clean_crops_are_sharpened(degradation):
    y, x = torch.meshgrid(torch.arange(36), torch.arange(36), indexing="ij")
    picture = (((x // 5 + y // 7) % 2) * 90 + 80).to(torch.uint8).expand(3, 36, 36)
    plain, sharp = (
        Crops([picture], 3, 6, 4, degradation, damaged_share=0.5, sharpness=amount)
        for amount in (0.0, 0.4)
    )
    ours, theirs = (crops.draw(torch.Generator().manual_seed(0)) for crops in (sharp, plain))
    assert torch.equal(ours[0], theirs[0])
    contrast = ours[1].std((1, 2, 3)) / theirs[1].std((1, 2, 3))
    steeper = 4 if degradation == "clean" else 2
    assert bool((contrast[:steeper] > 1.05).all())
    assert torch.equal(ours[1][steeper:], theirs[1][steeper:])


def test_all_eight_turns_of_a_picture_are_drawn():
    picture = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4)
    crops = Crops([picture], scale=2, patch=2, batch=200)
    _, high_res = crops.draw(torch.Generator().manual_seed(0))
    assert len(torch.unique(high_res, dim=0)) == 8


def test_damage_is_the_same_made_beforehand_and_when_drawn(monkeypatch):
    monkeypatch.setattr(data, "QUEUED", 1)  # so that some wait
    pictures = [torch.randint(256, (3, 48, 40), dtype=torch.uint8) for _ in range(2)]
    ready, lazy = (Crops(pictures, 2, 8, 6, "mixed", seed=4) for _ in range(2))
    ready.prepare(2)
    first, second = (torch.Generator().manual_seed(5) for _ in range(2))
    for _ in range(4):
        for ours, theirs in zip(ready.draw(first), lazy.draw(second), strict=True):
            assert torch.equal(ours, theirs)


def test_a_process_that_dies_while_pictures_are_damaged_is_an_error_of_ours(monkeypatch):
    monkeypatch.setattr(data, "_begin_process", sys.exit)
    crops = Crops([torch.zeros(3, 48, 40, dtype=torch.uint8)], 2, 8, 6, "mixed")
    with pytest.raises(VidsrError, match="a process that damages pictures died"):
        crops.prepare(1)


def test_an_album_cuts_what_slices_and_turns_cut():
    sizes = [(9, 7), (6, 12), (5, 5)]
    pictures = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    album = Album.of(pictures)
    for number, picture in enumerate(pictures):
        assert torch.equal(album.picture(number), picture)
    turns = torch.arange(8).repeat(3)
    numbers = torch.arange(3).repeat_interleave(8)
    tops, lefts = torch.tensor([3, 1, 0])[numbers], torch.tensor([2, 7, 1])[numbers]
    cut = album.cut(Squares(4, numbers, tops, lefts, turns))
    for place, turn in enumerate(turns.tolist()):
        picture = pictures[numbers[place]]
        square = picture[:, tops[place] : tops[place] + 4, lefts[place] : lefts[place] + 4]
        square = square.flip(1) if turn & 1 else square
        square = square.flip(2) if turn & 2 else square
        square = square.transpose(1, 2) if turn & 4 else square
        assert torch.equal(cut[place], square / 255)


def test_squares_stay_within_pictures_of_any_size():
    album = Album.empty(torch.tensor([(16, 40), (30, 16)]), torch.device("cpu"))
    squares = album.squares(torch.Generator().manual_seed(0), 4000, 16)
    room = album.sizes[squares.numbers] - 16
    assert bool((squares.tops <= room[:, 0]).all() & (squares.lefts <= room[:, 1]).all())
    assert (squares.tops.max(), squares.lefts.max()) == (14, 24)
    assert len(squares.turns.unique()) == 8


def test_gradients_are_smooth_and_of_all_colors():
    pictures = gradients(24, 480, torch.Generator().manual_seed(0))
    assert {tuple(picture.shape) for picture in pictures} == {(3, 480, 480)}
    codes = torch.stack(pictures).int()
    assert int(codes.diff(dim=2).abs().max()) <= 4
    assert int(codes.diff(dim=3).abs().max()) <= 4
    means = codes.float().mean((2, 3))
    assert bool((means.amin(0) < 40).all() & (means.amax(0) > 215).all())
