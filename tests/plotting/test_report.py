"""Pages: whole in one file, names are only ever text, photographs may be missing, the size has a limit."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image

from delf_engine.config import RerankingConfig, VerificationConfig, load_profile
from delf_engine.errors import ConfigError, ImageError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.plotting.report import check_path, write_pair_report, write_report
from delf_engine.plotting.report.page import page_templates
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch
from delf_engine.verification import Verification, verify_features
from helpers import exif_with_orientation, raises, random_features, random_photo, write_image
from plotting.pages import Page

EVIL = "<script>alert('x')</script>\"onerror=\"http://a.example/x.jpg"
HOSTILE = [EVIL, "a\udcff\x00\x1b\u202eb.jpg", "</section></style>", "&amp;", "", "/"]

Scene = dict[str, LocalFeatures]


@pytest.fixture
def scene(rng: np.random.Generator, tmp_path: Path) -> Scene:
    """Five photographs on the disk: the first three have features in common, ids are paths."""
    common = random_features(rng, 60, image_size=(160, 120))
    features = {}
    for i in range(5):
        path = str(write_image(tmp_path / f"photo & {i}.jpg", random_photo(rng)))
        features[path] = common.top(60 - 10 * i) if i < 3 else random_features(rng, 40, image_size=(160, 120))
    return features


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


@pytest.fixture
def found(scene: Scene) -> Verification:
    """What the first two photographs have in common."""
    a, b = list(scene.values())[:2]
    return verify_features(a, b)


def ranked(features: Scene, queries: int = 1, top_n: int = 3) -> dict[str, list[RankedCandidate]]:
    ids = list(features)
    lists = {query: [(other, 1.0) for other in reversed(ids) if other != query] for query in ids[:queries]}
    config = VerificationConfig(**{**load_profile("default").verification.model_dump(), "min_inliers": 10})
    return rerank_batch(features, lists, features, RerankOptions(RerankingConfig(top_n=top_n), config))


def candidate(image_id: str, rank: int, found: Verification | None = None, **changes: Any) -> RankedCandidate:
    score = None if found is None else float(found.inliers)
    return replace(RankedCandidate(image_id, rank, rank, None, found, score), **changes)


# -------------------------------------------------------------------------------------------------------- a batch


def test_page_of_a_batch(scene: Scene, path: Path) -> None:
    rankings = ranked(scene, queries=2, top_n=4)
    written = write_report(path, rankings, query_features=scene, features=scene, title="Mine & yours")
    assert (written.queries, written.of, written.bytes) == (2, 2, path.stat().st_size)
    page = Page(path)
    assert page.texts("title") == page.texts("h1") == ["Mine & yours"]
    same = sum(c.verification.same for ranking in rankings.values() for c in ranking if c.verification)
    assert page.texts("p")[0].startswith(f"2 shortlists, 8 pairs verified, {same} of them")
    assert page.texts("a") == [f"photo & {i}.jpg" for i in range(2)]
    assert len(page.find("section")) == 2
    # A query, four before, four after; twice: two pictures of inliers.
    assert len(page.images) == 2 * (1 + 4 + 4 + 2)
    assert max(image.width for image in page.images[:9]) <= 320
    cards = page.texts("li", "card")[:9]
    for c in rankings[next(iter(scene))]:
        name = f"photo & {list(scene).index(c.id)}.jpg"
        assert c.verification is not None
        said = c.verification.answer
        assert cards[c.first_rank] == f"{c.first_rank}. {name} goes to {c.rank} {said}"
        gained = c.first_rank - c.rank
        moved = f"▲ {gained}" if gained > 0 else f"▼ {-gained}" if gained < 0 else "="
        assert cards[4 + c.rank] == f"{c.rank}. {name} {c.inliers} inliers · {moved} {said}"
    assert sum("same" in card.classes for card in page.find("li", "card")) == 2 * same
    assert [row for row in page.rows if row[0] == "rank"] == [
        ["rank", "was", "inliers", "ranking score", "first score", "image"]
    ] * 2


def test_probabilities_and_pairs_that_were_not_verified(found: Verification, path: Path) -> None:
    sure, unsure = (replace(found, probability=p, accept=0.99) for p in (0.9999, 0.75))
    write_report(path, {"q": [candidate("x", 1, sure), candidate("y", 2, unsure), candidate("z", 3)]}, images={})
    page = Page(path)
    assert [row[-2] for row in page.rows] == ["probability", "> 99.9 %", "75.0 %", ""]
    after = page.texts("li", "card")[-3:]
    assert "the same place (probability > 99.9 %)" in after[0]
    assert "perhaps the same place (probability 75.0 %)" in after[1]
    assert ["unsure" in card.classes for card in page.find("li", "card")[-3:]] == [False, True, False]
    assert "not verified · =" in after[2]
    assert "place" not in after[2]


def test_same_input_same_bytes(scene: Scene, found: Verification, tmp_path: Path) -> None:
    rankings = ranked(scene)
    a, b = list(scene)[:2]
    pages = []
    for name in ("a.html", "b.HTM"):
        write_report(tmp_path / name, rankings, query_features=scene, features=scene.get)
        pages.append((tmp_path / name).read_bytes())
        write_pair_report(tmp_path / name, a, b, scene[a], scene[b], found)
        pages.append((tmp_path / name).read_bytes())
    assert pages[:2] == pages[2:]


def test_photographs_that_are_gone_are_named(scene: Scene, path: Path) -> None:
    rankings = ranked(scene, top_n=4)
    query, other, changed, *_ = scene
    Path(other).unlink()
    write_image(Path(changed), np.zeros((50, 50, 3), np.uint8))
    write_report(path, rankings, query_features=scene, features=scene, lines=2)
    page = Page(path)
    assert page.texts("div", "gone") == ["photo & 1.jpgno such file"] * 2
    reasons = [said for said in page.texts("p", "quiet") if "no picture of the inliers" in said]
    assert len(reasons) == 2
    assert "50 x 50" in reasons[1]
    assert "160 x 120" in reasons[1]
    Path(query).write_bytes(b"no image")
    write_report(path, rankings, query_features=scene, features=scene)
    assert "not an image" in Page(path).texts("div", "gone")[0]


def test_images_and_features_from_anywhere(scene: Scene, found: Verification, path: Path) -> None:
    a, b = list(scene)[:2]
    rankings = {"q": [candidate("x", 1, found), candidate("y", 2, found)]}

    def image_of(name: str) -> str:
        if name == "y":
            raise ImageError(name, "not in the archive")
        return a

    def features_of(name: str) -> LocalFeatures:
        if name == "y":
            raise UnknownIdError("no such image")
        return scene[b]

    for images, reason in ((image_of, "not in the archive"), ({"q": a, "x": a}, "is not among the images given")):
        write_report(path, rankings, images=images, query_features={"q": scene[a]}, features=features_of)
        page = Page(path)
        assert len(page.images) == 1 + 2 + 1
        assert page.texts("div", "gone") == [f"y{reason}"] * 2


def test_names_are_only_text(scene: Scene, found: Verification, path: Path, tmp_path: Path) -> None:
    rankings = {name: [candidate(other, i, found) for i, other in enumerate(HOSTILE, 1)] for name in HOSTILE}
    write_report(path, rankings, title=EVIL, failed=dict.fromkeys(HOSTILE, EVIL), images={}, features={})
    page = Page(path)
    assert page.texts("h1") == [EVIL]
    assert [EVIL, EVIL] in page.rows
    assert ["a\ufffd\ufffd\ufffd\ufffdb.jpg", EVIL] in page.rows
    assert EVIL in [span.attributes.get("title") for span in page.find("span")]

    name = EVIL.replace("/", ":")
    a, b = (str(tmp_path / each) for each in (name, "a\udcff.jpg"))
    for old, new in zip(list(scene), (a, b), strict=False):
        os.rename(old, new)
    features = list(scene.values())
    write_pair_report(path, a, b, *features[:2], found, title=EVIL)
    page = Page(path)
    assert page.texts("h1") == [EVIL]
    assert f"A: {name} B: a\ufffd.jpg" in page.texts("p")


@given(st.text())
def test_any_text_comes_back(given_text: str) -> None:
    template = page_templates().from_string("{{ text }}<p title='{{ text }}'>{{ text ~ '<' }}</p>")
    safe = template.render(text=given_text)
    safe.encode("utf-8")
    assert safe.count("<") == 2
    assert safe.count("'") == 2
    assert Markup(safe).striptags().endswith("<")


def test_size_is_bounded(scene: Scene, path: Path) -> None:
    rankings = ranked(scene, queries=5, top_n=2)
    written = write_report(path, rankings, max_queries=2)
    assert (written.queries, written.of) == (2, 5)
    assert any("first 2 of 5" in note for note in Page(path).texts("p", "note"))
    limit = write_report(path, rankings, max_queries=3).bytes
    written = write_report(path, rankings, max_bytes=limit)
    assert 1 < written.queries < 5
    assert any("too large" in note for note in Page(path).texts("p", "note"))
    empty = write_report(path, rankings, max_bytes=0)
    assert empty.queries == 0
    assert empty.bytes < 10_000
    many = {"q": [candidate(str(i), i) for i in range(1, 1001)]}
    write_report(path, many, images={})
    assert len(Page(path).rows) == 1 + 100
    assert len(Page(path).find("li")) == 1 + 8 + 8


def test_no_exif_goes_into_the_page(scene: Scene, path: Path) -> None:
    query = next(iter(scene))
    exif = exif_with_orientation(6)
    exif[0x8298] = "Copyright of somebody"
    write_image(Path(query), Image.new("RGB", (160, 120)), exif=exif)
    write_report(path, {query: []})
    (image,) = Page(path).images
    assert image.size == (120, 160)  # upright
    assert not image.getexif()


@pytest.mark.parametrize("name", ["page.png", "page", "none/page.html"])
def test_a_path_that_no_page_can_have(tmp_path: Path, name: str) -> None:
    for use in (check_path, lambda path: write_report(path, {})):
        with pytest.raises(ConfigError) as caught:
            use(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def broken(name: str) -> LocalFeatures:
    raise RuntimeError("in the middle")


def full(self: Path, content: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("features", "error"), [(broken, RuntimeError), (None, ConfigError)])
def test_the_old_page_stays_when_the_new_one_fails(
    scene: Scene,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    features: Callable[[str], LocalFeatures] | None,
    error: type[Exception],
) -> None:
    rankings = ranked(scene)
    path.write_text("old")
    before = sorted(os.listdir(path.parent))
    if features is None:
        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(error):
        write_report(path, rankings, query_features=features)
    assert path.read_text() == "old"
    assert sorted(os.listdir(path.parent)) == before


# --------------------------------------------------------------------------------------------------------- a pair


def test_page_of_a_pair(scene: Scene, found: Verification, path: Path) -> None:
    a, b = list(scene)[:2]
    found = replace(found, probability=0.95, accept=0.9)
    assert write_pair_report(path, a, b, scene[a], scene[b], found) == path.stat().st_size
    page = Page(path)
    assert page.texts("span", "verdict") == ["The same place (probability 95.0 %)"]
    assert "same" in page.find("span", "verdict")[0].classes
    assert len(page.images) == len(page.find("figure")) == 3
    assert page.texts("figcaption")[1].startswith("A laid over B, half and half; A covers 100 % of B")
    figures = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert figures["Inliers"] == f"{found.inliers} of {found.putative} tentative matches"
    assert figures["Probability of the same place"] == "95.0 %"
    assert figures["Effective inliers"] == str(found.effective_inliers)
    assert figures["Error of the inliers"] == f"{found.error_px:.3g} px"
    assert figures["Model"] == found.model_name
    assert figures["A: photo & 0.jpg"] == "160 x 120 pixels, 60 features"
    assert found.transform is not None
    matrix = [[float(cell) for cell in row] for row in page.rows if len(row) == 3]
    np.testing.assert_allclose(matrix, found.transform, rtol=1e-5, atol=1e-12)


def test_pair_without_transform_or_photograph(scene: Scene, path: Path) -> None:
    a, b, *_, last = scene
    write_pair_report(path, a, last, scene[a], scene[last], verify_features(scene[a].top(2), scene[last]))
    page = Page(path)
    assert page.texts("span", "verdict") == ["Not the same place"]
    assert len(page.images) == 1
    assert "No transform from A to B was found" in page.words

    options = load_profile("default").verification.model_dump()
    config = VerificationConfig(**{**options, "model": "fundamental", "estimator": "ransac"})
    write_pair_report(path, a, b, scene[a], scene[b], verify_features(scene[a], scene[b], config=config))
    page = Page(path)
    assert len(page.images) == 1
    assert page.texts("summary") == ["Fundamental matrix"]

    Path(b).unlink()
    write_pair_report(path, a, b, scene[a], scene[b], verify_features(scene[a], scene[b]))
    page = Page(path)
    assert not page.images
    assert page.texts("div", "gone") == ["photo & 1.jpgno such file"]
    assert "Inliers" in page.texts("th")


def test_pair_of_other_features_is_refused(scene: Scene, found: Verification, path: Path) -> None:
    a, b = list(scene)[:2]
    with raises(MismatchError, "10 x 10"):
        write_pair_report(path, a, np.zeros((10, 10, 3), np.uint8), scene[a], scene[b], found)
    with pytest.raises(MismatchError):
        write_pair_report(path, a, b, scene[a].top(1), scene[b], found)
    assert not path.exists()


OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--force-device-scale-factor=1"),
)
# Shows a page in a frame as wide as a telephone, and says how wide its content is.
FRAME = """<body style="margin:0">
<iframe id="page" src="page.html" style="border:0;width:390px;height:1500px"></iframe>
<p id="said"></p><script>page.onload = () => {
  const inside = page.contentDocument.documentElement
  said.textContent = `width ${inside.scrollWidth} of ${inside.clientWidth}`
}</script></body>"""
DARK = (13, 17, 23)  # of the page, as page.css says


def opened(chromium: str, page: Path, size: tuple[int, int], *options: str) -> tuple[npt.NDArray[np.uint8], str]:
    """Return pixels and the document of a page as the browser has drawn and read it."""
    picture = page.with_suffix(".png")
    done = subprocess.run(
        [chromium, *OPTIONS, *options, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom",
         f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.is_file(), done.stderr[-2000:]
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")), done.stdout


def test_a_page_is_drawn(chromium: str, rng: np.random.Generator, tmp_path: Path) -> None:
    photos = [str(write_image(tmp_path / f"{'long_' * 20}{i}.jpg", random_photo(rng))) for i in range(6)]
    page = tmp_path / "page.html"
    ranking = [RankedCandidate(photo, i, i, 0.5, None, None) for i, photo in enumerate(photos, start=1)]
    write_report(page, dict.fromkeys(photos[:2], ranking))

    pixels, document = opened(chromium, page, (1280, 1200))
    assert pixels.shape == (1200, 1280, 3)
    for part in np.split(pixels, 4):  # no quarter of it is blank
        assert part.std() > 5
    assert document.count("<section id=") == 2
    assert (pixels[0] == 255).all()
    dark, _ = opened(chromium, page, (1280, 1200), "--blink-settings=preferredColorScheme=0")
    assert (dark[0] == DARK).all()

    frame = tmp_path / "telephone.html"
    frame.write_text(FRAME)
    pixels, document = opened(chromium, frame, (500, 1500), "--allow-file-access-from-files")
    assert pixels[:, :390].std() > 5
    found = re.search(r"width (\d+) of (\d+)", document)
    assert found is not None
    assert int(found[1]) <= int(found[2]) == 390
