from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.index import kdtree

COLUMNS = {"recall_at_1", "one_in_60", "recall_at_60", "query_ms", "query_cpu_ms", "bytes_an_image", "build_s"}


def test_a_row_for_each_index_and_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    given = ["--images", "3", "6", "--each", "50", "--queries", "2", "--checks", "1", "5000", "--rounds", "1"]
    kdtree.main([*given, "--probes", "1", "9999", "--out", str(out)])
    collections = json.loads(out.read_text())["collections"]
    assert [(c["images"], c["descriptors"]) for c in collections] == [(3, 150), (6, 300)]
    names = ["brute force", "FLANN, 1 checks", "FLANN, 5000 checks", "cKDTree, exact"]
    names += [f"IVF {codec}, {probes} probes" for codec in ("uint8", "pq") for probes in (1, 9999)]
    for collection in collections:
        rows = {row["index"]: row for row in collection["rows"]}
        assert list(rows) == names
        assert all(row.keys() >= COLUMNS for row in rows.values())
        for name in ("brute force", "FLANN, 5000 checks", "cKDTree, exact"):
            assert rows[name]["recall_at_1"] == 1
        for name in ("cKDTree, exact", "brute force"):
            assert rows[name]["recall_at_60"] > 0.999
        assert rows["IVF uint8, 9999 probes"]["recall_at_1"] > 0.9
        assert rows["IVF pq, 9999 probes"]["one_in_60"] > 0.9
        assert rows["IVF pq, 9999 probes"]["probes"] == collection["words"]
    assert "cKDTree, exact" in capsys.readouterr().out
