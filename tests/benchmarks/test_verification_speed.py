"""The benchmark of speed at a size that takes no time: pairs, peers, parts and the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.verification import speed as verification
from benchmarks.verification.peers import PEERS, run_all, run_one
from delf_engine import LocalFeatures, load_profile
from delf_engine.errors import DataError
from delf_engine.matching import match_descriptors
from delf_engine.storage import FeatureStore
from delf_engine.support.processes import process_pool
from helpers import raises, random_features, seen_again

SETTINGS = load_profile("accurate").verification


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    first = random_features(rng, 60)
    images = {
        "a": first,
        "b": seen_again(rng, first, 40),
        "c": random_features(rng, 60),
        "few": random_features(rng, 2),
        "none": LocalFeatures.empty((640, 480), 40),
    }
    with FeatureStore.create(tmp_path / "store", dim=40, codec="float32") as made:
        made.put_many(images.items())
    return tmp_path / "store"


@pytest.mark.parametrize("peer", PEERS)
def test_peers_find_what_is_there(store: Path, peer: str) -> None:
    lists = {"a": ["b", "c", "few", "none"], "few": ["none"]}
    with FeatureStore.open(store, readonly=True) as opened:
        seen, other, few, none, nothing = run_one(peer, opened, lists, SETTINGS)
    assert 38 <= seen <= 45
    assert other < 20
    assert few <= 4
    assert (none, nothing) == (0, 0)
    with process_pool(2) as pool:
        assert run_all(pool, peer, store, {"a": ["b"], "few": ["none"]}, SETTINGS) == [seen, 0]


def test_the_published_matches_are_ours_of_the_profile_delf(store: Path) -> None:
    """What scipy's tree finds within 0.8, the matcher finds from B to A without the mutual test."""
    from scipy.spatial import cKDTree

    with FeatureStore.open(store, readonly=True) as opened:
        a, b = opened.get("a"), opened.get("b")
    _, rows = cKDTree(a.descriptors).query(b.descriptors, distance_upper_bound=0.8)
    found = match_descriptors(b.descriptors, a.descriptors, mutual=False, max_distance=0.8).pairs
    near = np.flatnonzero(rows < len(a))
    assert found.tolist() == np.stack([near, rows[near]], axis=1).tolist()


def test_a_row_for_each_contender_and_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    first = random_features(rng, 50)
    with FeatureStore.create(tmp_path / "store", dim=40, codec="float32") as made:
        made.put_many((str(i), seen_again(rng, first, 30)) for i in range(5))
        made.put("short", random_features(rng, 49))
    out = tmp_path / "out.json"
    given_options = ["--features", str(tmp_path / "store"), "--quick", "--out", str(out)]
    verification.main([*given_options, "--each", "50"])
    result = json.loads(out.read_text())
    assert list(result["rows"]) == [*PEERS, "delf", "accurate", "default", "fast"]
    for name, row in result["rows"].items():
        assert row["pairs"] == (8 if name in PEERS else 20)  # of 5 x 4
        assert row["mean_inliers"] > 20
        assert min(row["one"], row["all"], row["ratio"]["one"], row["ratio"]["all"]) > 0
    assert result["rows"][next(iter(PEERS))]["ratio"] == {"one": 1, "all": 1}
    parts = result["parts_us"]
    assert {name for name in parts if name.startswith("default")} == {
        f"default: {part}"
        for part in ("preparing", "kernel", "matching", "selecting", "estimating", "answer", "whole pair")
    }
    assert result["blas_gflops"] > 0
    printed = capsys.readouterr().out
    assert "OpenCV, MAGSAC++" in printed
    assert "GFLOP/s" in printed
    with raises(DataError, "1000"):
        verification.main(given_options)
    with pytest.raises(SystemExit):
        verification.main([*given_options, "--pairs", "0"])
