"""Options of `AsmkConfig` that published variants differ in, and what was saved before there were any."""

from __future__ import annotations

import json
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import AsmkIndex, Codebook
from delf_engine.index.asmk_layout import selectivity
from delf_engine.index.score_kernels import score_units
from helpers import random_features

RNG = np.random.default_rng(0)
DEFAULT = load_profile().asmk
ORIGIN = Codebook(np.zeros((1, 40)))


def _with(**changes: Any) -> AsmkConfig:
    return AsmkConfig.model_validate({**DEFAULT.model_dump(), **changes})


def _one(*descriptor: float) -> LocalFeatures:
    one = np.ones(1)
    return LocalFeatures(np.zeros((1, 2)), one, one, np.array([descriptor]), (9, 9))


def _signs(positive: int) -> LocalFeatures:
    """One descriptor of 40 dimensions with some positive components, all of one size."""
    return _one(*(np.where(np.arange(40) < positive, 1.0, -1.0) / np.sqrt(40)))


def test_codes_of_40_bits_by_both_divisors() -> None:
    far, near = _signs(20), _signs(40)
    for divisor, wanted in (("bits", 0.0), ("padded", 0.375)):
        index = AsmkIndex(ORIGIN, _with(divisor=divisor, alpha=1.0))
        index.add(["far", "same"], [far, near])
        found = dict(zip(*index.search(near, 5), strict=True))
        assert found["same"] == 1.0
        assert found.get("far", 0.0) == wanted


@pytest.mark.parametrize("dim", [1, 31, 32, 33, 40, 64, 65, 128, 200])
def test_selectivity(dim: int) -> None:
    distances = np.arange(dim + 1)
    exact = [float(Fraction(dim - 2 * h, dim)) for h in range(dim + 1)]
    np.testing.assert_allclose(selectivity(dim, _with(alpha=1.0, threshold=-1.0)), exact, atol=1e-15)
    padded = selectivity(dim, _with(alpha=1.0, threshold=-1.0, divisor="padded"))
    assert padded[-1] == 1 - 2 * dim / (32 * ((dim + 31) // 32))
    for threshold in (-1.0, 0.0, 0.5, 1.0):
        loose = selectivity(dim, _with(alpha=1.0, threshold=threshold))
        strict = selectivity(dim, _with(alpha=1.0, threshold=threshold, strict_threshold=True))
        at = 1 - 2 * distances / dim == threshold
        np.testing.assert_array_equal(strict[~at], loose[~at])
        assert (strict[at] == 0).all()
        assert (loose[at] == threshold).all()


@pytest.mark.parametrize("kernel", ["binary", "float"])
def test_a_similarity_at_the_threshold(kernel: str) -> None:
    """Half the signs agree, and so does half the length: both similarities are 1/2 to the bit."""
    query, image = _one(0.5, 0.5, 0.5, 0.5), _one(0.5, 0.5, 0.5, -0.5)
    codebook = Codebook(np.zeros((1, 4)))
    for threshold, strict, found in ((0.5, False, 1), (0.5, True, 0), (0.4, True, 1), (0.6, False, 0)):
        index = AsmkIndex(codebook, _with(kernel=kernel, threshold=threshold, strict_threshold=strict))
        index.add(["a"], [image])
        assert len(index.search(query, 5)[0]) == found


def test_residuals_are_compared_by_their_cosine() -> None:
    images = [random_features(RNG, 1) for _ in range(50)]
    index = AsmkIndex(ORIGIN, _with(kernel="float", alpha=1.0, threshold=-1.0))
    index.add([str(i) for i in range(50)], images)
    query = random_features(RNG, 1)
    ids, scores = index.search(query, 50)
    cosines = np.array([float(image.descriptors[0] @ query.descriptors[0]) for image in images])
    assert ids == [str(i) for i in np.argsort(-cosines) if cosines[i] > 0]
    np.testing.assert_allclose(scores, -np.sort(-cosines[cosines > 0]), atol=2**-11)
    assert index.search(images[3], 1)[1][0] == pytest.approx(1, abs=2**-10)


def test_a_float_index_on_disk(tmp_path: Path) -> None:
    codebook = Codebook(random_features(RNG, 9, 65).descriptors)
    config = _with(kernel="float", idf=True)
    images = {str(i): random_features(RNG, int(RNG.integers(0, 60)), 65) for i in range(30)}
    query = random_features(RNG, 40, 65)
    whole, parts = AsmkIndex(codebook, config), AsmkIndex(codebook, config)
    whole.add([i for i in images if int(i) % 7], [images[i] for i in images if int(i) % 7])
    for i, image in images.items():
        parts.add([i], [image])
        parts.save(tmp_path)
    parts.remove([i for i in images if int(i) % 7 == 0])
    parts.save(tmp_path)
    loaded = AsmkIndex.load(tmp_path, codebook)
    assert loaded.config == config
    for index in (parts, loaded):
        ids, scores = index.search(query, 99)
        assert ids == whole.search(query, 99)[0]
        np.testing.assert_array_equal(scores, whole.search(query, 99)[1])
    codes = loaded._collection.segments[0].arrays["codes"]
    assert (codes.dtype, codes.shape[1]) == (np.float16, 65)
    with pytest.raises(MismatchError, match="built with kernel = float, asked for binary"):
        AsmkIndex.load(tmp_path, codebook, _with(idf=True))
    assert AsmkIndex.load(tmp_path, codebook, _with(kernel="float", strict_threshold=True)).config.strict_threshold
    array = np.lib.format.open_memmap(tmp_path / loaded._collection.segments[0].name / "image_ids.npy", mode="r+")
    array[:] = 10**9
    array.flush()
    with pytest.raises(FormatError, match="postings are damaged"):
        AsmkIndex.load(tmp_path, codebook, check=False).search(query, 5)


def test_damaged_float_postings() -> None:
    arrays = (np.array([0, 9]), np.zeros(1, np.int32), np.zeros((1, 2), np.uint16))
    asked = (np.zeros(1, np.int32), np.zeros((1, 2), np.float32), np.ones(1))
    rule = (3.0, 0.0, False, np.zeros(1 << 16, np.float32))
    assert not score_units(0, 1, *asked, *rule, *arrays, np.zeros(1))


@pytest.mark.parametrize("kernel", ["binary", "float"])
def test_residuals_that_are_zero(kernel: str) -> None:
    """A descriptor on its centroid has the word, and nothing that could agree there but for zero bits."""
    corner = Codebook(np.eye(4))
    index = AsmkIndex(corner, _with(kernel=kernel, query_assignments=1))
    index.add(["on", "pair"], [_one(1, 0, 0, 0), _one(0, 1, 0, 0)])
    ids, scores = index.search(_one(1, 0, 0, 0), 5)
    assert (ids, scores.tolist()) == ((["on"], [1.0]) if kernel == "binary" else ([], []))


def test_huge_centroids() -> None:
    centroids = np.zeros((3, 40), np.float32)
    centroids[:, 0] = [-1e15, 0, 1e15]
    for kernel in ("binary", "float"):
        index = AsmkIndex(Codebook(centroids), _with(kernel=kernel))
        image = random_features(RNG, 30)
        index.add(["a"], [image])
        ids, scores = index.search(image, 5)
        assert ids == ["a"]
        assert np.isfinite(scores).all()


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="goes with kernel"):
        _with(kernel="float", divisor="padded")
    for bad in ({"kernel": "bits"}, {"divisor": 40}, {"strict_threshold": 1}, {"regions": "none"}):
        with pytest.raises(ValidationError):
            _with(**bad)


def test_indexes_and_profiles_from_before(tmp_path: Path) -> None:
    """With default options the manifest is what it was; where the options are missing, they have these values."""
    old = {"image_assignments": 1, "query_assignments": 5, "alpha": 3.0, "threshold": 0.0, "idf": False}
    config = AsmkConfig.model_validate(old)
    assert config == DEFAULT.model_copy(update={"assignment": "exact"})  # as it was before there was a choice
    assert (config.kernel, config.divisor, config.strict_threshold) == ("binary", "bits", False)
    assert (config.regions, config.region_norm) == (None, None)
    codebook = Codebook(random_features(RNG, 9).descriptors)
    index = AsmkIndex(codebook, config)
    index.add(["a"], [random_features(RNG, 5)])
    index.save(tmp_path)
    manifest = json.loads((tmp_path / "index.json").read_text())
    assert manifest["header"]["config"] == old
    assert (manifest.pop("crc32"), manifest["version"]) == (
        zlib.crc32(json.dumps(manifest, sort_keys=True).encode()),
        1,
    )
    assert AsmkIndex.load(tmp_path, codebook).config == config
