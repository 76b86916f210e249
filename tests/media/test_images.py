"""Still pictures: what goes in comes out, and what cannot be read or kept is said."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from vidsr.errors import MediaError, RequestError
from vidsr.media.image_writer import write
from vidsr.media.images import Still, is_picture, read

LOSSLESS = (".png", ".tiff", ".bmp")


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def gray_noise(height, width, dtype=np.uint8):
    return noise(height, width, 1, dtype=dtype).repeat(3, axis=2)


def camera_exif(orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    return exif


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def save_plain_tiff(path, samples, tags):
    height, width, count = samples.shape
    plain = {256: width, 257: height, 258: (16,) * count, 259: 1, 262: 2, 277: count, 278: height}
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {**plain, 273: 0, 279: samples.nbytes, **tags}.items():
        directory[tag] = value
    directory.tagtype[273] = 4
    with path.open("wb") as file:
        directory.save(file)
        file.write(samples.astype("<u2").tobytes())


def everything(**changes):
    still = Still(
        rgb=noise(21, 34, 3),
        alpha=noise(21, 34, seed=1),
        icc_profile=srgb_profile(),
        exif=camera_exif().tobytes(),
        dpi=(300.0, 150.0),
        text={"Title": "A test", "Author": "Zoë 漢"},
    )
    return replace(still, **changes)


def assert_same_pixels(one, two):
    np.testing.assert_array_equal(one.rgb, two.rgb)
    assert (one.alpha is None) == (two.alpha is None)
    if one.alpha is not None:
        np.testing.assert_array_equal(one.alpha, two.alpha)
    assert (one.gray, one.depth) == (two.gray, two.depth)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".webp", ".bmp", ".tif", ".TIFF"])
def test_picture_suffixes_are_known_in_any_case(tmp_path, suffix):
    assert is_picture(tmp_path / f"a{suffix}")
    assert not is_picture(tmp_path / "a.mp4")


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_return_every_color_sample(tmp_path, suffix):
    still = Still(rgb=noise(21, 34, 3))
    assert write(tmp_path / f"a{suffix}", still) == ()
    assert_same_pixels(read(tmp_path / f"a{suffix}"), still)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_gray_stays_gray(tmp_path, suffix):
    still = Still(rgb=gray_noise(21, 34), gray=True)
    assert write(tmp_path / f"a{suffix}", still) == ()
    assert_same_pixels(read(tmp_path / f"a{suffix}"), still)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.mode == "L"


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bit_samples_come_back_exactly(tmp_path, suffix, gray, alpha):
    rgb = gray_noise(21, 34, np.uint16) if gray else noise(21, 34, 3, dtype=np.uint16)
    still = Still(rgb=rgb, alpha=noise(21, 34, dtype=np.uint16) if alpha else None, gray=gray)
    write(tmp_path / f"a{suffix}", still)
    returned = read(tmp_path / f"a{suffix}")
    if (suffix, gray, alpha) == (".tiff", True, True):  # stored as RGBA
        returned = replace(returned, gray=True)
    assert_same_pixels(returned, still)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_gray_with_alpha_stays_both(tmp_path, suffix):
    still = Still(rgb=gray_noise(21, 34), alpha=noise(21, 34), gray=True)
    write(tmp_path / f"a{suffix}", still)
    assert_same_pixels(read(tmp_path / f"a{suffix}"), still)


def test_sixteen_bit_gray_of_another_writer_is_read_exactly(tmp_path):
    samples = noise(9, 14, dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(samples).save(tmp_path / name)
        still = read(tmp_path / name)
        assert (still.gray, still.depth) == (True, 16)
        np.testing.assert_array_equal(still.rgb[..., 1], samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_profile_exif_and_resolution_are_kept_at_both_depths(tmp_path, suffix, dtype):
    still = everything(rgb=noise(9, 14, 3, dtype=dtype), alpha=noise(9, 14, dtype=dtype))
    lost = write(tmp_path / f"a{suffix}", still)
    returned = read(tmp_path / f"a{suffix}")
    assert_same_pixels(returned, still)
    assert returned.icc_profile == still.icc_profile
    assert returned.dpi == pytest.approx(still.dpi, abs=0.02)  # PNG stores whole pixels a metre
    exif = Image.Exif()
    exif.load(returned.exif)
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
    if suffix == ".png":
        assert lost == ()
        assert (returned.exif, returned.text) == (still.exif, still.text)
    else:
        assert lost == ("text",)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_stay_close_and_keep_profile_and_exif_to_the_byte(tmp_path, suffix):
    smooth = np.stack(np.meshgrid(np.arange(0, 256, 4), np.arange(0, 256, 8)), axis=2)
    rgb = np.concatenate([smooth, smooth[..., :1] // 2], axis=2).astype(np.uint8)
    still = everything(rgb=rgb, alpha=None)
    lost = write(tmp_path / f"a{suffix}", still)
    returned = read(tmp_path / f"a{suffix}")
    error = np.abs(returned.rgb.astype(int) - rgb)
    assert error.mean() < 2.5  # both measure about 1 on this ramp at quality 95
    assert (returned.icc_profile, returned.exif) == (still.icc_profile, still.exif)
    assert "text" in lost
    assert ("resolution" in lost) == (suffix == ".webp")


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6" '
    b'dc:title="Gr\xc3\xbc\xc3\x9fe"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("source", ["JPEG", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_xmp_is_kept_upright_or_named(tmp_path, source, suffix):
    path = tmp_path / "source"
    options: dict[str, object] = {"xmp": XMP}
    if source == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = {"pnginfo": info}
    if source == "TIFF":
        options = {"tiffinfo": {700: XMP}}
    Image.fromarray(noise(8, 8, 3)).save(path, source, **options)
    still = read(path)
    assert still.xmp is not None
    assert b"Orientation" not in still.xmp
    assert still.xmp.replace(b"  ", b" ") == XMP.replace(b' tiff:Orientation="6"', b"")
    lost = "XMP" in write(tmp_path / f"a{suffix}", still)
    assert lost == (suffix == ".bmp")
    assert read(tmp_path / f"a{suffix}").xmp == (None if lost else still.xmp)


def test_a_jpeg_comment_is_kept_in_jpeg_and_else_named(tmp_path):
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.jpg", comment="a bridge")
    still = read(tmp_path / "a.jpg")
    assert write(tmp_path / "b.jpg", still) == ()
    assert read(tmp_path / "b.jpg").comment == b"a bridge"
    assert "comment" in write(tmp_path / "b.png", still)


def test_an_iptc_caption_and_a_gamma_of_its_own_are_named_as_lost(tmp_path):
    caption = b"\x1c\x02\x78\x00\x08a bridge"
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(caption))
    block += caption + b"\0" * (len(caption) % 2)
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    assert write(tmp_path / "b.jpg", read(tmp_path / "a.jpg")) == ("IPTC caption",)

    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for gamma, lost in ((100_000, ("gamma",)), (45_455, ())):
        chunk = b"gAMA" + struct.pack(">I", gamma)
        chunk = b"\0\0\0\x04" + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "c.png").write_bytes(data[:33] + chunk + data[33:])
        assert write(tmp_path / "d.png", read(tmp_path / "c.png")) == lost


def test_jpeg_is_written_without_chroma_subsampling(tmp_path):
    write(tmp_path / "a.jpg", Still(rgb=noise(16, 16, 3)))
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_webp_of_quality_100_is_lossless_with_its_alpha(tmp_path):
    still = Still(rgb=noise(21, 34, 3), alpha=noise(21, 34))
    write(tmp_path / "a.webp", still, quality=100)
    assert_same_pixels(read(tmp_path / "a.webp"), still)


def test_gray_with_a_gray_profile_becomes_webp_without_it(tmp_path):
    profile = b"\0" * 16 + b"GRAY" + b"\0" * 108
    still = Still(rgb=gray_noise(16, 16), gray=True, icc_profile=profile)
    write(tmp_path / "a.webp", still, quality=100)
    returned = read(tmp_path / "a.webp")
    assert returned.icc_profile is None
    np.testing.assert_array_equal(returned.rgb, still.rgb)


def test_sixteen_bits_are_rounded_for_an_eight_bit_format_and_named(tmp_path):
    still = Still(rgb=noise(8, 8, 3).astype(np.uint16) * 257)
    assert write(tmp_path / "a.bmp", still) == ("16 bits",)
    np.testing.assert_array_equal(read(tmp_path / "a.bmp").rgb, still.rgb // 257)


def test_palette_with_transparency_becomes_color_with_alpha(tmp_path):
    image = Image.new("P", (4, 2))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 0, 1, 2, 0, 1])
    image.save(tmp_path / "a.png", transparency=bytes([255, 128, 0]))
    still = read(tmp_path / "a.png")
    assert still.rgb[0, :3].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert still.alpha[0].tolist() == [255, 128, 0, 255]
    assert not still.gray


def test_a_transparent_gray_level_becomes_alpha(tmp_path):
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "a.png", transparency=7)
    still = read(tmp_path / "a.png")
    assert still.gray
    assert still.alpha.tolist() == [[255, 0, 255]]


def test_one_bit_becomes_gray(tmp_path):
    bits = noise(9, 14) > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    still = read(tmp_path / "a.png")
    assert still.gray
    np.testing.assert_array_equal(still.rgb[..., 0], np.where(bits, 255, 0))


def test_cmyk_becomes_srgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.tiff")
    still = read(tmp_path / "a.tiff")
    assert still.rgb[5, 5].tolist() == [255, 0, 0]
    assert still.icc_profile is None


def test_a_profile_that_does_not_fit_cmyk_is_not_kept(tmp_path):
    profile = srgb_profile()
    Image.new("CMYK", (16, 16), (0, 0, 0, 255)).save(tmp_path / "a.jpg", icc_profile=profile)
    still = read(tmp_path / "a.jpg")
    assert still.rgb.max() < 8  # black ink is black
    assert still.icc_profile is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_read_upright_with_the_tag_at_one(tmp_path, suffix, orientation):
    quadrants = np.array([[0, 80], [160, 240]], np.uint8).repeat(16, 0).repeat(24, 1)
    stored = Image.fromarray(quadrants).convert("RGB")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation > 1:
        stored = stored.transpose(undo[orientation])
    exif = camera_exif(orientation).tobytes()  # Pillow loses sub-directories of objects in TIFF
    stored.save(tmp_path / f"a{suffix}", exif=exif, quality=95)
    still = read(tmp_path / f"a{suffix}")
    assert still.rgb.shape == (32, 48, 3)
    middles = still.rgb[8::16, 12::24, 0].astype(int)
    assert np.abs(middles - [[0, 80], [160, 240]]).max() < 8
    block = Image.Exif()
    block.load(still.exif)
    assert block.get(0x0112, 1) == 1
    assert block[0x010F] == "Maker"
    assert block.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"


def test_sixteen_bit_tiff_is_turned_upright_too(tmp_path):
    samples = noise(5, 8, 3, dtype=np.uint16)
    save_plain_tiff(tmp_path / "a.tiff", samples, {274: 6})
    np.testing.assert_array_equal(read(tmp_path / "a.tiff").rgb, np.rot90(samples, -1))


def test_premultiplied_sixteen_bit_tiff_is_divided_by_its_alpha(tmp_path):
    samples = np.array([[[1000, 2000, 3000, 32768], [0, 0, 0, 0]]], np.uint16)
    save_plain_tiff(tmp_path / "a.tiff", samples, {338: 1})
    still = read(tmp_path / "a.tiff")
    assert still.rgb.tolist() == [[[2000, 4000, 6000], [0, 0, 0]]]
    assert still.alpha.tolist() == [[32768, 0]]


def test_resolution_turns_with_the_picture(tmp_path):
    image = Image.new("RGB", (16, 8))
    image.save(tmp_path / "a.jpg", dpi=(100, 200), exif=camera_exif(6))
    assert read(tmp_path / "a.jpg").dpi == (200.0, 100.0)


def test_the_content_decides_not_the_suffix(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", "PNG")
    assert read(tmp_path / "a.jpg").format == "PNG"


def test_a_camera_file_with_a_second_view_is_one_picture(tmp_path):
    view = Image.new("RGB", (8, 8))
    view.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[view])
    assert read(tmp_path / "a.jpg").format == "JPEG"


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_a_file_of_several_pictures_is_no_single_one(tmp_path, suffix):
    first, second = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "red")
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    with pytest.raises(MediaError, match=r"2 pictures.*split it"):
        read(tmp_path / f"a{suffix}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"none\.png: no such file"):
        read(tmp_path / "none.png")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(MediaError, match="empty"):
        read(tmp_path / "a.png")


def test_text_named_png_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("hello, I am a text")
    with pytest.raises(MediaError, match="no picture that vidsr reads"):
        read(tmp_path / "a.png")


def test_a_directory_is_no_picture(tmp_path):
    with pytest.raises(MediaError, match="cannot be decoded"):
        read(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_truncated_files_are_refused_in_one_sentence(tmp_path, suffix, part, dtype):
    path = tmp_path / f"a{suffix}"
    write(path, Still(rgb=noise(64, 64, 3, dtype=dtype)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(MediaError, match="again") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_picture_of_floats_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(MediaError, match=r"type F.*RGB"):
        read(tmp_path / "a.tiff")


def test_a_decompression_bomb_is_refused_with_figures(tmp_path):
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(8)
    for kind, body in chunks:
        PngImagePlugin.putchunk(file, kind, body)
    (tmp_path / "a.png").write_bytes(file.getvalue())
    with pytest.raises(MediaError, match=r"178 megapixels.*400000000"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_transparency_is_refused_where_it_would_be_lost(tmp_path, suffix):
    with pytest.raises(RequestError, match=r"\.png or \.webp"):
        write(tmp_path / f"a{suffix}", everything())
    assert list(tmp_path.iterdir()) == []


def test_alpha_that_is_opaque_everywhere_is_no_loss(tmp_path):
    write(tmp_path / "a.jpg", everything(alpha=np.full((21, 34), 255, np.uint8)))
    assert read(tmp_path / "a.jpg").alpha is None


def test_an_unknown_suffix_lists_what_works(tmp_path):
    with pytest.raises(RequestError, match=r"\.png, \.jpg"):
        write(tmp_path / "a.xyz", everything())


def test_a_side_too_long_for_the_format_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"16384.*16383"):
        write(tmp_path / "a.webp", Still(rgb=np.zeros((1, 16384, 3), np.uint8)))


def test_a_quality_out_of_range_is_refused(tmp_path):
    with pytest.raises(RequestError, match="quality 101"):
        write(tmp_path / "a.jpg", everything(alpha=None), quality=101)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(MediaError, match="no directory"):
        write(tmp_path / "none" / "a.png", everything())


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    write(tmp_path / "a.png", everything())
    before = (tmp_path / "a.png").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidsr.files.os.fsync", full)
    with pytest.raises(MediaError, match="No space left"):
        write(tmp_path / "a.png", Still(rgb=noise(4, 4, 3)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vidsr.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.png", everything())
    assert list(tmp_path.iterdir()) == []


def test_a_still_of_the_wrong_shape_or_type_is_refused():
    with pytest.raises(ValueError, match="uint8 or uint16"):
        Still(rgb=np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        Still(rgb=np.zeros((4, 4, 3), np.uint8), alpha=np.zeros((4, 5), np.uint8))
