from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delf_engine.errors import ConfigError, FormatError
from delf_engine.interchange.messages import read_datum
from delf_engine.interchange.published.network import read_pca
from helpers import raises
from interchange.protobuf_bytes import field, number, parsed, serialise_datum, write_datum

# What protobuf's own serialiser writes for DatumProto, shape (2, 150): dims packed, then 300 floats packed.
GOLDEN_HEAD = bytes.fromhex("0a05 0a03 02 9601 12b3090a b009")


def test_bytes_that_protobuf_writes(tmp_path: Path) -> None:
    array = np.arange(300, dtype=np.float32).reshape(2, 150)
    with raises(FormatError, "x.datum"):
        read_datum(tmp_path / "x.datum")
    (tmp_path / "x.datum").write_bytes(GOLDEN_HEAD + array.tobytes())
    assert serialise_datum(array) == GOLDEN_HEAD + array.tobytes()
    np.testing.assert_array_equal(read_datum(tmp_path / "x.datum"), array)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=200).filter(lambda s: np.prod(s) < 500),
        elements=st.floats(width=32),
    )
)
def test_round_trip_keeps_every_bit(array: np.ndarray) -> None:
    data = serialise_datum(array)
    back = parsed(read_datum, data)
    assert (back.shape, back.tobytes()) == (array.shape, array.tobytes())
    for end in range(0, len(data), 97) if array.size else ():
        with raises(FormatError, "here: "):
            parsed(read_datum, data[:end])


@given(st.binary(max_size=60))
def test_any_bytes_are_an_array_or_a_clear_error(data: bytes) -> None:
    with suppress(FormatError):
        assert parsed(read_datum, data).dtype == np.float32


@pytest.mark.parametrize(
    "data",
    [
        field(1, field(1, number(3))) + field(2, field(1, bytes(8))),  # a shape of 3, 2 values
        field(1, field(1, number(2**62) * 3)) + field(2, b""),
        field(1, field(1, number(2**64 - 1))),  # a negative dimension
        field(1, field(1, b"\0" + number(2**62) * 40)),  # no value, and no shape of an array either
        field(3, field(1, number(4))),  # whole numbers
        field(2, field(1, bytes(7))),
        b"\x0a\x7f",
        b"\x0b",
        b"\x08" + b"\xff" * 10,
        b"\x08\x80",
    ],
)
def test_hostile_bytes(data: bytes) -> None:
    with raises(FormatError, "here:"):
        parsed(read_datum, data)


# --------------------------------------------------------------------------------------------------------- PCA


@pytest.fixture
def pca_files(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray]]:
    arrays = {
        "mean": rng.normal(size=6).astype("f4"),
        "components": rng.normal(size=(6, 6)).astype("f4"),
        "variances": rng.uniform(0.1, 2, 6).astype("f4"),
    }
    write_datum(tmp_path / "mean.datum", arrays["mean"][None])  # as a row, too
    write_datum(tmp_path / "pca_proj_mat.datum", arrays["components"])
    write_datum(tmp_path / "pca_vars.datum", arrays["variances"])
    np.savez(tmp_path / "pca.npz", **arrays)
    return tmp_path, arrays


@pytest.mark.parametrize("source", ["", "pca.npz"])
def test_pca_projects_as_the_published_code(
    pca_files: tuple[Path, dict[str, np.ndarray]], rng: np.random.Generator, source: str
) -> None:
    folder, arrays = pca_files
    x = rng.normal(size=(10, 6)).astype("f4")
    plain = read_pca(folder / source, dim=4)
    np.testing.assert_array_equal(plain.mean, arrays["mean"])
    np.testing.assert_array_equal(plain.components, arrays["components"][:4])
    whitened = read_pca(folder / source, dim=4, whiten=True)
    expected = (x - arrays["mean"]) @ arrays["components"][:4].T / np.sqrt(arrays["variances"][:4])
    np.testing.assert_allclose((x - whitened.mean) @ whitened.components.T, expected, rtol=1e-5, atol=1e-6)
    assert len(read_pca(folder / source).components) == 6


def test_pca_that_does_not_fit(pca_files: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = pca_files
    with raises(ConfigError, "6", "7"):
        read_pca(folder, dim=7)
    with raises(FormatError, "nowhere"):
        read_pca(folder / "nowhere")
    write_datum(folder / "pca_vars.datum", np.zeros(6))
    with raises(FormatError, "variances"):
        read_pca(folder, whiten=True)
    write_datum(folder / "mean.datum", arrays["mean"][:5])
    with raises(FormatError, "(6, 6)", "5"):
        read_pca(folder)
    write_datum(folder / "mean.datum", np.full(6, np.nan))
    with raises(FormatError, str(folder)):
        read_pca(folder)


def test_npz_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    contents: list[dict[str, Any] | bytes | None] = [
        None,
        b"junk",
        {"mean": np.zeros(3)},
        {"mean": np.zeros(3), "components": np.array([{}], object)},
    ]
    for content in contents:
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.savez(path, **content)
        with raises(FormatError, "x.npz", "components"):
            read_pca(path)
