"""A benchmark run as Markdown, and what is said of results that are none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import FormatError
from delf_engine.evaluation import SETUPS, GroundTruth, evaluate, paired_bootstrap
from delf_engine.plotting.report import benchmark_markdown, read_benchmark_result
from delf_engine.plotting.report.benchmark_parsing import parse_result
from delf_engine.plotting.report.benchmark_result import Stage
from delf_engine.plotting.report.benchmark_tables import duration
from delf_engine.plotting.report.benchmark_text import escaped
from plotting.benchmark_results import benchmark_result

QUERIES = ["query_a", "query_b", "query_c"]


@pytest.fixture
def result() -> dict[str, Any]:
    return benchmark_result(QUERIES, ["image_0", "image_1"])


def test_every_section(result: dict[str, Any]) -> None:
    written = benchmark_markdown(result)
    assert written == benchmark_markdown(result)
    lines = written.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# RParis6k, revisited protocol",
        "## Mean average precision",
        "## What re-ranking changes",
        "## Mean precision",
        "## Quoted from publications",
        "## Time and memory",
        "## Notes",
    ]
    figures = result["methods"][0]["setups"]["hard"]
    low, high = figures["interval_95"]
    assert (
        f"{figures['mean_ap']:.2f} ({low:.1f} to {high:.1f})" in written
        or f"**{figures['mean_ap']:.2f}**" in written
    )
    assert "| ASMK\\* + verification, re-ranks ASMK\\* |" in written
    assert "+0.50 (-0.75 to +1.75), no difference shown" in written
    assert "quoted from publications. They were not measured" in written
    assert (
        "| DELF-ASMK\\* + spatial verification | RParis | 76.9 | 55.4 | Radenović et al., CVPR 2018 |" in written
    )
    assert "| extraction | 2 h 14 min | 6,392 | 2,000 | 0.546/s | 2,450 MB |" in written
    for block in re.findall(r"(?:^\|.*\|\n)+", written, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_figures_as_the_protocol_gives_them() -> None:
    lists = [np.array(each) for each in ([0], [1], [])]
    truth = GroundTruth(
        ("a", "b", "c"), ("p", "q"), np.zeros((2, 4)), lists[:2], [lists[2], lists[0]], [lists[2]] * 2
    )
    first, second = (
        {setup: evaluate(rankings, truth, setup=setup) for setup in SETUPS}
        for rankings in ([["a", "b", "c"], ["c", "a", "b"]], [["c", "a"], ["b", "a", "c"]])
    )
    change = paired_bootstrap(second["medium"].average_precision, first["medium"].average_precision, samples=50)
    methods = [
        {"name": "x", "setups": {setup: first[setup].to_dict() for setup in SETUPS}},
        {
            "name": "y",
            "parent": "x",
            "setups": {setup: second[setup].to_dict() for setup in SETUPS},
            "against_parent": {"medium": change.to_dict(), "hard": None},
        },
    ]
    dataset = {"name": "d", "queries": 2, "images": 3}
    written = benchmark_markdown({"title": "t", "dataset": dataset, "methods": methods})
    assert "| method | Easy, 2 queries | Medium, 2 queries | Hard, 1 query |" in written
    for setup in SETUPS:
        assert f"{second[setup].mean_ap:.2f}" in written
    assert f"| y | x | – | {change.difference:+.2f} " in written  # noqa: RUF001


def test_little_to_say(result: dict[str, Any]) -> None:
    least = {"title": "# t", "dataset": {"name": "d", "queries": 1, "images": 2, "distractors": 3}, "methods": []}
    assert benchmark_markdown(least) == (
        "# \\# t\n\n- data: d: 1 query, 2 images, 3 distractors\n\nNo method was measured.\n"
    )
    result["dataset"]["missing"] = {"images": ["a"], "queries": []}
    written = benchmark_markdown(result)
    assert written.startswith(
        "# RParis6k, revisited protocol (restricted: images are missing)\n\n**Restricted protocol"
    )
    assert "1 image of the data set was missing" in written


@given(st.text(st.sampled_from("ab |\\`*_[]<>&#-+=1.)~\n\r\t\x00\u2028\ud800é") | st.characters()))
def test_names_are_only_text(name: str) -> None:
    safe = escaped(name)
    safe.encode("utf-8")
    assert len(safe.splitlines()) <= 1
    assert "<" not in safe
    for mark in "|`*[]":
        assert len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(mark)}", safe)) == 0
    plain = (
        re.sub(r"\\([^A-Za-z0-9\s])", r"\1", safe).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )
    assert plain == re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", name).strip()
    assert not re.match(r"#|[-+]\s|\d+[.)]\s", safe)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets the value at a dotted path."""

    def applied(result: Any) -> None:
        *inside, last = path.split("/")
        for name in inside:
            result = result[int(name) if isinstance(result, list) else name]
        if isinstance(result, list):
            result[int(last)] = value
        elif value is KeyError:
            del result[last]
        else:
            result[last] = value

    return applied


MALFORMED = [
    ("title", KeyError, "title is missing"),
    ("title", None, "title must be a text, got None"),
    ("title", 7, "title must be a text, got 7"),
    ("dataset", [], "dataset must be an object"),
    ("dataset/name", KeyError, "dataset.name is missing"),
    ("dataset/images", -1, "dataset.images must be a whole number"),
    ("dataset/queries", 1.5, "dataset.queries must be a whole number"),
    ("dataset/missing", ["a"], "dataset.missing must be an object"),
    ("dataset/missing/images", "abc", "dataset.missing.images must be a list"),
    ("methods", {}, "methods must be a list"),
    ("methods/0", "m", r"methods\[0\] must be an object"),
    ("methods/0/name", KeyError, r"methods\[0\].name is missing"),
    ("methods/1/name", "global descriptor", r"methods\[1\].name stands twice"),
    ("methods/2/parent", "HOW", r"methods\[2\].parent must be the name of another method, got 'HOW'"),
    ("methods/2/parent", "ASMK* + verification", r"methods\[2\].parent must be the name of another"),
    ("methods/0/seconds_per_query", -1, r"methods\[0\].seconds_per_query must be at least 0"),
    ("methods/0/setups", None, r"methods\[0\].setups must be an object"),
    ("methods/0/setups/easy/mean_ap", 100.5, r"methods\[0\].setups.easy.mean_ap must be between 0 and 100"),
    ("methods/0/setups/easy/mean_ap", math.nan, "mean_ap must be finite; what is not known is null, got nan"),
    ("methods/0/setups/easy/mean_ap", True, "mean_ap must be a number, got True"),
    ("methods/0/setups/easy/interval_95", [3, 2], "interval_95 must be two numbers, the lower one first"),
    ("methods/0/setups/easy/interval_95", [3], "interval_95 must be two numbers"),
    ("methods/0/setups/hard/average_precision/query_a", "9", r"average_precision.query_a must be a number"),
    ("methods/0/setups/hard/mean_precision/5", math.inf, "mean_precision.5 must be finite"),
    ("methods/2/against_parent/easy/low", 9, r"against_parent.easy.low must not lie above high"),
    ("methods/2/against_parent/easy/high", KeyError, r"against_parent.easy.high is missing"),
    ("details/HOW", {}, "details.HOW is of a method that is not among methods"),
    ("details/ASMK*", [], r"details.ASMK\* must be an object"),
    ("details/ASMK* + verification/medium/query_a/0/label", "good", "label must be one of easy, hard"),
    ("details/ASMK* + verification/medium/query_a/3/inliers", 1.5, r"query_a\[3\].inliers must be a whole number"),
    ("details/ASMK* + verification/medium/query_a/3/id", None, r"query_a\[3\].id must be a text"),
    ("missed", {"ASMK*": {"medium": {"q": {"id": "x", "rank": 0}}}}, "rank must be 1 or more"),
    ("queries/query_a/box", [0, 0, 1], "queries.query_a.box must be four numbers"),
    ("queries/query_a/box/2", math.nan, r"queries.query_a.box\[2\] must be finite"),
    ("queries/query_a/positives/easy", None, "queries.query_a.positives.easy must be a whole number"),
    ("inliers/ASMK* + verification/positives/0", -1, r"positives\[0\] must be a whole number"),
    ("inliers/ASMK* + verification/negatives/counts", [1], r"negatives must have as many values"),
    ("inliers/ASMK* + verification/negatives", {"values": []}, "negatives.counts is missing"),
    ("inliers/ASMK* + verification/negatives", "long", "negatives must be a list"),
    ("stages/0/seconds", KeyError, r"stages\[0\].seconds is missing"),
    ("stages/0/seconds", 10**400, r"stages\[0\].seconds must be finite"),
    ("stages/0/items", 2**53 + 1, r"stages\[0\].items must be a whole number between 0 and 2\^53"),
    ("stages/0/cached", 10_000, r"stages\[0\].cached must be at most the 6392 items, got 10000"),
    ("published/0/source", KeyError, r"published\[0\].source is missing"),
    ("published/0/medium", "76.9", r"published\[0\].medium must be a number"),
    ("notes/0", 1, r"notes\[0\] must be a text"),
    ("configuration", [1], "configuration must be an object"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), MALFORMED)
def test_what_is_wrong_is_named_by_its_key(result: dict[str, Any], path: str, value: Any, said: str) -> None:
    change(path, value)(result)
    with pytest.raises(FormatError, match=said):
        benchmark_markdown(result)


def test_no_object_at_all_and_one_that_never_ends(result: dict[str, Any]) -> None:
    wrong: Any
    for wrong in ([], None, "x", 7):
        with pytest.raises(FormatError, match="the whole must be an object"):
            benchmark_markdown(wrong)
    result["stages"][0]["items"] = 10**5000  # more digits than Python prints
    with pytest.raises(
        FormatError, match=r"stages\[0\].items must be a whole number between 0 and 2\^53, got int"
    ):
        benchmark_markdown(result)
    result["stages"] = []
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with pytest.raises(FormatError, match="more than 20 levels deep"):
        benchmark_markdown({**result, "configuration": endless})


@pytest.mark.parametrize(
    ("configuration", "threshold"),
    [
        ({}, None),
        ({"min_inliers": 12}, 12),
        ({"verification": {"min_inliers": 12}, "reranking": {"graph": {"min_inliers": 20}}}, 12),
        ({"reranking": {"graph": {"min_inliers": 20}}}, 20),
        ({"a": {"min_inliers": 20}, "b": {"min_inliers": 21}}, None),
        ({"verification": {"min_inliers": None}}, None),
        ({"verification": {"min_inliers": "many"}}, None),
    ],
)
def test_the_threshold_is_that_of_verification(
    result: dict[str, Any], configuration: dict[str, Any], threshold: int | None
) -> None:
    assert parse_result({**result, "configuration": configuration}).threshold == threshold


def test_counts_in_both_forms_are_the_same(result: dict[str, Any]) -> None:
    name = "ASMK* + verification"
    result["inliers"] = {name: {"positives": [0, 3, 3], "negatives": {"values": [3, 0, 3], "counts": [1, 1, 1]}}}
    positives, negatives = parse_result(result).inliers[name]
    assert positives == negatives == {0: 1, 3: 2}


def test_reading_a_file(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    assert read_benchmark_result(path) == result
    for content, said in (
        (b"{", "is no JSON of a benchmark run"),
        (b"\xff\xfe\xfd", "is no JSON of a benchmark run"),
        (b"[" * 200_000, "is no JSON of a benchmark run"),
        (b"{}", "methods is missing, and the report needs it"),
        (b'{"methods": NaN}', "methods must be a list, got nan"),
        (b"7", "the whole must be an object"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=said) as caught:
            read_benchmark_result(path)
        assert str(path) in str(caught.value)
    with pytest.raises(FormatError, match="cannot be read"):
        read_benchmark_result(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),  # noqa: RUF001
        (0.0, "0 ms"),
        (0.0125, "12.5 ms"),
        (0.9996, "1.0 s"),
        (99.94, "99.9 s"),
        (99.96, "1 min 40 s"),
        (3599.6, "1 h 0 min"),
        (1e7, "2,777 h 46 min"),
    ],
)
def test_times_in_words(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_throughput_is_of_the_items_worked_on() -> None:
    assert Stage("s", 2.0, 10, 4, None).throughput == 3.0
    assert Stage("s", 2.0, 10, None, None).throughput == 5.0
    assert Stage("s", 2.0, 10, 10, None, timed=8).throughput == 4.0  # in runs before
    for nothing in (
        Stage("s", 2.0, 10, 10, None),
        Stage("s", 0.0, 10, 0, None),
        Stage("s", 2.0, None, None, None),
    ):
        assert nothing.throughput is None
