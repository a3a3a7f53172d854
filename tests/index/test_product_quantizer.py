from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index import Codebook, ProductQuantizer, product_quantizer
from helpers import random_features

RNG = np.random.default_rng(0)
CODEBOOK = Codebook(random_features(RNG, 12).descriptors)
DATA = random_features(RNG, 400).descriptors


def chosen_levels(vectors: np.ndarray, quantizer: ProductQuantizer) -> np.ndarray:
    """The nearest level of each part, one vector at a time; ties go to the lowest."""
    dim, parts = quantizer.dim, quantizer.parts
    out = []
    for x in vectors.astype(np.float64):
        row = []
        for m in range(parts):
            part = slice(m * dim // parts, (m + 1) * dim // parts)
            squared = [((x[part] - level[part]) ** 2).sum() for level in quantizer.levels.astype(np.float64)]
            row.append(int(np.argmin(squared)))
        out.append(row)
    return np.array(out, np.int64).reshape(len(vectors), parts)


@given(
    seed=st.integers(0, 2**32),
    n=st.integers(0, 20),
    shape=st.sampled_from([(40, 10, 5), (40, 40, 1), (7, 3, 8), (8, 8, 8), (1, 1, 3), (65, 10, 6)]),
    values=st.sampled_from(["normal", "ties", "huge"]),
)
@settings(deadline=None)
def test_codes_equal_the_oracle(seed: int, n: int, shape: tuple[int, int, int], values: str) -> None:
    rng = np.random.default_rng(seed)
    dim, parts, bits = shape

    def draw(rows: int) -> np.ndarray:
        if values == "ties":
            return rng.integers(-1, 2, (rows, dim)).astype(np.float32)
        return ((1e14 if values == "huge" else 1.0) * rng.normal(size=(rows, dim))).astype(np.float32)

    quantizer = ProductQuantizer(draw(1 << bits), parts, "x")
    vectors = draw(n)
    codes, wanted = quantizer.encode(vectors), chosen_levels(vectors, quantizer)
    assert (codes.shape, codes.dtype) == ((n, -(-parts * bits // 8)), np.uint8)
    for code, levels in zip(codes, wanted, strict=True):
        assert int.from_bytes(code.tobytes(), "little") == sum(
            int(level) << (bits * m) for m, level in enumerate(levels)
        )
    part = np.repeat(np.arange(parts), [(m + 1) * dim // parts - m * dim // parts for m in range(parts)])
    np.testing.assert_array_equal(quantizer.decode(codes), quantizer.levels[wanted[:, part], np.arange(dim)])


def test_training_lowers_the_error_and_repeats_itself() -> None:
    quantizer = ProductQuantizer.train(DATA, CODEBOOK)
    assert (quantizer.bits, quantizer.code_bytes, quantizer.codebook) == (50, 7, CODEBOOK.hash)
    left = DATA - CODEBOOK.centroids[CODEBOOK.assign(DATA)[:, 0]]

    def error(other: ProductQuantizer) -> float:
        return float(((left - other.decode(other.encode(left))) ** 2).sum())

    drawn = ProductQuantizer(left[:32], 10, CODEBOOK.hash)
    assert error(quantizer) < 0.7 * error(drawn)
    assert quantizer == ProductQuantizer.train(DATA, CODEBOOK)
    assert quantizer != ProductQuantizer.train(DATA, CODEBOOK, seed=1)
    assert len({quantizer, ProductQuantizer.train(DATA, CODEBOOK), drawn}) == 2
    assert quantizer != 3
    assert "10 parts x 32 levels, 40-D" in repr(quantizer)


def test_training_takes_a_sample_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_quantizer, "_SAMPLE", 4)
    one = ProductQuantizer.train(DATA, CODEBOOK, levels=8)
    assert one == ProductQuantizer.train(DATA, CODEBOOK, levels=8)
    assert one.levels.shape == (8, 40)


def test_equal_descriptors() -> None:
    same = np.repeat(DATA[:1], 50, axis=0)
    quantizer = ProductQuantizer.train(same, CODEBOOK)
    left = same - CODEBOOK.centroids[CODEBOOK.assign(same)[:, 0]]
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(left)), left, atol=1e-3)


def test_save_and_load(tmp_path: Path) -> None:
    quantizer = ProductQuantizer.train(DATA, CODEBOOK, parts=3, levels=4)
    path = tmp_path / "pq.safetensors"
    quantizer.save(path)
    again = ProductQuantizer.load(path)
    assert again == quantizer
    assert (again.parts, again.codebook) == (3, CODEBOOK.hash)
    np.testing.assert_array_equal(again.levels, quantizer.levels)
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[-1] ^= 1
    for bad, message in [
        (bytes(damaged), "damaged"),
        (good[:-1], "cannot be read"),
        (b"", "cannot be read"),
        (good.replace(b'"version":"1"', b'"version":"9"'), "format version 9"),
        (good.replace(b'"parts":"3"', b'"parts":"x"'), "cannot be read"),
        (good.replace(b'"parts":"3"', b'"parts":"2"'), "damaged"),
        (good.replace(b'"parts":"3"', b'"parts":"0"'), "cannot be read"),
    ]:
        path.write_bytes(bad)
        with pytest.raises(FormatError, match=message):
            ProductQuantizer.load(path)
    with pytest.raises(FormatError, match="cannot be read"):
        ProductQuantizer.load(tmp_path / "none")
    CODEBOOK.save(path)
    with pytest.raises(FormatError, match="not a product quantiser"):
        ProductQuantizer.load(path)
    with pytest.raises(FormatError, match="cannot be written"):
        quantizer.save(tmp_path / "no" / "folder")


def test_refuses() -> None:
    for levels in (0, 1, 3, 512):
        with pytest.raises(ConfigError, match="levels must be"):
            ProductQuantizer.train(DATA, CODEBOOK, levels=levels)
    for parts in (0, 41):
        with pytest.raises(ConfigError, match="parts must be"):
            ProductQuantizer.train(DATA, CODEBOOK, parts=parts)
        with pytest.raises(ConfigError, match="parts must be"):
            ProductQuantizer(DATA[:4], parts, "x")
    with pytest.raises(ConfigError, match="take 80 bits"):
        ProductQuantizer.train(DATA, CODEBOOK, parts=20, levels=16)
    with pytest.raises(ConfigError, match="at least 1"):
        ProductQuantizer.train(DATA, CODEBOOK, iterations=0)
    with pytest.raises(FeatureError, match="32 levels need at least as many descriptors, got 31"):
        ProductQuantizer.train(DATA[:31], CODEBOOK)
    with pytest.raises(FeatureError, match="NaN"):
        ProductQuantizer.train(DATA * np.nan, CODEBOOK)
    with pytest.raises(MismatchError, match="39 dimensions"):
        ProductQuantizer.train(DATA[:, :39], CODEBOOK)
    with pytest.raises(FeatureError, match="levels must be"):
        ProductQuantizer(DATA[:3], 10, "x")
    quantizer = ProductQuantizer(DATA[:4], 10, "x")
    with pytest.raises(MismatchError, match="39 dimensions"):
        quantizer.encode(DATA[:, :39])
    with pytest.raises(FeatureError, match="NaN"):
        quantizer.encode(DATA * np.nan)
    for codes in (np.zeros((2, 2), np.uint8), np.zeros(3, np.uint8), np.zeros((2, 3), np.int64)):
        with pytest.raises(FeatureError, match="codes must be"):
            quantizer.decode(codes)
