"""Fine evidence and turned photographs in `verify`, `Engine.verify`, `Engine.search` and `Engine.rerank`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import delf_engine as de
from delf_engine.engine.pairs import verify_pair
from delf_engine.errors import FormatError
from delf_engine.extraction.fine import fine_features
from helpers import raises, random_photo, write_image, write_tiny_model

SIDES = (200, 150)  # large enough to have details


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile under which only copies show the same place: random weights see likeness anywhere."""
    path = tmp_path_factory.mktemp("profile") / "strict.toml"
    path.write_text(
        'extends = "default"\n[extraction]\nmax_features = 300\nscales = [1.0]\nfill_scales = []\n'
        "min_image_size = 0\n[verification]\nmin_inliers = 100\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def extractor(tiny_model: Path, strict: str) -> de.Extractor:
    return de.Extractor.from_pretrained(tiny_model, profile=strict)


@pytest.fixture(scope="module")
def given(extractor: de.Extractor, tiny_model: Path, strict: str) -> dict[str, Any]:
    return {"extractor": extractor, "model": tiny_model, "profile": strict}


@pytest.fixture(scope="module")
def pictures() -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(5)
    return [random_photo(rng, *SIDES) for _ in range(4)]


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, strict: str, pictures: list[npt.NDArray[np.uint8]]
) -> Iterator[de.Engine]:
    with de.Engine.create(tmp_path_factory.mktemp("e") / "e", model=tiny_model, profile=strict) as engine:
        engine.add(pictures, ids=list("abcd"))
        yield engine


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_photograph_is_the_same(
    rotation: int, given: dict[str, Any], pictures: list[npt.NDArray[np.uint8]]
) -> None:
    upright = pictures[0]
    turned = np.ascontiguousarray(np.rot90(upright, -rotation // 90))  # clockwise
    assert not de.verify(turned, upright, turn=False, fine=False, **given)
    for a, b, expected in ((turned, upright, rotation), (upright, turned, 360 - rotation)):
        found, features_a, features_b, _ = verify_pair(a, b, **given)
        assert found.same
        assert found.rotation == expected
        assert f"{expected} degrees" in str(found)
        assert features_a.image_size == (a.shape[1], a.shape[0])
        points = features_a.keypoints[found.matches[:, 0]]
        for H in (found.transform, verify_pair(a, b, fine=False, **given).verification.transform):
            assert H is not None
            mapped = np.c_[points, np.ones(len(points))] @ H.T
            errors = mapped[:, :2] / mapped[:, 2:] - features_b.keypoints[found.matches[:, 1]]
            assert np.median(np.linalg.norm(errors, axis=1)) < 1


def test_both_orders_have_one_verdict(given: dict[str, Any], pictures: list[npt.NDArray[np.uint8]]) -> None:
    for a, b in ((pictures[0], pictures[1]), (np.rot90(pictures[2]).copy(), pictures[2])):
        one, other = de.verify(a, b, **given), de.verify(b, a, **given)
        assert (one.verdict, one.inliers, one.putative) == (other.verdict, other.inliers, other.putative)
        assert (one.rotation + other.rotation) % 360 == 0


def test_queries_are_turned_only_where_nothing_is_found(
    engine: de.Engine, pictures: list[npt.NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = np.rot90(pictures[2], -1).copy()
    found = engine.search(turned)
    assert (found[0].id, found.rotation, found[0].verdict) == ("c", 90, "same")
    assert found.to_dict()["rotation"] == 90
    assert "90 degrees" in str(found)
    assert found.features is not None
    assert found.features.image_size == (turned.shape[1], turned.shape[0])
    again = engine.rerank(turned, list("abcd"))
    assert (again[0].id, again.rotation, again[0].inliers) == ("c", 90, found[0].inliers)
    assert engine.verify(turned, pictures[2]).rotation == 90
    assert engine.search(turned, expand=True, graph=True)[0].id == "c"
    boxed = engine.search(turned, box=(0, 0, *SIDES[::-1]))
    assert (boxed[0].id, boxed.rotation) == ("c", 90)
    # Nothing can be turned without pixels, and nothing is where there is no need.
    assert engine.search(engine.extractor(turned)).rotation == 0
    asked: list[int] = []
    whole = type(engine.extractor).__call__

    def counted(self: de.Extractor, image: object, *, box: object = None, rotation: int = 0) -> de.LocalFeatures:
        asked.append(rotation)
        return whole(self, image, box=box, rotation=rotation)  # type: ignore[arg-type]

    monkeypatch.setattr(type(engine.extractor), "__call__", counted)
    assert engine.search(pictures[2])[0].id == "c"
    assert asked == [0]


def flat(width: int = 150, height: int = 120) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 128, np.uint8)


def screenshot(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A photograph with black bars above and below, and a line of text on one of them."""
    out = np.zeros((picture.shape[0] + 80, picture.shape[1], 3), np.uint8)
    out[40:-40] = picture
    out[12:20, 10:60:4] = 255
    return out


def test_bad_pairs_have_a_verdict(given: dict[str, Any], pictures: list[npt.NDArray[np.uint8]]) -> None:
    a, nothing = pictures[0], flat()
    for pair in ((a, nothing), (nothing, a), (nothing, nothing), (nothing, flat(60, 200))):
        found = de.verify(*pair, **given)
        assert (found.verdict, found.inliers, found.transform) == ("different", 0, None)
    empty = de.LocalFeatures.empty(SIDES)
    assert de.verify(empty, empty, **given).verdict == "different"
    assert de.verify(a, empty, **given).verdict == "different"
    assert de.verify(a, a, **given).verdict == "same"
    assert de.verify(a, screenshot(a), **given).fine.planar > 30  # type: ignore[union-attr]
    inside = de.verify(a[20:130, 20:190].copy(), a, **given)
    assert inside.fine is not None
    np.testing.assert_allclose(inside.transform, [[1, 0, 20], [0, 1, 20], [0, 0, 1]], atol=0.5)  # type: ignore[arg-type]


def test_a_calibration_of_the_first_format_is_refused(
    tmp_path: Path, pictures: list[npt.NDArray[np.uint8]]
) -> None:
    model = write_tiny_model(tmp_path)
    model.with_suffix(".calibration.json").write_text('{"format": "delf-engine calibration", "format_version": 1}')
    with raises(FormatError, "version 1", model.with_suffix(".calibration.json").name):
        de.verify(pictures[0], pictures[1], model=model)


def test_fine_features_that_are_given(tmp_path: Path, extractor: de.Extractor, given: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    paths = [write_image(tmp_path / f"{i}.png", random_photo(rng, *SIDES)) for i in range(2)]
    features, fine = [extractor(p) for p in paths], [fine_features(p) for p in paths]
    asked = de.verify(*paths, turn=False, **given)
    assert de.verify(*features, fine_features=tuple(fine), **given) == asked
    assert de.verify(*features, **given) == de.verify(*paths, fine=False, turn=False, **given)
