"""Selection rules as the extractor applies them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError
from delf_engine.extraction import Extractor
from delf_engine.model.network import DelfNetwork
from helpers import checkpoint_info, random_photo


def extractor(**changes: object) -> Extractor:
    torch.manual_seed(0)
    values: dict[str, object] = {
        "scales": (0.5, 0.70710678, 1.0),
        "max_image_size": 512,
        "max_features": 100,
        "min_score": 0.0,
        "resize": "area",
        "min_side": 10,
    }
    config = ExtractionConfig(**{**values, **changes})  # type: ignore[arg-type]
    return Extractor(DelfNetwork("resnet18", 40, hidden=16), config, device="cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return random_photo(np.random.default_rng(1), 300, 220)


def test_spread_limits_each_grid_field(photo: np.ndarray) -> None:
    found = extractor(spread=2, spread_px=50.0)(photo)
    fields = np.floor((found.keypoints + 0.5) / 50)
    _, counts = np.unique(fields, axis=0, return_counts=True)
    assert counts.max() == 2
    assert len(found) > 10
    plain = extractor()(photo)
    assert (np.unique(np.floor((plain.keypoints + 0.5) / 50), axis=0, return_counts=True)[1]).max() > 2


def test_suppression_by_receptive_fields_in_pixels_of_the_image(photo: np.ndarray) -> None:
    found = extractor(nms_iou=0.8)(photo)
    sides = 211 * found.scales  # ResNet-18 conv4
    boxes = np.column_stack([found.keypoints - sides[:, None] / 2, found.keypoints + sides[:, None] / 2])
    overlaps = np.triu(box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy(), 1)
    assert overlaps.max() <= 0.8 + 1e-3  # scales are of rounded levels
    assert len(found) > 10
    assert found != extractor()(photo)
    assert extractor(nms_iou=1.0)(photo) == extractor()(photo)


def test_batches_agree_with_single_images(photo: np.ndarray) -> None:
    one = extractor()
    others = [random_photo(np.random.default_rng(i), 300, 220) for i in range(2, 5)]
    photos = [photo, random_photo(np.random.default_rng(9), 150, 260), *others]
    alone = [one(p) for p in photos]
    assert [f for _, f in one.extract_many(photos, batch=1)] == alone
    for batch in (2, 5, 100):
        for got, expected in zip(one.extract_many(photos, batch=batch), alone, strict=True):
            _close(got[1], expected)
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        next(one.extract_many(photos, batch=0))


def _close(a: object, b: object) -> None:
    assert a.image_size == b.image_size  # type: ignore[attr-defined]
    keys = [{tuple(row) for row in np.column_stack([f.keypoints, f.scales]).tolist()} for f in (a, b)]  # type: ignore[attr-defined]
    common = keys[0] & keys[1]
    assert len(common) >= 0.98 * max(map(len, keys))
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4)  # type: ignore[attr-defined]


def test_reduced_decoding_is_close(tmp_path: Path) -> None:
    import cv2

    large = cv2.resize(
        random_photo(np.random.default_rng(3), 320, 240), (1280, 960), interpolation=cv2.INTER_CUBIC
    )
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), large, [cv2.IMWRITE_JPEG_QUALITY, 95])
    changes = {"max_image_size": 320, "scales": (0.70710678, 1.0)}
    whole, reduced = extractor(**changes)(path), extractor(**changes, reduced_decoding=True)(path)
    assert reduced.image_size == whole.image_size == (1280, 960)
    keys = [{tuple(row) for row in np.column_stack([f.keypoints, f.scales]).tolist()} for f in (whole, reduced)]
    assert len(keys[0] & keys[1]) > 0.8 * len(whole)
    # Pixels in memory, and other formats, are whatever they are.
    assert extractor(**changes, reduced_decoding=True)(large) == extractor(**changes)(large)
    box = (100, 50, 900, 800)
    assert extractor(**changes, reduced_decoding=True)(path, box=box) == extractor(**changes)(path, box=box)


def test_a_threshold_of_the_checkpoint_holds_beside_the_rules(photo: np.ndarray) -> None:
    plain = extractor(spread=3)(photo)
    threshold = float(np.median(plain.scores))
    one = extractor(spread=3)
    with_threshold = Extractor(
        one.network, one.config, info=checkpoint_info(attention_threshold=threshold), device="cpu"
    )
    assert (with_threshold(photo).scores >= threshold).all()
    assert len(with_threshold(photo)) < len(plain)
