"""The benchmarks of the index, at a size that takes no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.index import large as large_index
from benchmarks.index import sizes as index_sizes
from benchmarks.index import speed
from helpers import measured_here


def test_beside_a_published_package_that_is_left_out(tmp_path: Path) -> None:
    sizes = ["--images", "20", "--words", "256", "--per-image", "50", "--queries", "2"]
    speed.main(["published", *sizes, "--no-peer", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "index_published.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["delf-engine, exact words", "delf-engine, fast words"]
    assert result["recall_at_1"] == result["recall_at_5"] == 1  # so few words are scanned
    assert all(row["query_ms"] > 0 and row["postings_an_image"] > 10 for row in result["rows"])


def test_a_large_index_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_index, "_ADDED", 50)
    apart = large_index.measured_apart

    def measured(name: str, what: str, *rest: Any) -> dict[str, Any]:
        return large_index._look(*rest) if what == "look" else apart(name, what, *rest)

    monkeypatch.setattr(large_index, "measured_apart", measured)
    sizes = ["--images", "300", "--words", "2048", "--queries", "2", "--kills", "1"]
    speed.main(["large", *sizes, "--folder", str(tmp_path / "big"), "--out", str(tmp_path)])
    result = json.loads((tmp_path / "index_large.json").read_text())
    assert result["lost_during_add"] == result["lost_during_merge"] == 0
    assert result["postings"] == 300 * 700
    assert result["merged_segments"] == 1
    assert result["merged_postings"] > result["postings"]
    assert result["query_ms"] > 0


def test_indexes_by_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_sizes, "measured_apart", measured_here(index_sizes.main))
    out = tmp_path / "out.json"
    options = ["--images", "20", "30", "--most-kdtree", "20", "--queries", "1", "--folder", str(tmp_path)]
    index_sizes.main([*options, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["images"], row["kind"]) for row in rows] == [
        (20, "asmk"),
        (20, "kdtree"),
        (20, "ivf"),
        (30, "asmk"),
        (30, "ivf"),
    ]
    assert all(row["query_ms"] > 0 and row["memory_mb"] > 0 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
