from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.index import kdtree
from delf_engine.index import Codebook
from delf_engine.storage import FeatureStore
from helpers import random_features

COLUMNS = {"recall_at_1", "one_in_60", "recall_at_60", "query_ms", "query_cpu_ms", "bytes_an_image", "build_s"}


def test_a_row_for_each_index_and_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    given = ["--images", "3", "6", "--each", "50", "--queries", "2", "--checks", "1", "5000", "--rounds", "1"]
    kdtree.main([*given, "--probes", "1", "9999", "--rescored", "1", "50", "--out", str(out)])
    collections = json.loads(out.read_text())["collections"]
    assert [(c["images"], c["descriptors"]) for c in collections] == [(3, 150), (6, 300)]
    names = ["brute force", "FLANN, 1 checks", "FLANN, 5000 checks", "cKDTree, exact"]
    names += ["IVF uint8, 1 probes", "IVF uint8, 9999 probes"]
    names += [f"IVF pq, {probes} probes, x {times}" for probes in (1, 9999) for times in (1, 50)]
    for collection in collections:
        rows = {row["index"]: row for row in collection["rows"]}
        assert list(rows) == names
        assert all(row.keys() >= COLUMNS for row in rows.values())
        for name in ("brute force", "FLANN, 5000 checks", "cKDTree, exact"):
            assert rows[name]["recall_at_1"] == 1
        for name in ("cKDTree, exact", "brute force"):
            assert rows[name]["recall_at_60"] > 0.999
        # 8 bits find nearly the same; codes that are all compared again find just that.
        assert rows["IVF uint8, 9999 probes"]["recall_at_1"] > 0.9
        assert rows["IVF pq, 9999 probes, x 50"]["recall_at_1"] == rows["IVF uint8, 9999 probes"]["recall_at_1"]
        assert rows["IVF pq, 9999 probes, x 50"]["probes"] == collection["words"]
    assert "cKDTree, exact" in capsys.readouterr().out


def test_images_of_stores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with FeatureStore.create(tmp_path / "store", dim=40, model="m") as store:
        for i in range(6):
            store.put(f"{'query ' if i < 2 else ''}{i}", random_features(rng, 40))
    Codebook(random_features(rng, 30).descriptors).save(tmp_path / "book")
    out = tmp_path / "out.json"
    given = ["--features", str(tmp_path / "store"), "--leave-out", "query ", "--codebook", str(tmp_path / "book")]
    kdtree.main([*given, "--queries", "1", "--checks", "--codecs", "uint8", "--probes", "3", "--out", str(out)])
    (collection,) = json.loads(out.read_text())["collections"]
    assert (collection["images"], collection["descriptors"], collection["words"]) == (3, 120, 30)
    assert [row["index"] for row in collection["rows"]] == ["brute force", "cKDTree, exact", "IVF uint8, 3 probes"]
    with pytest.raises(SystemExit):
        kdtree.main(["--queries", "0"])
