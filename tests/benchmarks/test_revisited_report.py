"""The page and the Markdown of a benchmark run: every section, names as text alone, what is refused."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.revisited.report import markdown, read_result, write_benchmark_page
from benchmarks.revisited.report.__main__ import main
from benchmarks.revisited.report.histogram import edges_of
from benchmarks.revisited.report.page import _escaped
from benchmarks.revisited.report.result import BenchmarkResult
from delf_engine.errors import FormatError
from delf_engine.images import ImageSource
from helpers import raises, random_photo, write_image
from plotting.pages import Page
from revisited_results import LABELS, SETUPS, benchmark_result

EVIL = "<script>alert('x')</script>\"onerror=\"http://a.example/x.jpg"
BEST, PARENT = "ASMK* + verification", "ASMK*"
QUERIES = [f"query_{i:02}" for i in range(14)]
IMAGES = [f"image_{i}" for i in range(4)]


@pytest.fixture
def result() -> dict[str, Any]:
    return benchmark_result(QUERIES, IMAGES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


def figures_of(result: dict[str, Any], name: str, setup: str = "medium") -> dict[str, Any]:
    return next(method for method in result["methods"] if method["name"] == name)["setups"][setup]


def lowest(result: dict[str, Any], number: int) -> list[str]:
    ap = figures_of(result, BEST)["average_precision"]
    return sorted(ap, key=lambda query: (ap[query], query))[:number]


def page_of(path: Path, result: dict[str, Any], **options: Any) -> Page:
    write_benchmark_page(path, BenchmarkResult.model_validate(result), **options)
    return Page(path)


def photo_of(name: str) -> ImageSource:
    return np.full((200, 400, 3), 200, np.uint8)


# ------------------------------------------------------------------------------------------------------- the page


def test_every_section(result: dict[str, Any], path: Path) -> None:
    checked = BenchmarkResult.model_validate(result)
    written = write_benchmark_page(path, checked, images=photo_of)
    assert (written.queries, written.of, written.bytes) == (10, 14, path.stat().st_size)
    again = path.with_name("again.html")
    write_benchmark_page(again, checked, images=photo_of)
    assert again.read_bytes() == path.read_bytes()

    page = Page(path)
    assert page.texts("title") == page.texts("h1") == ["RParis6k, revisited protocol"]
    rows = {row[0]: row[1:] for row in page.rows if row}
    assert rows["data"] == ["RParis6k: 14 queries, 6,322 images"]
    assert rows["ground truth, sha256"] == ["0123456789abcdef" * 4]
    assert rows["delf-r18.profile.verification.min_inliers"] == ["30"]
    assert rows["delf-r18.layers"] == ["[1, 2, null, true]"]
    assert rows["extraction"] == ["2:14:02", "6,392", "2,000", "0.546/s", "2,450 MB"]
    assert rows["verification"][3] == "–"  # noqa: RUF001 - all of it was there
    assert rows["all stages"] == ["2:18:12", "–", "–", "–", "2,450 MB"]  # noqa: RUF001
    assert rows["HOW R50"] == ["RParis", "81.6", "62.4", "Tolias et al."]
    assert "They were not measured" in page.texts("div", "quoted")[0]
    assert "Nothing was trained" in page.texts("p", "note")[0]
    head, *methods = (row for row in page.rows if row[-1:] in (["time a query"], ["0.0125 s"], ["2.68 s"]))
    assert head[1:4] == ["Easy 14 queries", "Medium 14 queries", "Hard 13 queries"]
    assert methods[2][0] == f"{BEST} re-ranks {PARENT}"
    for method, row in zip(result["methods"], methods, strict=True):
        for setup, cell in zip(SETUPS, row[1:], strict=False):
            figures = method["setups"][setup]
            low, high = figures["interval_95"]
            assert cell == f"{figures['mean_ap']:.2f} ({low:.1f} to {high:.1f})"
    (changes,) = (row[2:] for row in page.rows if row[:2] == [BEST, PARENT])
    assert changes == [
        *("+0.50 (-0.75 to +1.75), no difference shown", "+4.25 (+2.50 to +6.00)", "-2.00 (-3.50 to -0.50)"),
    ]
    best = {max(f"{figures_of(result, m['name'], s)['mean_ap']:.2f}" for m in result["methods"]) for s in SETUPS}
    assert best <= set(page.texts("b"))
    assert len(page.charts) == 1
    assert "7,317 negative pairs, 1 of them (0.01 %) with 30 inliers or more" in page.words
    assert len(page.images) == 10 * 11


def test_lowest_queries_with_their_first_images(result: dict[str, Any], path: Path) -> None:
    query = lowest(result, 1)[0]
    ranking = result["details"][BEST]["medium"][query]
    for found, label in zip(ranking, ["hard", "junk", "negative", "easy"] + ["negative"] * 6, strict=True):
        found["label"] = label
    ranking[0].update(inliers=None, score=None)
    ranking[1]["inliers"] = 101
    result["missed"][BEST]["medium"][query] = {"id": "image_3", "rank": 4321}
    page = page_of(path, result, images=photo_of, max_queries=1)
    kinds = [card.classes[1] for card in page.find("li", "card")]
    assert kinds == ["positive", "junk", "negative", "positive", *["negative"] * 6, "positive"]
    cards = page.texts("li", "card")
    assert cards[0].endswith("✓ positive, hard")
    assert "○ junk, not counted 101 inliers" in cards[1]
    assert cards[-1].startswith("4,321. image_3")
    said = page.texts("p", "quiet")
    assert "2 of 30 positives among the first 10; the next one, image_3, came at place 4,321." in said
    assert "positives: 12 in Easy, 30 in Medium, 18 in Hard" in page.words
    result["missed"][BEST]["medium"][query]["rank"] = None
    page = page_of(path, result, max_queries=1)
    assert "is not in the ranking" in page.words
    assert len(page.find("li", "card")) == 10


def test_a_restricted_protocol_is_said_loudly(result: dict[str, Any], path: Path) -> None:
    result["dataset"]["missing"] = {"images": [f"gone_{i}" for i in range(700)], "queries": ["q <x>"]}
    (alarm,) = page_of(path, result, max_queries=0).texts("div", "alarm")
    assert "700 images and 1 query of the data set were missing" in alarm
    assert "q <x>, gone_0, gone_1" in alarm
    assert "And 201 more." in alarm
    assert "700 images and 1 query of the data set were missing" in markdown(BenchmarkResult(**result))


def test_little_to_say(result: dict[str, Any], path: Path) -> None:
    empty: dict[str, Any] = {key: [] for key in ("methods", "stages", "published", "notes")}
    empty |= {key: {} for key in ("details", "missed", "queries", "inliers", "configuration", "machine")}
    page = page_of(path, result | empty)
    assert page.texts("h2") == ["Mean average precision"]
    assert "No method was measured." in page.texts("p")
    for method in result["methods"]:
        for figures in method["setups"].values():
            figures.update(mean_ap=None, interval_95=None, average_precision=dict.fromkeys(QUERIES))
        method.update(seconds_per_query=None, against_parent=method["parent"] and dict.fromkeys(SETUPS))
    result["inliers"][BEST] = {"positives": [], "negatives": []}
    result["configuration"] = {}
    page = page_of(path, result)
    assert not page.find("section")
    assert "None" not in page.words
    assert "0 positive pairs; 0 negative pairs." in page.texts("p")
    assert "Dashed line" not in page.words


def poisoned(value: Any, known: frozenset[str]) -> Any:
    """Put a script into every name and text of a result."""
    if isinstance(value, dict):
        return {name if name in known else EVIL + name: poisoned(each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, known) for each in value]
    return EVIL + value if isinstance(value, str) and value not in LABELS else value


def test_names_are_only_text(result: dict[str, Any], path: Path) -> None:
    models = [BenchmarkResult, *BenchmarkResult.__base__.__subclasses__()]  # type: ignore[union-attr]
    known = frozenset(name for model in models for name in model.model_fields)
    changed = poisoned(result, known)
    changed["dataset"]["missing"] = {"images": [EVIL, "a\udcff\x00\x1b\u202eb.jpg"], "queries": ["</div></style>"]}
    page = page_of(path, changed, images={})
    assert page.words.count(EVIL) > 80
    assert "a\ufffd\ufffd\ufffd\ufffdb.jpg" in page.words
    assert "<script" not in markdown(BenchmarkResult.model_validate(changed))


# --------------------------------------------------------------------------------------------------- the histogram


@given(st.one_of(st.integers(0, 200), st.integers(0, 2**53)), st.one_of(st.none(), st.integers(0, 5000)))
def test_every_count_has_one_column(largest: int, threshold: int | None) -> None:
    edges = edges_of(largest, threshold).tolist()
    assert edges[0] == 0
    assert edges[-1] == largest + 1
    assert all(low < high for low, high in pairwise(edges))
    assert largest == 0 or 1 in edges or threshold in edges
    assert threshold is None or threshold > largest or threshold in edges
    assert len(edges) < 60


# ------------------------------------------------------------------------------------------------------- Markdown


def test_markdown(result: dict[str, Any]) -> None:
    written = markdown(BenchmarkResult.model_validate(result))
    assert re.findall(r"^#+ .*", written, re.MULTILINE) == [
        "# RParis6k, revisited protocol",
        *("## Mean average precision", "## What re-ranking changes", "## Mean precision"),
        *("## Quoted from publications", "## Time and memory", "## Notes"),
    ]
    figures = figures_of(result, BEST, "hard")
    low, high = figures["interval_95"]
    assert re.search(rf"{figures['mean_ap']:.2f}(\*\*)? \({low:.1f} to {high:.1f}\)", written)
    assert "| ASMK\\* + verification, re-ranks ASMK\\* |" in written
    assert "+0.50 (-0.75 to +1.75), no difference shown" in written
    blocks = re.findall(r"(?:^\|.*\|\n)+", written, re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert not re.search(r"\n\n\n|[ \t]$", written, re.MULTILINE)


@given(st.text(st.sampled_from("ab |\\`*_[]<>&#-+=1.)~\n\r\t\x00\u2028\ud800é") | st.characters()))
def test_names_are_only_text_in_markdown(name: str) -> None:
    safe = str(_escaped(name))
    safe.encode("utf-8")
    assert len(safe.splitlines()) <= 1
    assert "<" not in safe
    for mark in "|`*[]":
        assert len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(mark)}", safe)) == 0
    plain = re.sub(r"\\([^A-Za-z0-9\s])", r"\1", safe)
    plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert plain == re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", name).strip()
    assert not re.match(r"#|[-+]\s|\d+[.)]\s", safe)


# ------------------------------------------------------------------------------------------ what is not a result


MISSING = object()


def changed(result: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Return a result with another value under the keys of a place, or with none."""
    *keys, last = (int(key) if key.isdecimal() else key for key in place.split("/"))
    inside: Any = result
    for key in keys:
        inside = inside[key]
    if value is MISSING:
        del inside[last]
    else:
        inside[last] = value
    return result


MALFORMED: list[tuple[str, Any]] = [
    *((place, MISSING) for place in ("methods", "dataset/name", "methods/0/setups/hard", "stages/0/seconds")),
    *(("title", None), ("title", 7), ("dataset", []), ("dataset/images", -1), ("dataset/queries", 1.5)),
    *(("dataset/missing/images", "abc"), ("methods", {}), ("methods/0/seconds_per_query", -1)),
    *(("methods/0/setups/easy/mean_ap", 100.5), ("methods/0/setups/easy/mean_ap", True)),
    *(("methods/0/setups/easy/mean_ap", float("nan")), ("methods/0/setups/easy/interval_95", [3])),
    *(("methods/0/setups/hard/average_precision/query_00", "9"), ("methods/2/against_parent/easy/low", "x")),
    *(("missed", {"ASMK*": {"medium": {"q": {"id": "x", "rank": 0}}}}), ("queries/query_00/box", [0, 0, 1])),
    *(("inliers/ASMK* + verification/positives/0", -1), ("stages/0/seconds", 10**400)),
    *(("stages/0/items", 2**53 + 1), ("published/0/medium", "76.9"), ("notes/0", 1), ("configuration", [1])),
]


@pytest.mark.parametrize(("place", "value"), MALFORMED)
def test_what_is_wrong_is_named_by_its_keys(result: dict[str, Any], path: Path, place: str, value: Any) -> None:
    path.write_text(json.dumps(changed(result, place, value)))
    with raises(FormatError, str(path), place.replace("/", ".")):
        read_result(path)


@pytest.mark.parametrize(
    ("place", "value"), [("methods/0/name", BEST), ("methods/2/parent", "HOW"), ("details", {"HOW": {}})]
)
def test_methods_that_are_not_there(result: dict[str, Any], path: Path, place: str, value: Any) -> None:
    path.write_text(json.dumps(changed(result, place, value)))
    with raises(FormatError, str(path), value if isinstance(value, str) else "HOW"):
        read_result(path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfd", b"[" * 200_000, b"{}", b"7", None])
def test_files_that_hold_no_result(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with raises(FormatError, str(path)):
        read_result(path)


# ----------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for name in ("a.jpg", "b [1].png", "deep/c.jpg", "deep/d.JPG", "other/d.jpg"):
        write_image(tmp_path / "photos" / name, random_photo(rng))
    return tmp_path / "photos"


def test_command(photographs: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, text = path.with_name("result.json"), path.with_name("tables.md")
    result = benchmark_result(["a", "b [1]", "nowhere"], ["c", "deep/d.JPG", "d"])
    for query in result["queries"].values():
        query["box"] = [0, 0, 90, 90]
    written.write_text(json.dumps(result))
    options = ["--images", str(photographs), "--markdown", str(text), "--queries", "3"]
    main([str(written), str(path), *options])
    assert "3 of 3 queries shown" in capsys.readouterr().out
    gone = Page(path).texts("div", "gone")
    assert {said[: said.index("is not among")] for said in gone} == {"nowhere", "d"}
    assert text.read_text(encoding="utf-8") == markdown(read_result(written))
    path.unlink()
    for args in (
        [str(written), str(path.with_name("page.png"))],
        [str(path.with_name("none.json")), str(path)],
        [str(written), str(path), "--images", str(photographs / "none")],
        [str(written), str(path), "--queries", "-1"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 1
        assert capsys.readouterr().err.startswith("error: ")
        assert not path.exists()
