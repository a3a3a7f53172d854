from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import KdTreeConfig, load_profile
from delf_engine.errors import ConfigError, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.index import KdTreeIndex
from delf_engine.index.kdtree.exact_tree import ExactTree
from delf_engine.index.kdtree.votes import _firsts, gathered
from delf_engine.index.segments import disk
from helpers import raises, random_features
from index.oracles import brute_force, kdtree_score, voted

DEFAULT = load_profile().kdtree
RANDOMISED = DEFAULT.model_copy(update={"search": "randomised"})
EXACT = DEFAULT.model_copy(update={"search": "exact", "neighbours": 7})
ALL_CHECKED = RANDOMISED.model_copy(update={"checks": 100_000, "neighbours": 7})
BOTH = pytest.mark.parametrize("config", [EXACT, ALL_CHECKED], ids=["exact", "randomised"])


def features_of(descriptors: np.ndarray) -> LocalFeatures:
    one = np.ones(len(descriptors))
    return LocalFeatures(np.zeros((len(one), 2)), one, one, descriptors, (9, 9))


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([2, 40, 65]),
    sizes=st.lists(st.sampled_from([0, 1, 5, 30]), min_size=1, max_size=5),
    asked=st.sampled_from([0, 1, 12]),
    config=st.sampled_from([EXACT, ALL_CHECKED]),
)
def test_scores_equal_the_oracle(seed: int, dim: int, sizes: list[int], asked: int, config: KdTreeConfig) -> None:
    rng = np.random.default_rng(seed)
    images = [random_features(rng, n, dim) for n in sizes]
    query = random_features(rng, asked, dim)
    index = KdTreeIndex(dim, config)
    index.add([str(i) for i in range(len(images))], images)
    ids, scores = index.search(query, 9)
    found = np.zeros(len(images))
    found[[int(i) for i in ids]] = scores
    np.testing.assert_allclose(found, kdtree_score(query, images, config.neighbours), rtol=1e-3, atol=1e-4)
    assert (np.diff(scores) <= 0).all()


@BOTH
def test_one_vote_for_a_repeated_structure(config: KdTreeConfig) -> None:
    a, b, c = np.eye(40)[:3]
    index = KdTreeIndex(40, config)
    index.add(["rows of a", "a and b"], [features_of(np.array([a] * 6)), features_of(np.array([a, b]))])
    ids, scores = index.search(features_of(np.array([a, b])), 9)
    assert ids == ["a and b", "rows of a"]
    np.testing.assert_allclose(scores, [1.01, 0.01], rtol=1e-5)
    ids, scores = index.search(features_of(np.array([a] * 5)), 9)  # nor for one in the query
    np.testing.assert_allclose(scores, [0.01, 0.01], rtol=1e-5)
    assert index.search(features_of(np.array([c])), 9)[0] == []


def test_the_same_seed_gives_the_same_trees(rng: np.random.Generator) -> None:
    config = RANDOMISED.model_copy(update={"checks": 1, "trees": 2})
    images = [random_features(rng, 300) for _ in range(10)]
    query = random_features(rng, 50)

    def scores(seed: int) -> np.ndarray:
        index = KdTreeIndex(40, config, seed=seed)
        index.add([str(i) for i in range(10)], images)
        cv2.setRNGSeed(99)
        ids, found = index.search(query, 10)
        return found[np.argsort(ids)]

    np.testing.assert_array_equal(scores(1), scores(1))
    assert not np.array_equal(scores(1), scores(2))


def test_auto_is_exact_below_a_number_of_descriptors(tmp_path: Path, rng: np.random.Generator) -> None:
    query = random_features(rng, 30)
    index = KdTreeIndex(
        40, DEFAULT.model_copy(update={"search": "auto", "exact_below": 600, "checks": 1, "neighbours": 10})
    )
    index.add(list("abc"), [random_features(rng, 200) for _ in range(3)])

    def as_by(search: str) -> bool:
        other = KdTreeIndex(40, index.config.model_copy(update={"search": search}))
        other._collection = index._collection
        (ids, scores), (wanted, wanted_scores) = index.search(query, 3), other.search(query, 3)
        return ids == wanted and np.array_equal(scores, wanted_scores)

    assert as_by("randomised")
    assert not as_by("exact")
    index.remove(["b"])
    assert as_by("exact")
    assert not as_by("randomised")
    index.save(tmp_path)
    again = KdTreeIndex.load(tmp_path)
    assert again.config == index.config
    assert again.search(query, 3)[0] == index.search(query, 3)[0]


def test_refuses(tmp_path: Path) -> None:
    with raises(ConfigError, "dim"):
        KdTreeIndex(0)
    KdTreeIndex(8).save(tmp_path)
    manifest = disk.read_manifest(tmp_path, "kdtree")
    disk.write_manifest(tmp_path, "kdtree", 1, {**manifest, "segments": [{"name": "x"}]})
    with raises(FormatError, str(tmp_path)):
        KdTreeIndex.load(tmp_path)


# ------------------------------------------------------------------------------- neighbours, and their votes


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 60),
    asked=st.sampled_from([0, 1, 7, 300]),
    dim=st.sampled_from([1, 3, 40]),
    values=st.sampled_from(["normal", "grid", "equal", "huge", "tiny"]),
    k=st.integers(1, 60),
)
def test_neighbours_equal_the_oracle(seed: int, rows: int, asked: int, dim: int, values: str, k: int) -> None:
    rng = np.random.default_rng(seed)
    scale = {"huge": 1e18, "tiny": 1e-18}.get(values, 1.0)

    def draw(n: int) -> np.ndarray:
        if values == "grid":
            return rng.integers(-1, 2, (n, dim)).astype(np.float32)
        drawn = rng.normal(size=(n, dim)).astype(np.float32)
        return np.ones_like(drawn) if values == "equal" else (scale * drawn).astype(np.float32)

    data, queries, k = draw(rows), draw(asked), min(k, rows)
    found, squared = ExactTree(data).nearest(queries, k)
    assert (found.shape, squared.shape) == ((asked, k), (asked, k))
    for i, x in enumerate(queries.astype(np.float64)):
        wanted = brute_force(x, data.astype(np.float64), np.zeros(rows), k)
        assert found[i].tolist() == [row for _, row, _ in wanted]
        assert squared[i].tolist() == [distance for distance, _, _ in wanted]


@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(0, 8),
    k=st.integers(1, 9),
    images=st.integers(1, 5),
    ties=st.booleans(),
)
def test_votes_equal_the_oracle(seed: int, queries: int, k: int, images: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    owners = np.sort(rng.integers(0, images, 30))
    found = []
    rows, squared = np.full((queries, k), -1), np.full((queries, k), 7.0)
    for q in range(queries):
        count = int(rng.integers(0, k + 1))
        chosen = rng.permutation(30)[:count]
        distances = rng.integers(0, 4, count) / 2 if ties else rng.uniform(0, 3, count)
        neighbours = list(zip(distances.tolist(), chosen.tolist(), owners[chosen].tolist(), strict=True))
        found.append(sorted(neighbours))
        neighbours.sort(key=lambda neighbour: neighbour[0])  # those that are equally near come in any order
        squared[q, :count] = [distance for distance, _, _ in neighbours]
        rows[q, :count] = [row for _, row, _ in neighbours]
    scores = gathered(rows, squared, owners[rows], images)
    assert (scores.shape, scores.dtype) == ((images,), np.float32)
    np.testing.assert_allclose(scores, voted(found, images), rtol=1e-5, atol=1e-6)


@given(st.lists(st.sampled_from([0, 1, 7, 2**40, 2**61, 2**62 - 1]), max_size=30))
def test_where_keys_occur_first(keys: list[int]) -> None:
    assert _firsts(np.array(keys, np.int64)).tolist() == [keys.index(key) for key in sorted(set(keys))]
