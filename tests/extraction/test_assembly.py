"""From maps to features: selection, batches, reduced decoding, thresholds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError
from delf_engine.extraction import Extractor
from delf_engine.extraction.assembly import select_top
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


scores = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf]), st.floats(width=32)), max_size=60)


@given(scores, st.integers(1, 70), st.floats(-3, 3, width=32))
@example([], 5, 0.0)
def test_selection_equals_a_plain_sort(values: list[float], k: int, least: float) -> None:
    array = np.array(values, np.float32)
    eligible = [i for i, v in enumerate(array) if v >= np.float32(least)]
    assert select_top(array, k, least).tolist() == sorted(eligible, key=lambda i: (-array[i], i))[:k]


def test_batches_agree_with_single_images(photo: np.ndarray) -> None:
    one = extractor()
    others = [random_photo(np.random.default_rng(i), 300, 220) for i in range(2, 5)]
    photos = [photo, random_photo(np.random.default_rng(9), 150, 260), *others]
    alone = [one(p) for p in photos]
    assert [f for _, f in one.extract_many(photos, batch=1)] == alone
    for batch in (2, 5, 100):
        for got, expected in zip(one.extract_many(photos, batch=batch), alone, strict=True):
            _close(got[1], expected)
    with pytest.raises(ConfigError, match="batch"):
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


def test_a_threshold_of_the_checkpoint_holds(photo: np.ndarray) -> None:
    plain = extractor()(photo)
    threshold = float(np.median(plain.scores))
    one = extractor()
    with_threshold = Extractor(
        one.network, one.config, info=checkpoint_info(attention_threshold=threshold), device="cpu"
    )
    assert (with_threshold(photo).scores >= threshold).all()
    assert len(with_threshold(photo)) < len(plain)
