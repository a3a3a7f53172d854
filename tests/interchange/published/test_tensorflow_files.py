"""The readers of TensorFlow's formats, on files that it wrote (``data/make_files.py``) and on forged ones."""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delf_engine.errors import FormatError
from delf_engine.interchange.messages import BundleHeaderProto, TrackableObjectGraph
from delf_engine.interchange.published.tensorflow_files import (
    OBJECT_GRAPH,
    ObjectGraph,
    TensorBundle,
    bundle_prefix,
    crc32c,
    mask,
    read_table,
)
from helpers import raises
from interchange.published.data.weights import keras_weights
from interchange.published.forging import HEADER, MAGIC, entry, sealed, varint, write_index

DATA = Path(__file__).parent / "data"
PREFIXES = {
    "slim_delf": "slim_delf/variables/variables",
    "keras_delg": "keras_delg/variables/variables",
    "keras_training": "keras_training/delf_weights-1",
    "sharded": "sharded/model",
    "many": "many/model",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What TensorFlow wrote."""
    with tarfile.open(DATA / "files.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture(scope="module")
def expected() -> dict[str, npt.NDArray[Any]]:
    """What TensorFlow's own reader finds."""
    with np.load(DATA / "expected.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("model", ["slim_delf", "keras_delg", "keras_training", "many"])
def test_every_float_is_as_tensorflow_reads_it(
    files: Path, expected: dict[str, npt.NDArray[Any]], model: str
) -> None:
    bundle = TensorBundle(files / PREFIXES[model])
    names = expected[f"{model}:names"].tolist()
    assert set(names) <= set(bundle)
    assert len(bundle) - len(names) < 6  # counters, the graph of objects
    got = [bundle[name] for name in names]
    assert {array.dtype for array in got} == {np.dtype(np.float32)}
    if model == "many":  # several blocks of the index
        assert (files / "many" / "model.index").stat().st_size > 1 << 18
    np.testing.assert_array_equal(np.concatenate([array.ravel() for array in got]), expected[f"{model}:values"])


def test_shards_and_all_types(files: Path, expected: dict[str, npt.NDArray[Any]]) -> None:
    bundle = TensorBundle(files / PREFIXES["sharded"])
    assert len(list((files / "sharded").glob("model.data-*-of-00003"))) == 3
    for name in ("float16", "float32", "float64", "int32", "int64", "step", "empty"):
        want = expected[f"sharded:net/{name}"]
        got = bundle[f"net/{name}"]
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes()
    assert bundle.text("net/word") == expected["sharded:net/word"].tobytes()
    for name in ("bfloat16", "bool", "words", "word", "parts"):
        with raises(FormatError, f"net/{name}"):
            bundle[f"net/{name}"]
    for name in ("words", "step"):
        with raises(FormatError, f"net/{name}"):
            bundle.text(f"net/{name}")


@pytest.mark.parametrize(("model", "width"), [("keras_delg", 32), ("keras_training", 32)])
def test_paths_of_the_graph_of_objects(files: Path, model: str, width: int) -> None:
    bundle = TensorBundle(files / PREFIXES[model])
    graph = ObjectGraph(bundle.text(OBJECT_GRAPH), "g")
    root = graph.find(("backbone", "attention"))
    assert root is not None
    weights = keras_weights(1 if model == "keras_delg" else 2, width=width, autoencoder=model == "keras_delg")
    for path, value in weights.items():
        key = graph.key(root, path)
        assert key is not None
        np.testing.assert_array_equal(bundle[key], value)
    assert graph.key(root, "backbone/conv1") is None  # an object, no variable
    assert graph.key(root, "backbone/nothing/kernel") is None
    assert (graph.child(root, "backbone/subsampling_layer") is not None) == (model == "keras_delg")
    assert graph.find(("nothing",)) is None


def test_where_a_model_lies(files: Path) -> None:
    folder, prefix = files / "slim_delf", files / PREFIXES["slim_delf"]
    for source in (folder, folder / "variables", prefix, f"{prefix}.index"):
        assert bundle_prefix(source) == prefix
    with raises(FormatError, str(files)):
        bundle_prefix(files)


# ----------------------------------------------------------------------------------------------- damaged files


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_or_the_end_of_the_index_is_missed(files: Path, data: st.DataObject) -> None:
    path = files / "sharded" / "model.index"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 49))] ^= 1 << data.draw(st.integers(0, 7))  # the footer has padding
    if data.draw(st.booleans()):
        bad = bytearray(good)[: data.draw(st.integers(0, len(good) - 1))]
    path.write_bytes(bad)
    try:
        with raises(FormatError, "model.index"):
            TensorBundle(files / "sharded" / "model")
    finally:
        path.write_bytes(good)


def test_a_changed_or_missing_byte_of_the_data_is_found(files: Path) -> None:
    bundle = TensorBundle(files / PREFIXES["keras_delg"])
    path = Path(f"{files / PREFIXES['keras_delg']}.data-00000-of-00001")
    good = path.read_bytes()
    names = [name for name in bundle if name != OBJECT_GRAPH]

    def readable() -> int:
        count = 0
        for read in (*(lambda name=name: bundle[name] for name in names), lambda: bundle.text(OBJECT_GRAPH)):
            try:
                read()
                count += 1
            except FormatError as error:
                assert str(path) in str(error)  # noqa: PT017
        return count

    assert readable() == len(bundle)
    for at in (0, 5, len(good) // 3, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        assert readable() == len(bundle) - 1
    path.write_bytes(good[:-1])
    assert readable() == len(bundle) - 1
    path.unlink()
    assert readable() == 0


# ------------------------------------------------------------------------------------------------ forged files


@pytest.mark.parametrize(
    ("entries", "compression", "fact"),
    [
        ({b"": HEADER, b"w": entry()}, 0, "w"),  # without its checksum
        ({b"": HEADER, b"w": entry(shape=(3,))}, 0, "(3,)"),
        ({b"": HEADER, b"w": entry(shape=(-2,))}, 0, "(-2,)"),
        ({b"": HEADER, b"w": entry(dtype=23)}, 0, "23"),
        ({b"": HEADER, b"w": entry(offset=1)}, 0, "byte 9"),
        ({b"": HEADER, b"w": entry(offset=-1)}, 0, "w"),
        ({b"": HEADER, b"w": entry(shard_id=7)}, 0, "data-00007-of-00001"),
        ({b"": HEADER, b"w": b"\xff"}, 0, "BundleEntryProto"),
        ({b"w": b""}, 0, "header"),
        ({b"": BundleHeaderProto(endianness=1).SerializeToString()}, 0, "big-endian"),
        ({b"": HEADER}, 1, "compressed"),
        ({b"": b"\xff"}, 0, "BundleHeaderProto"),
    ],
)
def test_forged_files_that_cannot_be_read(
    tmp_path: Path, entries: dict[bytes, bytes], compression: int, fact: str
) -> None:
    prefix = tmp_path / "x"
    good = {b"": HEADER, b"w": entry(crc32c=mask(crc32c(bytes(8))))}
    Path(f"{prefix}.data-00000-of-00001").write_bytes(bytes(8))
    write_index(prefix, good)
    np.testing.assert_array_equal(TensorBundle(prefix)["w"], [0, 0])
    write_index(prefix, entries, compression=compression)
    with raises(FormatError, fact):
        TensorBundle(prefix)["w"]


@pytest.mark.parametrize(
    "content",
    [
        b"\0\0\0",
        struct.pack("<I", 9),
        bytes([5, 1, 1]) + b"kv" + struct.pack("<II", 0, 1),
        bytes([0, 1, 99]) + b"kv" + struct.pack("<II", 0, 1),
        b"\x80" * 12 + struct.pack("<II", 0, 1),
    ],
)
def test_blocks_that_lie(content: bytes) -> None:
    foot = varint(0, len(content), 0, len(content)).ljust(40, b"\0") + MAGIC
    with raises(FormatError, "t:"):
        read_table(sealed(content) + foot, "t")
    with raises(FormatError, "t:"):
        read_table(varint(2**40, 10, 0, 0).ljust(40, b"\0") + MAGIC, "t")


def test_graphs_that_lie() -> None:
    graph = TrackableObjectGraph()
    node = graph.nodes.add()
    node.children.add(node_id=0, local_name="self")
    assert ObjectGraph(graph.SerializeToString(), "g").find(("other",)) is None  # a circle
    assert ObjectGraph(b"", "g").find(("net",)) is None
    for wrong in (5, -1):
        node.children.add(node_id=wrong, local_name="x")
        with raises(FormatError, "g:"):
            ObjectGraph(graph.SerializeToString(), "g")
        node.children.pop()
    with raises(FormatError, "TrackableObjectGraph"):
        ObjectGraph(b"\xff", "g")


@pytest.mark.parametrize(
    ("data", "expected"),  # RFC 3720, B.4, and the usual check value
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_known_checksums(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
