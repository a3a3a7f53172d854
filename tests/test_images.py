from __future__ import annotations

import io
import os
import socket
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from delf_engine.errors import DataError, DelfEngineWarning, ImageError
from delf_engine.images import crop, find_images, load_image, load_reduced, reading, source_name
from helpers import (
    exif_with_orientation,
    image_bytes,
    oriented_kinds,
    oriented_scene,
    raises,
    random_photo,
    write_image,
)


@pytest.fixture
def photo(rng: np.random.Generator) -> np.ndarray:
    return random_photo(rng, 64, 48)


# ---------------------------------------------------------------------------------------------- what is read


def test_path_bytes_pil_and_array_give_the_same_pixels(tmp_path: Path, photo: np.ndarray) -> None:
    path = write_image(tmp_path / "a.png", photo)
    for source in (path, str(path), path.read_bytes(), Image.fromarray(photo), photo):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, photo)


@pytest.mark.parametrize("kind", oriented_kinds())
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("source", ["bytes", "path", "opened"])
def test_orientation_gives_the_upright_image(tmp_path: Path, orientation: int, kind: str, source: str) -> None:
    data = oriented_scene(kind, orientation)
    (tmp_path / "a").write_bytes(data)
    given = {"bytes": data, "path": tmp_path / "a", "opened": Image.open(io.BytesIO(data))}[source]
    loaded, size = load_reduced(given, lambda _: 48)  # type: ignore[arg-type]
    assert size == (48, 32)
    assert loaded.shape == (32, 48, 3)
    assert (loaded[:6, :6, 0] > 180).all()
    assert (loaded[10:, :, 0] < 130).all()
    assert (loaded[:, 10:, 0] < 130).all()


def test_unknown_exif_orientation_is_ignored(photo: np.ndarray) -> None:
    np.testing.assert_array_equal(load_image(image_bytes(photo, exif=exif_with_orientation(9))), photo)


def test_greyscale_and_bilevel(photo: np.ndarray) -> None:
    grey = photo[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(load_image(grey), expected)
    np.testing.assert_array_equal(load_image(image_bytes(grey)), expected)
    bilevel = load_image(image_bytes(Image.fromarray(grey > 128)))
    np.testing.assert_array_equal(bilevel, np.where(expected > 128, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_shown_on_white(photo: np.ndarray, kind: str) -> None:
    rgba = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    rgba[:10, :, 3] = 0
    rgba[10:20, :, 3] = 128
    loaded = load_image(image_bytes(rgba, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (loaded[:10] == 255).all()
    np.testing.assert_allclose(loaded[10:20], photo[10:20] * (128 / 255) + 127, atol=1.5)
    np.testing.assert_array_equal(loaded[20:], photo[20:])


def test_grey_with_alpha(photo: np.ndarray) -> None:
    la = np.dstack([photo[:, :, 0], np.full(photo.shape[:2], 255, np.uint8)])
    la[:5, :, 1] = 0
    loaded = load_image(image_bytes(Image.fromarray(la)))
    assert (loaded[:5] == 255).all()
    np.testing.assert_array_equal(loaded[5:], np.repeat(photo[5:, :, :1], 3, axis=2))


def test_cmyk(photo: np.ndarray) -> None:
    cmyk = Image.fromarray(photo).convert("CMYK")
    for kind, options in (("TIFF", {}), ("JPEG", {"quality": 98})):
        loaded = load_image(image_bytes(cmyk, kind, **options))
        assert np.abs(loaded.astype(int) - photo).mean() < 3, kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_8_bits(kind: str) -> None:
    values = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    loaded = load_image(image_bytes(values, kind))
    assert loaded.min() == 0
    assert loaded.max() == 255
    np.testing.assert_allclose(loaded[:, :, 1], values / 257, atol=1)


def test_32_bit_integers_are_taken_as_16_bit_values() -> None:
    values = np.array([[0, 32768, 65535, 200_000, -3]], np.int32)
    reading._say_bits.cache_clear()
    with pytest.warns(DelfEngineWarning, match="16 bits"):
        loaded = load_image(Image.fromarray(values))
    np.testing.assert_array_equal(loaded[0, :, 0], [0, 127, 255, 255, 0])


@pytest.mark.parametrize(("bits", "kind"), [(8, "int32"), (10, "PNG"), (12, "PNG"), (12, "TIFF"), (14, "TIFF")])
def test_greys_of_fewer_bits_are_scaled_by_their_content(bits: int, kind: str) -> None:
    values = np.linspace(0, (1 << bits) - 1, 48 * 64).astype(np.uint16).reshape(48, 64)
    source: Any = Image.fromarray(values.astype(np.int32)) if kind == "int32" else image_bytes(values, kind)
    reading._say_bits.cache_clear()
    with pytest.warns(DelfEngineWarning, match=f"{bits} bits"):
        loaded = load_image(source)
    assert np.array_equal(load_image(source), loaded)  # and is said once: a warning would be an error here
    np.testing.assert_array_equal(loaded[:, :, 0], values.astype(int) * 255 // ((1 << bits) - 1))


def test_greys_are_scaled_by_what_a_tiff_states() -> None:
    values = np.array([[0, 100, 200, 300]], np.uint16)
    stated = image_bytes(values, "TIFF", tiffinfo={281: 400})
    np.testing.assert_array_equal(load_image(stated)[0, :, 0], [0, 63, 127, 191])


@pytest.mark.parametrize("value", [0, 65535])
def test_one_grey(value: int) -> None:
    assert (load_image(image_bytes(np.full((4, 5), value, np.uint16), "PNG")) == value // 257).all()


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "f.tif", np.zeros((4, 4), np.float32))
    with raises(ImageError, "f.tif"):
        load_image(path)


def test_palette(photo: np.ndarray) -> None:
    palette = Image.fromarray(photo).quantize(64)
    np.testing.assert_array_equal(load_image(image_bytes(palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("transparency", [2, b"\xff\xff\x00"], ids=["one index", "alpha of each index"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_palette_with_transparency(photo: np.ndarray, transparency: int | bytes, orientation: int) -> None:
    palette = Image.fromarray(photo).quantize(16)
    exif = exif_with_orientation(orientation)
    loaded = load_image(image_bytes(palette, transparency=transparency, exif=exif))
    expected = np.array(palette.convert("RGB"))
    expected[np.asarray(palette) == 2] = 255
    np.testing.assert_array_equal(loaded, np.rot90(expected, 0 if orientation == 1 else -1))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    data = image_bytes(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(load_image(data), np.asarray(frames[0]), atol=3)


def test_one_pixel() -> None:
    assert load_image(image_bytes(np.full((1, 1, 3), 7, np.uint8))).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("name", ["фото.png", "写真 №1.png", "a b'\"c.png", "é.png", "🏰.png"])
def test_file_names_beyond_latin(tmp_path: Path, photo: np.ndarray, name: str) -> None:
    path = write_image(tmp_path / "früh" / name, photo)
    np.testing.assert_array_equal(load_image(str(path)), photo)
    assert find_images([tmp_path]) == [str(path)]


def test_file_name_that_is_not_unicode(tmp_path: Path, photo: np.ndarray) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    try:
        Path(path).write_bytes(image_bytes(photo))
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    np.testing.assert_array_equal(load_image(path), photo)


def test_ending_does_not_matter(tmp_path: Path, photo: np.ndarray) -> None:
    path = tmp_path / "png.jpg"
    path.write_bytes(image_bytes(photo))
    np.testing.assert_array_equal(load_image(path), photo)


def test_the_callers_image_is_left_alone(photo: np.ndarray) -> None:
    image = Image.fromarray(photo)
    image.getexif()[0x0112] = 6
    before = image.copy()
    load_image(image)
    assert image.size == before.size
    assert image == before
    assert ImageOps.exif_transpose(image).size == (48, 64)


# ------------------------------------------------------------------------------------------- what is refused


def test_missing_file_names_itself(tmp_path: Path) -> None:
    with raises(ImageError, "gone.jpg") as caught:
        load_image(tmp_path / "gone.jpg")
    assert caught.value.source.endswith("gone.jpg")
    assert caught.value.reason == "no such file"


def test_directory(tmp_path: Path) -> None:
    with raises(ImageError, str(tmp_path)):
        load_image(tmp_path)


def test_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    with raises(ImageError, "empty.jpg"):
        load_image(path)
    with raises(ImageError, "<bytes>"):
        load_image(b"")


def test_text_named_jpg(tmp_path: Path) -> None:
    path = tmp_path / "note.jpg"
    path.write_text("this is not a photograph\n" * 50)
    with raises(ImageError, "note.jpg"):
        load_image(path)


def test_broken_link_and_name_too_long(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for path in (tmp_path / "link.jpg", tmp_path / ("x" * 300 + ".jpg")):
        with raises(ImageError, path.name):
            load_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
def test_truncated(tmp_path: Path, rng: np.random.Generator, kind: str, kept: float) -> None:
    data = image_bytes(random_photo(rng, 200, 150), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: max(1, int(kept * len(data)))])
    with raises(ImageError, "cut."):
        load_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_damaged_bytes_are_an_image_error_or_an_image(photo: np.ndarray, kind: str) -> None:
    rng = np.random.default_rng(1)
    data = image_bytes(photo, kind)
    for trial in range(60):
        damaged = bytearray(data[: rng.integers(1, len(data))] if trial % 3 == 0 else data)
        for _ in range(rng.integers(1, 6)):
            damaged[rng.integers(0, len(damaged) if trial % 2 else min(len(damaged), 200))] = rng.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, on damaged metadata
            try:
                loaded = load_image(bytes(damaged))
            except ImageError:
                continue
        assert loaded.ndim == 3
        assert loaded.dtype == np.uint8


@pytest.mark.parametrize("error", [RuntimeError("no frame"), TypeError("odd tag"), KeyError("x"), MemoryError()])
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = write_image(tmp_path / "odd.png", photo)
    monkeypatch.setattr(reading, "_to_rgb", fail)
    with raises(ImageError, "odd.png"):
        load_image(path)


@pytest.mark.parametrize("source", ["bytes", "pil", "path"])
def test_pixel_limit(tmp_path: Path, photo: np.ndarray, source: str) -> None:
    given = {
        "bytes": image_bytes(photo),
        "pil": Image.fromarray(photo),
        "path": write_image(tmp_path / "big.png", photo),
    }[source]
    assert load_image(given, max_pixels=64 * 48).shape == photo.shape
    with raises(ImageError, "64 x 48", "3071", "max_pixels"):
        load_image(given, max_pixels=64 * 48 - 1)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    data = image_bytes(Image.new("1", (20_000, 5_000)))
    monkeypatch.setattr(Image.Image, "load", refuse)
    with raises(ImageError, "20000 x 5000", "max_pixels"):
        load_image(data)


def test_our_limit_stands_in_place_of_pillows(photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's is one of the whole process, and is left as it was."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    np.testing.assert_array_equal(load_image(image_bytes(photo)), photo)
    np.testing.assert_array_equal(load_image(photo, max_pixels=1), photo)  # nobody decodes an array
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("always", [False, True])
def test_a_jpeg_above_the_limit_is_decoded_smaller(tmp_path: Path, always: bool) -> None:
    path = _large_jpeg(tmp_path / "a.jpg", orientation=6)
    image, size = load_reduced(path, lambda _: 390, always=always, max_pixels=1600 * 960 - 1)
    assert (size, image.shape) == ((960, 1600), (400, 240, 3))
    if not always:  # below the limit it is decoded as it is
        assert load_reduced(path, lambda _: 390, always=False)[0].shape == (1600, 960, 3)
    with raises(ImageError, "1600 x 960", "--max-pixels"):
        load_reduced(path, lambda _: 900, always=always, max_pixels=1600 * 960 - 1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://example.org/a.jpg", "address"),
        ("s3://bucket/a.jpg", "address"),
        (Path("s3://bucket/a.jpg"), "address"),
        ("data:image/png;base64,iVBORw0KGgo=", "base64"),
        ("iVBORw0KGgo" * 100, "base64"),
        ("/9j/4AAQSkZJRgABAQ==", "base64"),
        ("/9j/a.jpg", "no such file"),
        ("A" * 5000, "base64"),
        ("x" * 300 + ".jpg", "no such file"),
        ("C:/a.jpg", "no such file"),
    ],
    ids=str,
)
def test_what_is_no_path(source: str | Path, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    assert said in caught.value.reason
    assert len(str(caught.value)) < 500
    with pytest.raises(DataError) as listed:
        find_images([source])
    assert said in str(listed.value)
    assert len(str(listed.value)) < 500


def test_nobody_waits_for_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "socket", Path("/dev/zero")):
            with raises(ImageError, str(path)):
                load_image(path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
    ],
    ids=lambda a: f"{a.shape}-{a.dtype}",
)
def test_arrays_that_are_no_image(array: np.ndarray) -> None:
    with raises(ImageError, "<ndarray>"):
        load_image(array)


@pytest.mark.parametrize("source", [None, 3, [1, 2], bytearray(b"x")], ids=repr)
def test_other_types_are_an_image_error(source: Any) -> None:
    with raises(ImageError, "<"):
        load_image(source)


def test_source_name(tmp_path: Path, photo: np.ndarray) -> None:
    path = write_image(tmp_path / "a.png", photo)
    assert source_name(path) == source_name(str(path)) == str(path)
    assert source_name(b"123") == "<bytes>"
    assert source_name(photo) == "<ndarray>"
    assert source_name(Image.fromarray(photo)) == "<Image>"
    with Image.open(path) as opened:
        assert source_name(opened) == str(path)


# ------------------------------------------------------------------------------------------------------ crop


@pytest.mark.parametrize(
    ("box", "offset", "size"),
    [
        ((0, 0, 64, 48), (0, 0), (64, 48)),
        ((10, 5, 20, 9), (10, 5), (10, 4)),
        ((10.4, 4.6, 19.6, 9.4), (10, 5), (10, 4)),
        ((-50, -1, 1000, 20), (0, 0), (64, 20)),
        ((63, 47, 64, 48), (63, 47), (1, 1)),
        (np.array([1.0, 2.0, 3.0, 4.0]), (1, 2), (2, 2)),
    ],
)
def test_crop(photo: np.ndarray, box: Any, offset: tuple[int, int], size: tuple[int, int]) -> None:
    cropped, corner = crop(photo, box)
    assert corner == offset
    assert (cropped.shape[1], cropped.shape[0]) == size
    np.testing.assert_array_equal(cropped, photo[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]])
    assert np.shares_memory(cropped, photo)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (9, 5, 5, 9), (64, 0, 70, 10), (-9, -9, 0, 0), (0, 48, 9, 99), (3, 3, 3.4, 9)]
)
def test_crop_without_a_pixel(photo: np.ndarray, box: Any) -> None:
    with raises(ImageError, "q.jpg", "box", "64 x 48"):
        crop(photo, box, name="q.jpg")


@pytest.mark.parametrize(
    "box", [(1, 2, 3), (1, 2, 3, 4, 5), (0, 0, float("nan"), 9), (0, 0, float("inf"), 9), "none", None, 3]
)
def test_crop_by_what_is_no_box(photo: np.ndarray, box: Any) -> None:
    with raises(ImageError, "box"):
        crop(photo, box)


def test_loading_from_many_threads(tmp_path: Path, photo: np.ndarray) -> None:
    paths = [write_image(tmp_path / f"{i}.png", photo) for i in range(8)]
    good: list[bool] = []
    threads = [
        threading.Thread(target=lambda p=p: good.append(np.array_equal(load_image(p), photo))) for p in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 8


# ------------------------------------------------------------------------------------------------ reduced decoding


def _large_jpeg(path: Path, orientation: int = 1, kind: str = "JPEG") -> Path:
    import cv2

    small = random_photo(np.random.default_rng(0), 200, 120)
    image = Image.fromarray(cv2.resize(small, (1600, 960), interpolation=cv2.INTER_CUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"save_all": True, "append_images": [image]} if kind == "MPO" else {}
    image.save(path, kind, quality=95, exif=exif, **more)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (1600, 960)), (6, (960, 1600)), (3, (1600, 960))])
def test_load_reduced(tmp_path: Path, orientation: int, size: tuple[int, int], kind: str) -> None:
    import cv2

    path = _large_jpeg(tmp_path / "a.jpg", orientation, kind)
    whole = load_image(path)
    asked = []

    def needed(given: tuple[int, int]) -> int:
        asked.append(given)
        return 390

    image, got = load_reduced(path, needed)
    assert asked == [got] == [size]
    assert (whole.shape[1], whole.shape[0]) == size
    assert (image.shape[1], image.shape[0]) == (size[0] // 4, size[1] // 4)
    shrunk = cv2.resize(whole, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - shrunk).mean() < 2


@pytest.mark.parametrize(
    ("needed", "side"), [(1600, 1600), (801, 1600), (800, 800), (401, 800), (10, 200), (1, 200)]
)
def test_reduced_images_are_never_too_small(tmp_path: Path, needed: int, side: int) -> None:
    image, size = load_reduced(_large_jpeg(tmp_path / "a.jpg"), lambda _: needed)
    assert max(image.shape) == side >= min(needed, 1600)
    assert size == (1600, 960)


def test_only_files_of_jpegs_are_reduced(tmp_path: Path) -> None:
    path = _large_jpeg(tmp_path / "a.jpg")
    opened = Image.open(path)
    array = load_image(path)
    Image.fromarray(array).save(tmp_path / "a.png")
    for source in (opened, array, tmp_path / "a.png"):
        image, size = load_reduced(source, lambda _: 100)
        assert np.array_equal(image, array)
        assert size == (1600, 960)
    assert np.array_equal(load_reduced(path.read_bytes(), lambda _: 400)[0], load_reduced(path, lambda _: 400)[0])
