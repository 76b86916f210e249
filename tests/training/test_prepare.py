import csv
import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from vidsr.errors import RequestError
from vidsr.training.prepare import (
    MANIFEST,
    PrepareOptions,
    difference_hash,
    prepare,
    read_licences,
    split_of,
)

OPTIONS = PrepareOptions(side=32, val=0.25, test=0.25)


def colors(seed, height=48, width=64):
    """Random colors of some structure, (H,W,3) uint8."""
    small = torch.rand((1, 3, 6, 8), generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    return (large[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).numpy()


def save(pixels, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def prepared(folders, output, options=OPTIONS, **more):
    """The manifest's rows by the sources' file names."""
    for report in prepare(folders, output, options, **more):
        assert report.done <= report.total
    with (output / MANIFEST).open(newline="") as file:
        return {row["source"].rsplit("/", 1)[-1]: row for row in csv.DictReader(file)}


def test_gray_broken_and_small_pictures_are_dropped_with_the_reason(tmp_path):
    save(colors(1), tmp_path / "in" / "good.png")
    save(colors(2)[..., :1].repeat(3, axis=2), tmp_path / "in" / "gray.png")
    save(colors(3, 20, 64), tmp_path / "in" / "deep" / "small.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    rows = prepared([tmp_path / "in"], tmp_path / "out")
    assert rows["good.png"]["dropped"] == ""
    assert rows["gray.png"]["dropped"] == "gray: colorfulness 0.0"
    assert rows["small.png"]["dropped"] == "small: below 32 pixels"
    assert rows["broken.png"]["dropped"].startswith("broken: not a readable picture")
    written = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.jpg")]
    assert [path.as_posix() for path in written] == [rows["good.png"]["file"]]
    with Image.open(tmp_path / "out" / written[0]) as image:
        assert image.size == (43, 32)


def test_of_near_duplicates_the_largest_is_kept(tmp_path):
    original = colors(5, 96, 128)
    save(original, tmp_path / "in" / "original.png")
    save(original, tmp_path / "in" / "again.jpg", quality=60)
    save(np.ascontiguousarray(original[:, ::-1]), tmp_path / "in" / "mirrored.jpg", quality=80)
    Image.fromarray(original).resize((64, 48)).save(tmp_path / "in" / "a_smaller.png")
    save(colors(6, 48, 64), tmp_path / "in" / "other.png")
    rows = prepared([tmp_path / "in"], tmp_path / "out")
    kept = {name for name, row in rows.items() if not row["dropped"]}
    assert "other.png" in kept
    assert len(kept) == 2
    assert rows["a_smaller.png"]["dropped"].startswith("near-duplicate of ")


def test_a_chain_of_near_duplicates_leaves_one(tmp_path):
    first = colors(7, 64, 64)
    for number in range(4):
        shifted = np.roll(first, number, axis=1)
        save(shifted[: 64 - number], tmp_path / "in" / f"{number}.png")
    options = dataclasses.replace(OPTIONS, near=40)
    rows = prepared([tmp_path / "in"], tmp_path / "out", options)
    assert [name for name, row in rows.items() if not row["dropped"]] == ["0.png"]


def test_the_split_follows_the_content_and_not_the_names(tmp_path):
    for number in range(12):
        save(colors(number), tmp_path / "first" / f"{number}.png")
        save(colors(number), tmp_path / "second" / "deep" / f"{90 - number}.png")
    save(colors(99), tmp_path / "second" / "more.png")
    first = prepared([tmp_path / "first"], tmp_path / "one")
    second = prepared([tmp_path / "second"], tmp_path / "two")
    for number in range(12):
        ours, theirs = first[f"{number}.png"], second[f"{90 - number}.png"]
        assert (ours["split"], ours["file"]) == (theirs["split"], theirs["file"])
    assert {row["split"] for row in first.values()} == {"train", "val", "test"}


def test_shares_are_kept_on_many_pictures():
    digests = [f"{number * 2**64 // 1000:016x}" for number in range(1000)]
    splits = [split_of(digest, PrepareOptions()) for digest in digests]
    assert (splits.count("val"), splits.count("test")) == (50, 50)


def test_licences_come_from_the_table_of_sources(tmp_path):
    save(colors(1), tmp_path / "in" / "a.png")
    save(colors(2), tmp_path / "in" / "b.png")
    table = tmp_path / "SOURCES.csv"
    table.write_text("file,licence\nin/a.png,CC0\n")
    rows = prepared([tmp_path / "in"], tmp_path / "out", sources=table)
    assert (rows["a.png"]["licence"], rows["b.png"]["licence"]) == ("CC0", "")


@pytest.mark.parametrize("content", ["name,terms\na.png,CC0\n", "", "\0"])
def test_a_table_without_the_columns_is_refused(tmp_path, content):
    (tmp_path / "SOURCES.csv").write_text(content)
    with pytest.raises(RequestError, match=r"SOURCES\.csv"):
        read_licences(tmp_path / "SOURCES.csv")


def test_a_picture_given_twice_is_read_once(tmp_path):
    save(colors(1), tmp_path / "in" / "deep" / "a.png")
    *_, last = prepare([tmp_path / "in", tmp_path / "in" / "deep"], tmp_path / "out", OPTIONS)
    assert (last.done, last.kept, last.dropped) == (2, 1, {})


def test_an_output_that_is_in_use_or_searched_is_refused(tmp_path):
    save(colors(1), tmp_path / "in" / "a.png")
    list(prepare([tmp_path / "in"], tmp_path / "out", OPTIONS))
    with pytest.raises(RequestError, match="already holds prepared pictures"):
        list(prepare([tmp_path / "in"], tmp_path / "out", OPTIONS))
    with pytest.raises(RequestError, match="lies within"):
        list(prepare([tmp_path / "in"], tmp_path / "in" / "new", OPTIONS))


def test_folders_without_use_say_so(tmp_path):
    with pytest.raises(RequestError, match="no such folder"):
        list(prepare([tmp_path / "missing"], tmp_path / "out", OPTIONS))
    (tmp_path / "in").mkdir()
    with pytest.raises(RequestError, match="no pictures in"):
        list(prepare([tmp_path / "in"], tmp_path / "out", OPTIONS))
    save(np.zeros((40, 40, 3), np.uint8), tmp_path / "in" / "black.png")
    (tmp_path / "in" / "empty.jpg").touch()
    with pytest.raises(RequestError, match="nothing to keep among 2 pictures: 1 gray, 1 broken"):
        list(prepare([tmp_path / "in"], tmp_path / "out", OPTIONS))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"side": 8}, "--side 8"),
        ({"near": 128}, "--near 128"),
        ({"val": 0.6, "test": 0.4}, "--val"),
    ],
)
def test_options_that_cannot_work_say_why(change, words):
    with pytest.raises(RequestError, match=words):
        PrepareOptions(**change)


def test_unlike_pictures_differ_in_half_of_the_bits():
    first, second = difference_hash(colors(1)), difference_hash(colors(2))
    assert first.shape == (256,)
    assert 80 < (first != second).sum() < 176


def test_the_shared_pictures_are_all_different_but_for_few(shared, tmp_path):
    shutil.copytree(shared / "data" / "color" / "val", tmp_path / "in")
    options = dataclasses.replace(OPTIONS, side=128)
    *_, last = prepare([tmp_path / "in"], tmp_path / "out", options)
    assert last.kept > 0.95 * last.total / 2
