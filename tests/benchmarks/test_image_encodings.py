"""The table has a row for each encoding, of the whole gallery, and tells of a photograph shown twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.index import image_encodings
from delf_engine.evaluation import GroundTruth
from delf_engine.index import Codebook
from delf_engine.storage import FeatureStore
from helpers import random_features


def test_a_row_for_each_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images = {f"i{k}": random_features(rng, 60) for k in range(6)}
    lists = [np.array(v, np.int64) for v in ([3], [1], [2])]
    truth = GroundTruth(tuple(images), ("q",), np.array([[0, 0, 9, 9]]), *((one,) for one in lists))
    monkeypatch.setattr(image_encodings, "sub_rparis", lambda data, **_: truth)
    with FeatureStore.create(tmp_path / "store", dim=40, model="m") as store:
        store.put_many({**images, "query q": images["i1"]}.items())
    Codebook(random_features(rng, 300).descriptors).save(tmp_path / "book")
    out = tmp_path / "out.json"
    files = {"data": tmp_path, "features": tmp_path / "store", "training": tmp_path / "store"}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    options += ["--codebook", str(tmp_path / "book"), "--words", "4", "--components", "3", "--rounds", "1"]
    options += ["--codebook-words", "8", "--only", "asmk", "kdtree", "bow", "vlad", "fisher", "words"]
    image_encodings.main([*options, "--out", str(out)])
    result = json.loads(out.read_text())
    rows = {row["encoding"]: row for row in result["rows"] if row["words"] != 8}
    assert [row["encoding"] for row in result["rows"] if row["words"] == 8] == ["ASMK, fast words"]
    assert {"ASMK", "R-ASMK", "BoW", "VLAD", "R-VLAD", "Fisher"} <= set(rows)
    assert (result["images"], result["training_descriptors"]) == (6, 7 * 60)
    assert rows["VLAD"]["bytes_an_image"] == pytest.approx(4 * 4 * 40, abs=40)
    assert rows["VLAD, float16"]["bytes_an_image"] < 0.6 * rows["VLAD"]["bytes_an_image"]
    for row in rows.values():
        assert row["hard"]["mean_ap"] == 100  # the query is that photograph
        assert row["ms_a_query"] > 0
    assert "R-VLAD" in capsys.readouterr().out
