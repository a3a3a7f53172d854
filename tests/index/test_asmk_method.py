"""The calls of jenicek/asmk: the steps of its own example, beside the package itself where it is installed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delf_engine.errors import ConfigError, DataError, FeatureError, FormatError, MismatchError
from delf_engine.index.asmk_method import ASMKMethod
from helpers import raises

# examples/params/_eccv20_how.yml of the package, but for the size and the GPU.
PARAMS: dict[str, Any] = {
    "index": {"gpu_id": None},
    "train_codebook": {"codebook": {"size": 16}},
    "build_ivf": {
        "kernel": {"binary": True},
        "ivf": {"use_idf": False},
        "quantize": {"multiple_assignment": 1},
        "aggregate": {},
    },
    "query_ivf": {
        "quantize": {"multiple_assignment": 5},
        "aggregate": {},
        "search": {"topk": None},
        "similarity": {"similarity_threshold": 0.0, "alpha": 3.0},
    },
}


def vectors(seed: int, n: int) -> npt.NDArray[np.float32]:
    found = np.random.default_rng(seed).normal(size=(n, 40)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


TRAINING, IMAGES, QUERIES = vectors(0, 400), vectors(1, 300), vectors(2, 60)
IMIDS, QIMIDS = np.repeat(np.arange(10), 30), np.repeat([0, 1, 2], 20)


def params(**changes: Any) -> dict[str, Any]:
    """The parameters with others, named like ``query_ivf__search__topk``."""
    out = copy.deepcopy(PARAMS)
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = out
        for key in path:
            inner = inner[key]
        inner[last] = value
    return out


def trained(**changes: Any) -> ASMKMethod:
    return ASMKMethod.initialize_untrained(params(**changes)).train_codebook(TRAINING)


def test_the_steps_of_the_example(tmp_path: Path) -> None:
    for first in (True, False):  # the second time from its caches
        asmk = ASMKMethod.initialize_untrained(PARAMS)
        asmk = asmk.train_codebook(TRAINING, cache_path=f"{tmp_path}/codebook.pkl")
        metadata = asmk.metadata["train_codebook"]
        assert ("load_time" in metadata) is not first
        assert first is ({"train_time", "cluster_time", "index_time"} <= set(metadata))
        built = asmk.build_ivf(IMAGES, IMIDS, cache_path=f"{tmp_path}/ivf_roxford5k.pkl")
        assert asmk.inverted_file is None
        metadata = built.metadata["build_ivf"]
        assert ("load_time" in metadata) is not first
        assert metadata["ivf_stats"]["images"] == 10
        metadata, images, ranks, scores = built.query_ivf(QUERIES, QIMIDS)
        assert metadata["query_avg_time"] > 0
        assert images.tolist() == [0, 1, 2]
        assert ranks.shape == scores.shape == (3, 10)
        assert [sorted(row) for row in ranks.tolist()] == [list(range(10))] * 3
        assert (np.diff(scores, axis=1) <= 0).all()
        if first:
            before = ranks, scores
        np.testing.assert_array_equal(ranks, before[0])
        np.testing.assert_array_equal(scores, before[1])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"build_ivf__quantize__multiple_assignment": 2, "query_ivf__search__topk": 4},
        {"query_ivf__similarity__similarity_threshold": -1.0, "query_ivf__similarity__alpha": 1.0},
    ],
)
def test_ranks_and_scores_are_those_of_the_package(changes: dict[str, Any]) -> None:
    published = pytest.importorskip("asmk", reason="needs delf-engine[asmk]")
    ours = trained(**changes)
    theirs = published.ASMKMethod.initialize_untrained(params(**changes)).train_codebook(TRAINING)
    assert ours.codebook is not None
    theirs.codebook.index(ours.codebook.centroids)
    gaps = IMIDS * 2  # ids without vectors
    found = ours.build_ivf(IMAGES, gaps).query_ivf(QUERIES, QIMIDS)
    wanted = theirs.build_ivf(IMAGES, gaps.copy()).query_ivf(QUERIES, QIMIDS)
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_allclose(found[3], wanted[3], atol=1e-6)
    distinct = wanted[3] != 0
    np.testing.assert_array_equal(found[2][distinct], wanted[2][distinct])


def test_images_in_parts_and_distractors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asmk = trained()
    whole = asmk.build_ivf(IMAGES, IMIDS, cache_path=tmp_path / "ivf").query_ivf(QUERIES, QIMIDS)[1:]
    builder = asmk.create_ivf_builder()
    assert not builder.loaded_from_cache
    builder.add(IMAGES[:90], IMIDS[:90])
    builder.add(IMAGES[90:], IMIDS[90:], progress=1)
    parts = asmk.add_ivf_builder(builder).query_ivf(QUERIES, QIMIDS, progress=2)[1:]
    assert capsys.readouterr().out.split("\n")[:3] == ["Index: [7/7]", "Query: [2/3]", "Query: [3/3]"]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    beside = asmk.build_ivf(IMAGES[:60], IMIDS[:60], distractors_path=tmp_path / "ivf")
    _, ranks, scores = beside.query_ivf(QUERIES, QIMIDS)[1:]
    assert sorted(ranks[0].tolist()) == [*range(-10, 0), 0, 1]
    for row, values in zip(ranks, scores, strict=True):  # images 0 and 1 are distractors -10 and -9, too
        by_image = dict(zip(row.tolist(), values.tolist(), strict=True))
        assert by_image[0] == by_image[-10]
        assert by_image[1] == by_image[-9]
    with raises(DataError):
        builder.add(IMAGES[:30], IMIDS[:30])


def test_what_is_refused(tmp_path: Path) -> None:
    asmk = trained()
    with raises(ConfigError):
        asmk.train_codebook(TRAINING)
    with raises(ConfigError, "build_ivf"):
        asmk.query_ivf(QUERIES, QIMIDS)
    with raises(ConfigError):
        ASMKMethod.initialize_untrained(PARAMS).build_ivf(IMAGES, IMIDS)
    for changes in ({"build_ivf__kernel__binary": False}, {"build_ivf__ivf__use_idf": True}):
        with raises(ConfigError, "binary", "use_idf"):
            trained(**changes).build_ivf(IMAGES, IMIDS)
    for wrong in (IMIDS[::-1], IMIDS[1:]):
        with raises(DataError):
            asmk.build_ivf(IMAGES, wrong)
    with raises(FeatureError, "norm"):
        asmk.build_ivf(IMAGES * 2, IMIDS)
    (tmp_path / "codebook.pkl").write_bytes(b"\x80\x04K\x07.")  # a pickle, which is not read
    with raises(FormatError, "codebook.pkl"):
        ASMKMethod.initialize_untrained(PARAMS).train_codebook(TRAINING, cache_path=tmp_path / "codebook.pkl")
    assert asmk.codebook is not None
    asmk.codebook.save(tmp_path / "c")
    with raises(ConfigError, "16 words", "1024"):
        method = ASMKMethod.initialize_untrained(params(train_codebook__codebook__size="1k"))
        method.train_codebook(TRAINING, cache_path=tmp_path / "c")
    asmk.build_ivf(IMAGES, IMIDS, cache_path=tmp_path / "ivf")
    with raises(MismatchError):
        trained(build_ivf__quantize__multiple_assignment=3).build_ivf(IMAGES, IMIDS, cache_path=tmp_path / "ivf")
