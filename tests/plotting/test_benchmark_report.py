"""The page of a benchmark run: every section, names as text alone, missing values, a limit of size."""

from __future__ import annotations

import copy
import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delf_engine.errors import ConfigError, ImageError
from delf_engine.plotting.report import write_benchmark_report
from helpers import random_photo, write_image
from plotting.benchmark_results import LABELS, SETUPS, benchmark_result
from plotting.pages import Page

EVIL = "<script>alert('x')</script>\"onerror=\"http://a.example/x.jpg"
BEST, PARENT = "ASMK* + verification", "ASMK*"
QUERIES = [f"query_{i:02}" for i in range(14)]
IMAGES = [f"image_{i}" for i in range(4)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(2)
    return {
        name: str(
            write_image(folder / f"{name}.jpg", random_photo(rng, 800, 700) if i == 0 else random_photo(rng))
        )
        for i, name in enumerate([*QUERIES, *IMAGES])
    }


@pytest.fixture
def result() -> dict[str, Any]:
    made = benchmark_result(QUERIES, IMAGES)
    for query in QUERIES[1:]:
        made["queries"][query]["box"] = [10, 20, 120, 90]
    return made


def of_methods(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(method for method in result["methods"] if method["name"] == name)


def lowest(result: dict[str, Any], number: int) -> list[str]:
    medium = of_methods(result, BEST)["setups"]["medium"]["average_precision"]
    return sorted(medium, key=lambda query: (medium[query], query))[:number]


def page_of(tmp_path: Path, result: dict[str, Any], **options: Any) -> Page:
    path = tmp_path / "page.html"
    write_benchmark_report(path, result, **options)
    page = Page(path)
    page.check_self_contained()
    return page


def test_every_section(result: dict[str, Any], photographs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    written = write_benchmark_report(path, result, images=photographs)
    assert (written.queries, written.of, written.bytes) == (10, 14, path.stat().st_size)
    page = Page(path)
    page.check_self_contained()
    for said in (
        *("RParis6k, revisited protocol", "RParis6k: 14 queries, 6,322 images", "0123456789abcdef" * 4),
        *("Some CPU, 16 cores", "python benchmarks/rparis.py", "2026-01-31 12:00 UTC"),
        *("Mean average precision", "Medium14 queries", "Hard13 queries", "re-ranks ASMK*", "2.7 s", "12.5 ms"),
        *("What re-ranking changes", "+4.25(+2.50 to +6.00)", "-2.00(-3.50 to -0.50)"),
        *("HardmP@10", "92.50", "Quoted from publications", "They were not measured", "76.9", "Radenović"),
        *("Nothing was trained on the photographs", "Every query: average precision, Medium"),
        *(f"The lowest queries of {BEST}, Medium", "query: what lies in the yellow box"),
        *(
            "Inliers of positives and negatives",
            "7,317 negative pairs, 1 of them (0.01 %) with 30 inliers or more",
        ),
        *("Time and memory", "2 h 14 min", "5,120 MB", "all stages", "profile.verification.min_inliers"),
        *("codebook.trained_on", "1, 2, none, yes"),
    ):
        assert said in page.words, said
    for method in result["methods"]:
        for setup in SETUPS:
            assert f"{method['setups'][setup]['mean_ap']:.2f}" in page.words
    # Easy alone has an interval that holds 0; the sentence below the table says it once more.
    assert page.words.count("no difference shown") == 1
    assert "Restricted" not in page.words


def test_nothing_in_the_source_asks_for_anything_else(
    result: dict[str, Any], photographs: dict[str, str], tmp_path: Path
) -> None:
    source = page_of(tmp_path, result, images=photographs).source
    for value in re.findall(r"(?:src|href|xlink:href|action|srcset|poster)\s*=\s*[\"']?([^\"'\s>]+)", source):
        assert value.startswith(("data:image/jpeg;base64,", "#q")), value[:80]
    assert "url(" not in source
    assert not re.search(r"<(script|link|iframe|object|embed|base|form)\b", source)


def test_same_input_same_bytes(result: dict[str, Any], photographs: dict[str, str], tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_benchmark_report(tmp_path / name, copy.deepcopy(result), images=photographs.__getitem__)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_bars_are_sorted_beside_the_parents(result: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(tmp_path, result)
    own, before = (of_methods(result, name)["setups"]["medium"]["average_precision"] for name in (BEST, PARENT))
    order = lowest(result, len(QUERIES))
    names = re.findall(r'<span class="name" title="([^"]+)">', page.source)
    assert names[: len(order)] == order
    widths = {kind: re.findall(rf'<rect class="{kind}" [^>]*width="([\d.]+)%"', page.source) for kind in
              ("best", "parent")}  # fmt: skip
    assert widths["best"][: len(order)] == [f"{own[query]:.2f}" for query in order]
    assert widths["parent"][: len(order)] == [f"{before[query]:.2f}" for query in order]
    change = own[order[0]] - before[order[0]]
    assert f"{'▲' if change > 0 else '▼'} {abs(change):.1f}" in page.words
    # The last query has no positive in Hard.
    assert page.words.count(f"{QUERIES[-1]}no positive in this set-up: not in the mean") == 1
    links = re.findall(r'<a href="#(q\d+)">', page.source)
    assert links == [f"q{i}" for i in range(1, 11)]


def test_equal_figures_stand_by_name_and_the_first_of_equal_methods_is_best(
    result: dict[str, Any], tmp_path: Path
) -> None:
    for method in result["methods"]:
        method["setups"]["medium"]["mean_ap"] = 50.0
        method["setups"]["medium"]["average_precision"] = dict.fromkeys(reversed(QUERIES), 50.0)
    page = page_of(tmp_path, result)
    assert "The lowest queries of global descriptor" in page.words
    names = re.findall(r'<span class="name" title="([^"]+)">', page.source)
    assert names[: len(QUERIES)] == QUERIES
    assert page.words.count("Its ranking was not kept.") == 10
    assert "No photographs were given" in page.words


def test_lowest_queries_with_their_first_images(
    result: dict[str, Any], photographs: dict[str, str], tmp_path: Path
) -> None:
    query = lowest(result, 1)[0]
    ranking = result["details"][BEST]["medium"][query]
    for place, (found, label) in enumerate(zip(ranking, ["hard", "junk", "negative", "easy"] + ["negative"] * 16,
                                               strict=True)):  # fmt: skip
        found.update(label=label, inliers=100 + place)
    ranking[14].update(label="hard", id="image_2")
    ranking[0].update(inliers=None, score=None)
    page = page_of(tmp_path, result, images=photographs, max_queries=1)
    kinds = [a["class"] for tag, a in page.tags if tag == "li" and a.get("class", "").startswith("card")]
    assert kinds == ["card yes", "card junk", "card wrong", "card yes", *["card wrong"] * 6, "card yes later"]
    for said in ("✓ positive, hard", "○ junk, not counted", "✗ negative", "✓ positive, easy", "101 inliers"):
        assert said in page.words
    assert "100 inliers" not in page.words
    assert "2 of 30 positives among the first 10; the next one, image_2, came at place 15" in page.words
    assert "positives: 12 in Easy, 30 in Medium, 18 in Hard" in page.words
    assert len(page.images) == 12
    assert max(page.images[0].size) <= 560


@pytest.mark.parametrize(
    ("missed", "said"),
    [
        ({"id": "image_3", "rank": 4321}, "the next one, image_3, came at place 4,321"),
        ({"id": "image_3", "rank": None}, "the next one, image_3, is not in the ranking"),
        (None, "0 of 30 positives among the first 10; no other among the first 20"),
    ],
)
def test_a_positive_far_below(
    result: dict[str, Any], tmp_path: Path, missed: dict[str, Any] | None, said: str
) -> None:
    query = lowest(result, 1)[0]
    for found in result["details"][BEST]["medium"][query]:
        found["label"] = "negative"
    if missed:
        result["missed"] = {BEST: {"medium": {query: missed}}}
    assert said in page_of(tmp_path, result, max_queries=1).words


def test_what_counts_depends_on_the_set_up(result: dict[str, Any], tmp_path: Path) -> None:
    for method in result["methods"]:
        method["setups"] = {"hard": method["setups"]["hard"]}
        method["against_parent"] = None
    result["details"][BEST] = {"hard": {QUERIES[0]: [{"id": "a", "label": "easy"}, {"id": "b", "label": "hard"}]}}
    page = page_of(tmp_path, result, max_queries=14)
    assert "○ easy, not counted" in page.words
    assert "1 of 18 positives among the first 2" in page.words
    assert "What re-ranking changes" not in page.words
    assert "13 of" not in page.words


def test_the_box_is_framed(result: dict[str, Any], tmp_path: Path) -> None:
    query = lowest(result, 1)[0]
    photo = np.full((200, 400, 3), 200, np.uint8)
    result["queries"][query]["box"] = [100, 50, 300, 150]
    page = page_of(tmp_path, result, images=lambda name: photo, max_queries=1)
    pixels = np.asarray(page.images[0])
    assert pixels.shape == (200, 400, 3)
    np.testing.assert_allclose(pixels[100, 200], 200, atol=12)  # inside
    np.testing.assert_allclose(pixels[20, 20], 100, atol=12)  # outside
    assert pixels[100, 101, 0] > 200 > 120 > pixels[100, 101, 2]  # the frame is yellow

    for box, said in (([500, 50, 600, 150], "box 500, 50, 600, 150 holds no pixel of the 400 x 200 image"),
                      ([10, 10, 10, 20], "holds no pixel"), (None, "query, the whole photograph")):  # fmt: skip
        result["queries"][query]["box"] = box
        assert said in page_of(tmp_path, result, images=lambda name: photo, max_queries=1).words
    result["queries"][query]["box"] = [-1e300, -5, 1e300, 100.5]  # as `crop` does: clipped
    assert "yellow box" in page_of(tmp_path, result, images=lambda name: photo, max_queries=1).words


def test_photographs_that_are_gone_are_named(
    result: dict[str, Any], photographs: dict[str, str], tmp_path: Path
) -> None:
    def find(name: str) -> str:
        if name == "image_1":
            raise ImageError(name, "not in the archive")
        return str(tmp_path / "none.jpg") if name == lowest(result, 1)[0] else photographs[name]

    page = page_of(tmp_path, result, images=find, max_queries=2)
    assert f"{lowest(result, 1)[0]}no such file" in page.words
    assert "image_1not in the archive" in page.words
    page = page_of(tmp_path, result, images={}, max_queries=1)
    assert not page.images
    assert "is not among the images given" in page.words


def test_a_restricted_protocol_is_said_loudly(result: dict[str, Any], tmp_path: Path) -> None:
    result["dataset"]["missing"] = {"images": [f"gone_{i}" for i in range(700)], "queries": ["q <x>"]}
    page = page_of(tmp_path, result, max_queries=0)
    assert page.words.count("RParis6k, revisited protocol (restricted: images are missing)") == 2  # title, heading
    assert "Restricted protocol: 700 images and 1 query of the data set were missing" in page.words
    assert "q <x>, gone_0, gone_1" in page.words
    assert "And 201 more." in page.words
    result["title"] = "Restricted RParis6k"
    assert "images are missing" not in page_of(tmp_path, result, max_queries=0).words


def test_values_that_are_not_there(result: dict[str, Any], tmp_path: Path) -> None:
    least = {
        "title": "t",
        "dataset": {"name": "d", "queries": 0, "images": 0},
        "methods": [],
        **dict.fromkeys(
            ("command", "machine", "configuration", "details", "queries", "inliers", "stages", "notes")
        ),
    }
    path = tmp_path / "page.html"
    assert write_benchmark_report(path, least).queries == 0
    page = Page(path)
    page.check_self_contained()
    assert "No method was measured." in page.words
    for heading in ("Every query", "Inliers of", "Time and memory", "Configuration", "Quoted", "Notes", "None"):
        assert heading not in page.words

    empty = dict.fromkeys(("mean_ap", "interval_95", "queries", "mean_precision", "average_precision"))
    for setups in ({}, {"medium": {}}, {"medium": empty}, {"medium": {**empty, "average_precision": {"q": None}}}):
        method = {"name": "m", "parent": None, "seconds_per_query": None, "setups": setups}
        page = page_of(tmp_path, {**least, "methods": [method]})
        assert "The lowest" not in page.words
        assert "None" not in page.words
    assert "–" in page.words  # noqa: RUF001

    for method in result["methods"]:
        for figures in method["setups"].values():
            figures["interval_95"] = figures["mean_precision"] = None
    result["inliers"][BEST] = {"positives": [], "negatives": None}
    result["stages"] = [{"name": "s", "seconds": 0.0, "items": None, "cached": None, "peak_mb": None}]
    result["published"], result["configuration"] = [], {}
    result["queries"] = {}
    page = page_of(tmp_path, result)
    assert "0 positive pairs; 0 negative pairs." in page.words
    assert "Dashed line" not in page.words
    assert "None" not in page.words.replace("Nothing", "")


KEYS = {
    *(
        "title",
        "command",
        "date",
        "machine",
        "dataset",
        "configuration",
        "methods",
        "details",
        "queries",
        "inliers",
    ),
    *("stages", "published", "notes", "name", "ground_truth", "images", "distractors", "missing", "parent"),
    *("seconds_per_query", "setups", "against_parent", "mean_ap", "interval_95", "mean_precision"),
    *("average_precision", "difference", "low", "high", "box", "positives", "negatives", "values", "counts"),
    *(
        "seconds",
        "items",
        "cached",
        "timed",
        "peak_mb",
        "system",
        "medium",
        "hard",
        "easy",
        "source",
        "id",
        "score",
        "label",
    ),
}


def poisoned(value: Any) -> Any:
    """Put a script into every name and text of a result."""
    if isinstance(value, dict):
        return {name if name in KEYS else EVIL + name: poisoned(each) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return EVIL + value if isinstance(value, str) and value not in LABELS else value


def test_names_are_only_text(result: dict[str, Any], tmp_path: Path) -> None:
    changed = poisoned(result)
    changed["dataset"]["missing"] = {"images": [EVIL, "a\udcff\x00\x1b\u202eb.jpg"], "queries": ["</div></style>"]}
    page = page_of(tmp_path, changed, images={})
    assert page.words.count(EVIL) > 80
    assert "a\ufffd\ufffd\ufffd\ufffdb.jpg" in page.words


def test_size_is_bounded(result: dict[str, Any], photographs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    whole = write_benchmark_report(path, result, images=photographs, max_queries=14)
    assert whole.queries == 14
    part = write_benchmark_report(path, result, images=photographs, max_bytes=whole.bytes // 2)
    assert 0 < part.queries < 10
    assert part.bytes < whole.bytes * 0.6
    assert f"Shown here: {part.queries} of 10; more would make the page too large." in Page(path).words
    assert 'href="#q10"' not in Page(path).source
    assert write_benchmark_report(path, result, images=photographs, max_bytes=0).queries == 0
    assert write_benchmark_report(path, result, images=photographs, max_queries=0).queries == 0
    many = {f"q{i:04}": i / 20 for i in range(2000)}
    for method in result["methods"]:
        method["setups"]["medium"]["average_precision"] = many
    page = page_of(tmp_path, result)
    assert "Not shown: 1,760 more, those with the highest figures." in page.words


def test_inliers_of_several_methods(result: dict[str, Any], tmp_path: Path) -> None:
    result["inliers"] = {"ASMK*": {"positives": [50], "negatives": []}, **result["inliers"]}
    words = page_of(tmp_path, result).words
    assert words.index("3,000 positive pairs") < words.index("1 positive pair, 1 of them (100.00 %)")
    result["configuration"] = {}
    assert "Dashed line" not in page_of(tmp_path, result).words


def test_a_full_disk(result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"page\.html: cannot be written: No space left on device"):
        write_benchmark_report(path, result)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_no_exif_goes_into_the_page(result: dict[str, Any], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8298] = "Copyright of somebody"
    photo = str(write_image(tmp_path / "x.jpg", Image.new("RGB", (160, 120)), exif=exif))
    result["queries"] = {}
    page = page_of(tmp_path, result, images=lambda name: photo, max_queries=1)
    assert page.images
    assert not any(image.getexif() for image in page.images)


def test_wrong_input_is_refused_and_leaves_the_old_page(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    for wrong in ({"max_queries": -1}, {"max_bytes": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            write_benchmark_report(path, result, **wrong)
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        write_benchmark_report(tmp_path / "page.json", result)

    def broken(name: str) -> str:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_benchmark_report(path, result, images=broken)
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*.tmp"))
