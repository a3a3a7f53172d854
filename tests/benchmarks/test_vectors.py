from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.index import vectors


def test_ours_and_dense_numpy_are_measured_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(_: str, what: str, method: str, dense: int, *sizes: int) -> dict[str, Any]:
        return vectors.measure(method, bool(dense), *sizes)

    monkeypatch.setattr(vectors, "measured_apart", here)
    out = tmp_path / "out.json"
    given = ["--images", "300", "--dim", "16", "--queries", "3", "--naive", "200", "--out", str(out)]
    vectors.main(given)
    rows = json.loads(out.read_text())["rows"]
    assert [(r["method"], r["dense"], r["images"]) for r in rows] == [
        (method, dense, images)
        for method in ("k-reciprocal", "diffusion")
        for images, dense in ((300, False), (200, False), (200, True))
    ]
    assert all(row["peak_mb"] > 0 and row["graph_s"] > 0 for row in rows)
    assert rows[5]["same_first"] == 1
    assert rows[2]["same_first"] > 0.6
    assert "diffusion, dense NumPy" in capsys.readouterr().out


def test_one_query_alone_is_ranked_as_by_the_published_form() -> None:
    """A query is outside our graph, and in the published one: the first results are the same all the same."""
    collection, queries = vectors.clustered(400, 20, 64)
    same = []
    for query in queries:
        dense = vectors.dense_reciprocal(query[None], collection)[0, :10]
        same.append(len(set(dense) & set(vectors.ReciprocalGraph(collection).rerank(query[None])[1][0, :10])) / 10)
    assert np.mean(same) > 0.85
