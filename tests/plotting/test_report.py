"""Pages: whole in one file, names are only ever text, photographs may be missing, the size has a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from delf_engine.config import RerankingConfig, VerificationConfig, load_profile
from delf_engine.errors import ConfigError, ImageError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.plotting.report import write_pair_report, write_report
from delf_engine.plotting.report.evidence import percent
from delf_engine.plotting.report.markup import document, text
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch
from delf_engine.verification import verify_features
from helpers import exif_with_orientation, random_features, random_photo, write_image
from plotting.pages import Page

EVIL = "<script>alert('x')</script>\"onerror=\"http://a.example/x.jpg"


@pytest.fixture
def scene(rng: np.random.Generator, tmp_path: Path) -> dict[str, LocalFeatures]:
    """Five photographs on the disk: the first three have features in common, ids are paths."""
    common = random_features(rng, 60, image_size=(160, 120))
    features = {}
    for i in range(5):
        path = str(write_image(tmp_path / f"photo & {i}.jpg", random_photo(rng)))
        features[path] = common.top(60 - 10 * i) if i < 3 else random_features(rng, 40, image_size=(160, 120))
    return features


def ranked(
    features: dict[str, LocalFeatures], queries: int = 1, top_n: int = 3
) -> dict[str, list[RankedCandidate]]:
    profile = load_profile("default")
    ids = list(features)
    lists = {query: [(other, 1.0) for other in reversed(ids) if other != query] for query in ids[:queries]}
    config = VerificationConfig(**{**profile.verification.model_dump(), "min_inliers": 10})
    return rerank_batch(features, lists, features, RerankOptions(RerankingConfig(top_n=top_n), config))


def edges(page: Page) -> list[str]:
    return [a["class"] for tag, a in page.tags if tag == "li"]


# -------------------------------------------------------------------------------------------------------- a batch


def test_page_of_a_batch(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    rankings = ranked(scene, queries=2, top_n=4)
    path = tmp_path / "page.html"
    written = write_report(path, rankings, query_features=scene, features=scene, title="Mine & yours")
    assert (written.queries, written.of, written.bytes) == (2, 2, path.stat().st_size)
    page = Page(path)
    page.check_self_contained()
    assert "Mine & yours" in page.words
    assert "2 shortlists, 8 pairs verified" in page.words
    same = sum(c.verification.same for ranking in rankings.values() for c in ranking if c.verification)
    assert f"{same} of them said to show the same place" in page.words
    first = rankings[next(iter(scene))]
    assert "50 inliers · ▲ 3" in page.words  # photo 1 was last
    assert first[0].first_rank == 4
    for ranking in rankings.values():
        for candidate in ranking:
            assert f"{candidate.inliers} inliers" in page.words
    # A query, four before, four after; twice: two pictures of inliers.
    assert len(page.images) == 2 * (1 + 4 + 4 + 2)
    assert max(image.width for image in page.images[:9]) <= 320
    assert "Features that agree" in page.words
    assert "probability" not in page.words


def test_table_shows_the_columns_that_say_something(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    a, b = list(scene)[:2]
    found = verify_features(scene[a], scene[b])
    path = tmp_path / "page.html"
    for score, ranking_score, expected in (
        (None, float(found.inliers), ["rank", "was", "inliers", "image"]),
        (0.25, 7.5, ["rank", "was", "inliers", "ranking score", "first score", "image"]),
    ):
        write_report(path, {a: [RankedCandidate(b, 1, 1, score, found, ranking_score)]})
        heads = [cell.split("</th>")[0] for cell in Path(path).read_text().split('<th class="number">')[1:]]
        assert heads == expected[:-1]
    write_report(path, {a: [RankedCandidate(b, 1, 1, None, None, None)]})
    assert "inliers" not in Page(path).words


def test_same_input_same_bytes(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    rankings = ranked(scene)
    pages = []
    for name in ("a.html", "b.HTM"):
        write_report(tmp_path / name, rankings, query_features=scene, features=scene.get)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_decisions_truth_and_probabilities(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    rankings = ranked(scene, top_n=3)
    query, ranking = next(iter(rankings.items()))
    path = tmp_path / "page.html"
    write_report(path, rankings)
    page = Page(path)
    assert page.words.count("not verified") == 1
    decided = [c.verification.same for c in ranking if c.verification]
    assert edges(page).count("card yes") == 2 * sum(decided)
    assert page.words.count("not the same place") == 2 * (len(decided) - sum(decided))

    ids = [c.id for c in ranking]
    truth = {query: {ids[0]: True, ids[1]: False, ids[2]: None}}
    write_report(path, rankings, truth=truth, probabilities={query: {ids[0]: 0.987, ids[1]: 1e-9}})
    page = Page(path)
    assert edges(page).count("card yes") == 2
    assert edges(page).count("card wrong") == 2
    assert page.words.count("not known") == 2 * 2 + 1  # the legend too
    assert "probability 98.7 %" in page.words
    assert "probability below 0.1 %" in page.words
    assert page.words.count("probability") == 2 + 1  # the table's column


def test_a_verification_that_knows_its_probability(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    class Knowing:
        def __init__(self, found: Any) -> None:
            self._found = found
            self.probability, self.effective_inliers, self.error_px = 0.75, 12.34567, np.float32(3.5)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._found, name)

    a, b = list(scene)[:2]
    found: Any = Knowing(verify_features(scene[a], scene[b]))
    path = tmp_path / "page.html"
    write_report(path, {a: [RankedCandidate(b, 1, 1, None, found, 3.0)]})
    assert "probability 75.0 %" in Page(path).words
    write_pair_report(path, a, b, scene[a], scene[b], found)
    words = Page(path).words
    for expected in ("75.0 %", "12.35", "3.5 px"):
        assert expected in words
    write_pair_report(path, a, b, scene[a], scene[b], found, probability=0.5)
    assert "50.0 %" in Page(path).words


def test_photographs_that_are_gone_are_named(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    rankings = ranked(scene, top_n=4)
    query, other, changed, *_ = scene
    Path(other).unlink()
    write_image(Path(changed), np.zeros((50, 50, 3), np.uint8))
    path = tmp_path / "page.html"
    write_report(path, rankings, query_features=scene, features=scene, lines=2)
    page = Page(path)
    page.check_self_contained()
    assert page.words.count("photo & 1.jpgno such file") == 2
    assert "no picture of the inliers" in page.words
    assert "50 x 50 pixels, its features are of an image of 160 x 120" in page.words
    Path(query).write_bytes(b"no image")
    write_report(path, rankings, query_features=scene, features=scene)
    assert "not an image" in Page(path).words


def test_images_and_features_from_anywhere(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    a, b = list(scene)[:2]
    found = verify_features(scene[a], scene[b])
    rankings = {"q": [RankedCandidate("x", 1, 1, 0.5, found, 3.0), RankedCandidate("y", 2, 2, 0.25, found, 2.0)]}

    def image_of(name: str) -> str:
        if name == "y":
            raise ImageError(name, "not in the archive")
        return a

    def features_of(name: str) -> LocalFeatures:
        if name == "y":
            raise UnknownIdError("no such image")
        return scene[b]

    path = tmp_path / "page.html"
    for images in (image_of, {"q": a, "x": a}):
        write_report(path, rankings, images=images, query_features={"q": scene[a]}, features=features_of)
        page = Page(path)
        assert len(page.images) == 1 + 2 + 1
        assert "not in the archive" in page.words or "not among the images" in page.words


def test_names_are_only_text(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    a, b = list(scene)[:2]
    found = verify_features(scene[a], scene[b])
    evil = [EVIL, "a\udcff\x00\x1b\u202eb.jpg", "</section></style>", "&amp;", "", "/"]
    rankings = {
        name: [RankedCandidate(other, i, i, None, found, 1.0) for i, other in enumerate(evil, start=1)]
        for name in evil
    }
    path = tmp_path / "page.html"
    write_report(path, rankings, title=EVIL, failed=dict.fromkeys(evil, EVIL), features=lambda name: None)
    page = Page(path)
    page.check_self_contained()
    assert EVIL in page.words
    assert "a\ufffd\ufffd\ufffd\ufffdb.jpg" in page.words
    write_pair_report(path, a, b, scene[a], scene[b], found, labels=(EVIL, "</p>"), title=EVIL)
    page = Page(path)
    page.check_self_contained()
    assert EVIL in page.words


@given(st.text())
def test_any_text_comes_back(given_text: str) -> None:
    safe = document("x", [f'<p title="{text(given_text)}">{text(given_text)}</p>'])
    assert safe.count("<p") == 1
    assert safe.count("</p>") == 1
    safe.encode("utf-8")


def test_size_is_bounded(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    rankings = ranked(scene, queries=5, top_n=2)
    path = tmp_path / "page.html"
    written = write_report(path, rankings, max_queries=2)
    assert (written.queries, written.of) == (2, 5)
    assert "the first 2 of 5 queries; that many were asked for" in Page(path).words
    limit = write_report(path, rankings, max_queries=3).bytes
    written = write_report(path, rankings, max_bytes=limit)
    assert 1 < written.queries < 5
    assert "more would make the page too large" in Page(path).words
    empty = write_report(path, rankings, max_bytes=0)
    assert empty.queries == 0
    assert empty.bytes < 10_000
    many = {"q": [RankedCandidate(str(i), i, i, None, None, None) for i in range(1, 1001)]}
    write_report(path, many, images={})
    assert "the first 8 of 1,000 images" in Page(path).words
    assert "Figures of the first 100 images" in Page(path).words


def test_nothing_to_show(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert write_report(path, {}).queries == 0
    Page(path).check_self_contained()
    write_report(path, {"q": []}, images={})
    page = Page(path)
    assert "the first 0 of 0 images" in page.words
    assert "is not among the images given" in page.words


def test_no_exif_goes_into_the_page(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    query = next(iter(scene))
    exif = exif_with_orientation(6)
    exif[0x8298] = "Copyright of somebody"
    write_image(Path(query), Image.new("RGB", (160, 120)), exif=exif)
    path = tmp_path / "page.html"
    write_report(path, {query: []})
    (image,) = Page(path).images
    assert image.size == (120, 160)  # upright
    assert not image.getexif()


def test_wrong_input_is_refused_and_leaves_the_old_page(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    rankings = ranked(scene)
    for wrong in ({"shown": 0}, {"lines": -1}, {"max_queries": -1}, {"max_bytes": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            write_report(path, rankings, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        write_report(tmp_path / "page.png", rankings)
    with pytest.raises(ConfigError, match="no folder"):
        write_report(tmp_path / "none" / "page.html", rankings)
    folder = tmp_path / "folder.html"
    folder.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(folder, rankings)

    def broken(name: str) -> LocalFeatures:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_report(path, rankings, query_features=broken)
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*.tmp"))


# --------------------------------------------------------------------------------------------------------- a pair


def test_page_of_a_pair(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    a, b = list(scene)[:2]
    found = verify_features(scene[a], scene[b])
    path = tmp_path / "pair.html"
    size = write_pair_report(path, a, b, scene[a], scene[b], found)
    assert size == path.stat().st_size
    page = Page(path)
    page.check_self_contained()
    assert len(page.images) == 3
    for expected in (
        "Same place",
        "photo & 0.jpg",
        f"{found.inliers} of {found.putative} tentative matches",
        "160 x 120 pixels, 60 features",
        "A covers 100 % of B",
        "Transform from pixels of A to pixels of B",
        found.model,
    ):
        assert expected in page.words


def test_pair_without_transform_or_photograph(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    a, b, *_, last = scene
    path = tmp_path / "pair.html"
    write_pair_report(path, a, last, scene[a], scene[last], verify_features(scene[a].top(2), scene[last]))
    page = Page(path)
    assert len(page.images) == 1
    assert "Not the same place" in page.words
    assert "No transform from A to B was found" in page.words

    options = load_profile("default").verification.model_dump()
    lines = verify_features(
        scene[a], scene[b], config=VerificationConfig(**{**options, "model": "fundamental", "estimator": "ransac"})
    )
    write_pair_report(path, a, b, scene[a], scene[b], lines)
    page = Page(path)
    assert len(page.images) == 1
    assert "maps points to lines" in page.words

    Path(b).unlink()
    write_pair_report(path, a, b, scene[a], scene[b], verify_features(scene[a], scene[b]))
    page = Page(path)
    assert not page.images
    assert "no such file" in page.words
    assert "tentative matches" in page.words


def test_pair_of_other_features_is_refused(scene: dict[str, LocalFeatures], tmp_path: Path) -> None:
    a, b = list(scene)[:2]
    found = verify_features(scene[a], scene[b])
    photo = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(MismatchError, match="10 x 10"):
        write_pair_report(tmp_path / "x.html", a, photo, scene[a], scene[b], found)
    with pytest.raises(MismatchError, match="other images"):
        write_pair_report(tmp_path / "x.html", a, b, scene[a].top(1), scene[b], found)
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        write_pair_report(tmp_path / "x.txt", a, b, scene[a], scene[b], found)
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.5, "50.0 %"),
        (0.9996, "above 99.9 %"),
        (0.9994, "99.9 %"),
        (1e-9, "below 0.1 %"),
    ],
)
def test_probabilities_in_words(probability: float, said: str) -> None:
    assert percent(probability) == said
