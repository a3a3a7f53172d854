from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.index import codebook_assignment
from delf_engine.index import Codebook
from delf_engine.storage import FeatureStore
from helpers import random_features


def test_a_row_for_each_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    common = ["--descriptors", "200", "--rounds", "1", "--out", str(out)]
    codebook_assignment.main(["--words", "100", "1024", *common])
    result = json.loads(out.read_text())
    modes = ["faiss flat", "exact", "fast"]
    assert [(row["words"], row["mode"]) for row in result["rows"]] == [(w, m) for w in (100, 1024) for m in modes]
    for row in result["rows"]:
        assert row["recall_at_1"] > 0.98
        assert row["recall_at_k"] > 0.98
        assert row["cpu_us_a_descriptor"] > 0
        if row["mode"] == "exact":
            assert row["recall_at_1"] == row["recall_at_k"] == 1
        if row["mode"] == "faiss flat":
            assert row["flat_by_this_cpu"] == row["flat_by_this_query_cpu"] == 1
    assert "1,024 fast" in capsys.readouterr().out


def test_words_and_descriptors_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = random_features(rng, 50)
    with FeatureStore.create(tmp_path / "store", dim=features.descriptors.shape[1], model="m") as store:
        store.put("a", features)
    Codebook(features.descriptors).save(tmp_path / "book")
    out = tmp_path / "out.json"
    files = ["--codebook", str(tmp_path / "book"), "--features", str(tmp_path / "store")]
    codebook_assignment.main([*files, "--rounds", "1", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["descriptors"] == 50
    assert [row["words"] for row in result["rows"]] == [50] * 3
