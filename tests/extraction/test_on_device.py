"""The way of a GPU, gone by torch on the CPU: the reference's features, whatever batch an image is in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import ExtractionConfig, load_profile
from delf_engine.errors import ConfigError, ImageError
from delf_engine.extraction import Extractor
from delf_engine.extraction.content import textured
from delf_engine.extraction.on_device import DeviceExtraction
from delf_engine.extraction.resampling import resized, textured_cells
from delf_engine.extraction.runtime import TorchRuntime
from delf_engine.features import LocalFeatures
from delf_engine.images import load_image, load_reduced
from delf_engine.model import GlobalHead, load_checkpoint
from delf_engine.model.network import DelfNetwork
from delf_engine.pyramid import resize
from helpers import exif_with_orientation, image_bytes, raises, random_photo, write_image

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
        ],
    ),
]
SAME = 0.999  # of the keypoints


@pytest.fixture(scope="module")
def network() -> DelfNetwork:
    found: DelfNetwork = load_checkpoint("delf-r18")[0]
    return found


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Photographs of several sizes, two of them alike, one smaller than what is enlarged, one framed, one flat."""
    sizes = [(320, 240), (90, 130), (320, 240), (401, 260), (240, 320)]
    found = [random_photo(np.random.default_rng(i), *size) for i, size in enumerate(sizes)]
    framed = np.full((280, 380, 3), 255, np.uint8)
    framed[30:250, 20:360] = random_photo(np.random.default_rng(9), 340, 220)
    return [*found, framed, np.full((100, 100, 3), 7, np.uint8)]


def config(**changes: object) -> ExtractionConfig:
    values = {"precision": "fp32", "max_features": 200, **changes}
    return load_profile("default").extraction.model_copy(update=values)


def head(levels: int | None = None) -> GlobalHead:
    rng = np.random.default_rng(3)
    mean, matrix = rng.normal(size=256) / 20, rng.normal(size=(256, 8))
    return GlobalHead("gem", mean.astype("f4"), matrix.astype("f4"), {"p": np.float32(3)}, levels)  # type: ignore[dict-item]


def batched(network: DelfNetwork, options: ExtractionConfig, device: str = "cpu", **given: Any) -> Extractor:
    extractor = Extractor(network, options, device=device, **given)
    extractor._extract_on_device()
    return extractor


def assert_same(found: Sequence[LocalFeatures], wanted: Sequence[LocalFeatures], share: float = SAME) -> None:
    assert [one.image_size for one in found] == [one.image_size for one in wanted]
    rows = [[rounded(one) for one in side] for side in (found, wanted)]
    shared = sum(len(a.keys() & b.keys()) for a, b in zip(*rows, strict=True))
    assert shared >= share * max(sum(map(len, side)) for side in rows)
    for a, b in zip(*rows, strict=True):
        both = list(a.keys() & b.keys())
        scores = [[side[key][0] for key in both] for side in (a, b)]
        np.testing.assert_allclose(*scores, rtol=1e-2)  # a pixel may differ by a grey level
        assert all(a[key][1] @ b[key][1] > 0.999 for key in both)


def rounded(features: LocalFeatures) -> dict[tuple[float, ...], tuple[float, np.ndarray]]:
    rows = np.column_stack([features.keypoints, features.scales]).round(2).tolist()
    values = zip(features.scores.tolist(), features.descriptors, strict=True)
    return dict(zip(map(tuple, rows), values, strict=True))


# ------------------------------------------------------------------------------------------------------- pixels


@settings(max_examples=30, deadline=None)
@given(*[st.integers(10, 200)] * 4, st.sampled_from(["area", "bilinear"]))
def test_pixels_are_those_of_opencv(width: int, height: int, wide: int, high: int, method: Any) -> None:
    photo = random_photo(np.random.default_rng(width), width, height)
    found = resized(torch.from_numpy(photo)[None], wide, high, method)[0].numpy()
    apart = np.abs(found.astype(int) - resize(photo, wide, high, method))
    assert apart.max() <= 1
    assert apart.sum() <= 5e-3 * apart.size + 5


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_factors_are_exact(factor: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40 * factor, 30 * factor, 3), np.uint8)
    found = resized(torch.from_numpy(noise)[None], 30, 40, "area")[0].numpy()
    np.testing.assert_array_equal(found, cv2.resize(noise, (30, 40), interpolation=cv2.INTER_AREA))


@settings(max_examples=20, deadline=None)
@given(st.integers(10, 200), st.integers(10, 200), st.sampled_from([(16, 0.0), (14, 6.5)]))
def test_texture_is_that_of_the_reference(width: int, height: int, grid: tuple[int, float]) -> None:
    photo = random_photo(np.random.default_rng(width), width, height)
    photo[:, : width // 2] = photo[:1, :1] + np.arange(3, dtype=np.uint8)
    stride, offset = grid
    found = textured_cells(torch.from_numpy(photo)[None], stride, 3 * stride, 3.0, offset)[0].numpy()
    np.testing.assert_array_equal(found, textured(photo, stride, 3 * stride, 3.0, offset))


def test_opencv_decodes_as_pillow(tmp_path: Path) -> None:
    photo = random_photo(np.random.default_rng(0), 131, 97)
    for i, options in enumerate([{}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}]):
        path = write_image(tmp_path / f"{i}.jpg", photo, **options)
        apart = load_reduced(path, None, in_threads=True)[0].astype(int) - load_image(path)
        assert np.abs(apart).max() <= 3  # 0 where both have the same libjpeg-turbo
    turned = write_image(tmp_path / "turned.jpg", photo, exif=exif_with_orientation(6))
    for source in (turned, image_bytes(photo), image_bytes(photo[:, :, 0], "JPEG")):
        np.testing.assert_array_equal(load_reduced(source, None, in_threads=True)[0], load_image(source))
    assert load_reduced(turned, lambda size: 40, in_threads=True)[0].shape == (66, 49, 3)
    whole = turned.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:30]):
        with pytest.raises(ImageError) as wanted:
            load_image(broken)
        with raises(ImageError, wanted.value.reason):
            load_reduced(broken, None, in_threads=True)


# ----------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("changes", [{}, {"fill_scales": (), "scales": (0.5, 1.3), "resize": "bilinear"}])
def test_features_are_those_of_the_reference(
    network: DelfNetwork, photos: list[np.ndarray], device: str, changes: dict[str, Any]
) -> None:
    options = config(**changes)
    reference = Extractor(network, options, device="cpu", global_head=head())
    wanted = [reference(photo) for photo in photos]
    extractor = batched(network, options, device, global_head=head())
    single = [extractor(photo) for photo in photos]
    many = [one for _, one in extractor.extract_many(photos, batch=8)]
    for found in (single, many):
        assert_same(found, wanted, SAME if device == "cpu" else 0.98)  # convolutions of a card are TF32
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.global_descriptor, other.global_descriptor, atol=1e-3)
    if device != "cpu":
        assert single == [extractor(photo) for photo in photos]
        return
    for one, other in zip(single, many, strict=True):  # the batch changes rounding only
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)
        np.testing.assert_allclose(one.descriptors, other.descriptors, atol=1e-4)


def test_regions_and_turned_photographs(network: DelfNetwork, photos: list[np.ndarray]) -> None:
    reference, extractor = Extractor(network, config(), device="cpu"), batched(network, config())
    for options in ({"box": (40, 20, 300, 200)}, {"rotation": 90}, {"rotation": 180, "box": (0, 0, 200, 200)}):
        assert_same([extractor(photos[0], **options)], [reference(photos[0], **options)])  # type: ignore[arg-type]
    with raises(ImageError, "5 x 50"):
        extractor(photos[0], box=(0, 0, 5, 50))


def test_equal_scores_stand_in_the_order_of_their_cells(
    network: DelfNetwork, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = network.attention.forward
    monkeypatch.setattr(network.attention, "forward", lambda features: attention(features).round())
    wanted = Extractor(network, config(max_features=100), device="cpu")(photos[0])
    found = batched(network, config(max_features=100))(photos[0])
    assert len(np.unique(wanted.scores)) < 30
    np.testing.assert_array_equal(found.keypoints, wanted.keypoints)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_thresholds_and_pyramids_without_a_level(network: DelfNetwork, photos: list[np.ndarray]) -> None:
    best = Extractor(network, config(), device="cpu")(photos[0]).scores
    middle = float(best[80] + best[81]) / 2
    assert len(batched(network, config(min_score=middle))(photos[0])) == 81
    for options in (config(min_score=1e9), config(scales=(0.01,), fill_scales=())):
        (found,) = batched(network, options, global_head=head()).extract_many(photos[:1])
        assert len(found[1]) == 0
        assert found[1].image_size == (320, 240)


def test_bad_photographs_are_reported_in_place(
    network: DelfNetwork, photos: list[np.ndarray], tmp_path: Path
) -> None:
    good = [write_image(tmp_path / f"{i}.png", photo) for i, photo in enumerate(photos[:3])]
    sources = [tmp_path / "gone.jpg", good[0], good[1], tmp_path, good[2], tmp_path / "lost.jpg"]
    seen: list[Path] = []
    extractor = batched(network, config())
    for source, _ in extractor.extract_many(
        sources, batch=2, workers=2, on_error=lambda source, _: seen.append(source)
    ):
        seen.append(source)
    assert seen == sources


@pytest.mark.parametrize("name", DEVICES)
def test_nothing_waits_for_the_device_before_all_of_it_has_begun(
    network: DelfNetwork, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    device, pooled = batched(network, config(), name)._on_device, head(levels=2)
    assert device is not None
    images = [device.read(photo) for photo in photos]
    device.begin(images, pooled)()  # what is kept on the device is brought there

    def wait(*_: object, **__: object) -> None:
        raise AssertionError("this would wait for the device")

    with monkeypatch.context() as patched:
        for method in ("cpu", "item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__"):
            patched.setattr(torch.Tensor, method, wait)
        if name == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            finish = device.begin(images, pooled)
        finally:
            if name == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert [len(one) > 0 for one in finish()] == [True] * 6 + [False]


def test_a_forked_child_is_told_before_anything_is_tried(
    network: DelfNetwork, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = batched(network, config())
    assert isinstance(extractor.runtime, TorchRuntime)
    extractor.runtime.device, extractor.runtime.name = torch.device("cuda:0"), "cuda:0"
    assert extractor.on_gpu
    monkeypatch.setattr("os.getpid", lambda: -1)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert not extractor.on_gpu
    for call in (lambda: extractor(photos[0]), lambda: list(extractor.extract_many(photos, workers=0))):
        with raises(ConfigError, "'cuda:0'", "'spawn'"):
            call()


def test_a_batch_that_does_not_fit_is_halved(
    network: DelfNetwork, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, sizes = DeviceExtraction._begun, []
    extractor = batched(network, config())
    wanted = [one for _, one in extractor.extract_many(photos, batch=2)]

    def limited(self: DeviceExtraction, images: Any, head: Any) -> Any:
        sizes.append(len(images))
        if len(images) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return begun(self, images, head)

    monkeypatch.setattr(DeviceExtraction, "_begun", limited)
    limit = 2
    found = [one for _, one in extractor.extract_many(photos[:5], batch=5)]
    assert sizes == [5, 2, 1, 2, 0]
    assert_same(found, wanted[:5])
    limit = 0
    with raises(ConfigError, "320 x 240", "max_image_size"):
        extractor(photos[0])
