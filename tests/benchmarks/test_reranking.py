from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reranking import speed as reranking
from benchmarks.verification.peers import published_path
from delf_engine.config import load_profile
from delf_engine.errors import DataError
from delf_engine.storage import FeatureStore
from helpers import random_features, seen_again

SETTINGS = load_profile("delf").verification


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
    options = ["--quick", "--workers", "2", "--top-k", "5", "--profiles", "default", "--caps", "20"]
    reranking.main(["--features", str(store), "--out", str(out), *options])
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert (result["queries"], result["pairs"]) == (5, 100)
    assert [(row["name"], row["codec"], row["pairs"]) for row in result["speed"]] == [
        ("published path", "", 9), ("default", "float32", 100), ("default", "uint8", 100)
    ]  # fmt: skip
    assert all(speed > 0 for row in result["speed"] for speed in row["pairs_a_second"].values())
    kill = result["kill"]
    assert kill["same"]
    assert kill["pairs_done"] >= 50
    assert 0 <= kill["pairs_kept"] <= kill["pairs"] == 100
    (stop,) = result["early_stop"]
    assert stop["equal"] == stop["queries"] == 5
    assert 25 <= stop["verified"] <= 100
    assert all(title in printed for title in ("published path", "A journal", "Early stop"))


def test_selections_are_spread_over_queries_and_places() -> None:
    shortlists = {q: [(f"{q}{i}", 1.0) for i in range(10)] for q in "abc"}
    few = reranking.thinned(shortlists, 6)
    assert few == {q: [(f"{q}0", 1.0), (f"{q}5", 1.0)] for q in "abc"}
    assert reranking.thinned(shortlists, 1000) == shortlists


def test_a_store_of_nothing_is_refused(tmp_path: Path) -> None:
    FeatureStore.create(tmp_path / "empty", dim=40).close()
    with pytest.raises(DataError, match="too few to re-rank"):
        reranking.main(["--features", str(tmp_path / "empty"), "--quick"])


def test_the_published_path_counts_what_agrees(rng: np.random.Generator) -> None:
    image = random_features(rng, 100)
    assert published_path(image, seen_again(rng, image, 60), SETTINGS) == 60
    assert published_path(image, random_features(rng, 0), SETTINGS) == 0
    assert published_path(image, random_features(rng, 2), SETTINGS) == 0
