from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from typer.testing import CliRunner

from delf_engine.cli import app
from delf_engine.demo.clutter import SCENES
from delf_engine.demo.run import run_demo
from delf_engine.demo.scenes import Collection, Photo, render_collection
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, FormatError
from delf_engine.images import load_image
from helpers import random_photo, write_image


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return render_collection(tmp_path_factory.mktemp("demo"), views_per_place=5, distractors=len(SCENES))


def views_of(collection: Collection, place: str | None) -> list[Photo]:
    return [photo for photo in collection.gallery if photo.place == place]


def mapped(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(np.asarray(points, np.float64)[None], homography)[0]


# --------------------------------------------------------------------------------------------------- the record


def pixels(collection: Collection) -> dict[str, bytes]:
    return {p.path.name: load_image(p.path).tobytes() for p in (*collection.queries, *collection.gallery)}


def test_the_same_seed_gives_the_same_pixels(tmp_path: Path) -> None:
    first = render_collection(tmp_path / "a", views_per_place=1, distractors=2, seed=5)
    again = render_collection(tmp_path / "b", views_per_place=1, distractors=1, seed=5)
    other = render_collection(tmp_path / "c", views_per_place=1, distractors=1, seed=6)
    one, two, three = pixels(first), pixels(again), pixels(other)
    assert set(two) < set(one)  # fewer pictures, but those that are left are the same ones
    assert all(one[name] == two[name] for name in two)
    assert all(two[name] != three[name] for name in two)
    for a, b in zip((*first.queries, *first.gallery), (*again.queries, *again.gallery), strict=False):
        assert a.place == b.place
        np.testing.assert_array_equal(a.homography, b.homography)


# ---------------------------------------------------------------------------------------------------- the truth


@functools.cache
def sift(path: Path) -> tuple[np.ndarray, np.ndarray]:
    keypoints, descriptors = cv2.SIFT_create(nfeatures=800).detectAndCompute(load_image(path), None)
    return np.array([k.pt for k in keypoints], np.float32).reshape(-1, 2), descriptors


def matched(a: Path, b: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points of two images that SIFT and a homography find to correspond."""
    (points_a, words_a), (points_b, words_b) = sift(a), sift(b)
    pairs = [p for p in cv2.BFMatcher().knnMatch(words_a, words_b, k=2) if len(p) == 2]
    good = {first.trainIdx: first for first, second in pairs if first.distance < 0.8 * second.distance}.values()
    if len(good) < 4:
        return points_a[:0], points_b[:0]
    # One match a point of b: bricks look like much else, and a homography that collapses would count them all.
    pa, pb = points_a[[m.queryIdx for m in good]], points_b[[m.trainIdx for m in good]]
    _, inliers = cv2.findHomography(pa, pb, cv2.USAC_MAGSAC, 5.0, maxIters=2000, confidence=0.999)
    kept = np.zeros(len(pa), bool) if inliers is None else inliers.ravel().astype(bool)
    return pa[kept], pb[kept]


def test_the_homography_is_where_sift_finds_the_subject(collection: Collection, tmp_path: Path) -> None:
    sources = {n: write_image(tmp_path / f"{n}.png", load_sample_image(f"{n}.jpg")) for n in ("china", "flower")}
    seen = 0
    for photo in (*collection.queries, *collection.gallery):
        if photo.place is None:
            continue
        assert photo.homography is not None
        source, view = matched(sources[photo.place], photo.path)
        if len(view) < 30:  # too dark or too oblique for SIFT
            continue
        seen += 1
        error = np.linalg.norm(mapped(photo.homography, source) - view, axis=1)
        assert np.median(error) < 4, photo.path
    assert seen >= 7


def test_views_of_a_place_match_and_clutter_does_not(collection: Collection) -> None:
    for query in collection.queries:
        count = {p.path.name: len(matched(query.path, p.path)[0]) for p in collection.gallery}
        right = [count[p.path.name] for p in views_of(collection, query.place)]
        wrong = [count[p.path.name] for p in collection.gallery if p.place != query.place]
        assert np.median(right) > 30, count
        assert max(wrong) < 20, count


def test_the_homography_holds_for_pixels_of_a_large_source(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_image(tmp_path / "mine.png", random_photo(rng, 1300, 900))
    (query,) = render_collection(tmp_path / "out", views_per_place=1, distractors=0, photos=[path]).queries
    assert query.homography is not None
    source, view = matched(path, query.path)
    assert len(view) > 30
    assert np.median(np.linalg.norm(mapped(query.homography, source) - view, axis=1)) < 4


# --------------------------------------------------------------------------------------------- one's own photos


def test_own_photographs_are_places(tmp_path: Path, rng: np.random.Generator) -> None:
    paths = [
        write_image(tmp_path / "a" / "tower.png", random_photo(rng, 200, 150)),
        write_image(tmp_path / "b" / "tower.jpg", random_photo(rng, 150, 200)),
        write_image(tmp_path / "b" / "tower-2.jpg", random_photo(rng, 100, 100)),
    ]
    made = render_collection(tmp_path / "out", views_per_place=2, distractors=1, photos=paths)
    assert [query.place for query in made.queries] == ["tower", "tower-2", "tower-2-2"]
    assert len({p.path for p in made.gallery}) == 7


def test_bad_photographs_are_left_out_with_a_warning(tmp_path: Path, rng: np.random.Generator) -> None:
    good = write_image(tmp_path / "good.png", random_photo(rng, 120, 100))
    small = write_image(tmp_path / "small.png", random_photo(rng, 120, 63))
    (tmp_path / "text.jpg").write_text("no image")
    bad = [small, tmp_path / "text.jpg", tmp_path / "gone.jpg"]
    with pytest.warns(DelfEngineWarning) as caught:
        made = render_collection(tmp_path / "out", views_per_place=1, distractors=0, photos=[*bad, good])
    assert [query.place for query in made.queries] == ["good"]
    messages = [str(w.message) for w in caught]
    assert len(messages) == 3
    assert all(path.name in message for path, message in zip(bad, messages, strict=True))
    with pytest.warns(DelfEngineWarning), pytest.raises(DataError):
        render_collection(tmp_path / "none", photos=bad)
    with pytest.raises(DataError):
        render_collection(tmp_path / "none", photos=[])


@pytest.mark.parametrize("options", [{"views_per_place": 0}, {"distractors": -1}, {"seed": -1}], ids=str)
def test_numbers_out_of_range(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        render_collection(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------ clutter


@pytest.mark.parametrize("kind", SCENES)
def test_each_scene_is_another_picture(kind: str) -> None:
    one, two, again = (SCENES[kind](np.random.default_rng(seed), 150, 200) for seed in (0, 1, 0))
    assert one.shape == (150, 200, 3)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).mean() > 5


def test_demo_ranks_correctly_draws_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    stages = set()
    report = run_demo(tmp_path / "demo", progress=lambda stage, *_: stages.add(stage))
    assert report.correct
    assert report.images >= 20
    assert len(report.searches) == 2
    for search in report.searches:
        assert search.right == 5
        assert search.found_first >= 5
        assert search.result[0].inliers >= 4 * search.result[0].verification.min_inliers
        assert len(search.pictures) == 3
        for picture in search.pictures:
            with Image.open(picture) as image:
                assert image.width > 500
    assert len(stages) == 3
    json.dumps(report.to_dict())
    write_image(tmp_path / "mine" / "temple.png", load_sample_image("china.jpg"))
    options = ["--photos", str(tmp_path / "mine"), "--out", str(tmp_path / "demo"), "--json"]
    result = CliRunner().invoke(app, ["demo", *options])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert [search["place"] for search in values["searches"]] == ["temple"]
    assert values["correct"]


def test_demo_touches_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    for name in ("engine", "collection"):
        out = tmp_path / name
        (out / name).mkdir(parents=True)
        (out / name / "precious.txt").write_text("mine")
        with pytest.raises(FormatError, match=re.escape(str(out / name))):
            run_demo(out)
        assert (out / name / "precious.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "empty"))):
        run_demo(tmp_path / "demo", photos=tmp_path / "empty")
    assert not (tmp_path / "demo").exists()
