from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reranking import stops
from delf_engine.errors import DataError
from delf_engine.storage import FeatureStore
from helpers import raises, random_features, seen_again


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images; each has half of its features from one of three scenes."""
    rng = np.random.default_rng(0)
    scenes = [random_features(rng, 80) for _ in range(3)]
    path = tmp_path_factory.mktemp("features") / "store"
    with FeatureStore.create(path, dim=40, codec="float32") as store:
        store.put_many((f"i{k}", seen_again(rng, scenes[k % 3], 40)) for k in range(30))
    return path


def test_the_benchmark_runs(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "reranking.json"
    options = ["--quick", "--workers", "2", "--top-k", "5", "--caps", "20"]
    stops.main(["--features", str(store), "--out", str(out), *options])
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert (result["queries"], result["pairs"]) == (5, 100)
    kill = result["kill"]
    assert kill["same"]
    assert kill["pairs_done"] >= 50
    assert 0 <= kill["pairs_kept"] <= kill["pairs"] == 100
    (stop,) = result["early_stop"]
    assert stop["equal"] == stop["queries"] == 5
    assert 25 <= stop["verified"] <= 100
    assert all(title in printed for title in ("A journal", "Early stop"))


def test_a_store_of_nothing_is_refused(tmp_path: Path) -> None:
    FeatureStore.create(tmp_path / "empty", dim=40).close()
    with raises(DataError):
        stops.main(["--features", str(tmp_path / "empty"), "--quick"])
