import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delf_engine.errors import FormatError
from delf_engine.importing.bundle import TensorBundle, bundle_prefix
from delf_engine.importing.graph import ObjectGraph
from delf_engine.importing.sstable import read_table
from importing.tensorflow_files import (
    GRAPH,
    entry,
    field,
    header,
    number,
    object_graph,
    oracle_crc,
    table,
    write_bundle,
)


def some_tensors(rng: np.random.Generator) -> dict[str, np.ndarray | bytes]:
    tensors: dict[str, np.ndarray | bytes] = {
        f"net/block{i}/weights": rng.normal(size=(i, 2, 3)).astype("f4") for i in range(20)
    }
    tensors["net/step"] = np.array(2**40, np.int64)
    tensors["net/double"] = rng.normal(size=5)
    tensors["net/half"] = rng.normal(size=(2, 2)).astype("f2")
    tensors[GRAPH] = b"x" * 300
    tensors["text"] = b""
    return tensors


@pytest.fixture
def written(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray | bytes]]:
    tensors = some_tensors(rng)
    return write_bundle(tmp_path / "model" / "variables" / "variables", tensors), tensors


def test_reads_what_was_written(written: tuple[Path, dict[str, np.ndarray | bytes]]) -> None:
    prefix, tensors = written
    bundle = TensorBundle(prefix)
    assert bundle.names == sorted(tensors)
    for name, value in tensors.items():
        if isinstance(value, bytes):
            assert bundle.text(name) == value
        else:
            got = bundle.tensor(name)
            assert (got.dtype, got.shape) == (value.dtype, value.shape)
            assert got.tobytes() == value.tobytes()


@settings(max_examples=30)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=30), max_size=40),
    st.integers(1, 9),
)
def test_tables_of_any_entries(entries: dict[bytes, bytes], per_block: int) -> None:
    assert read_table(table(entries, per_block=per_block), "t") == dict(sorted(entries.items()))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_of_the_index_is_found(
    written: tuple[Path, dict[str, np.ndarray | bytes]], data: st.DataObject
) -> None:
    prefix, _ = written
    path = Path(f"{prefix}.index")
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 49))  # the footer has padding that nobody reads
    bad = bytearray(good)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    try:
        with pytest.raises(FormatError, match=r"variables\.index: "):
            TensorBundle(prefix)
    finally:
        path.write_bytes(good)


def test_a_changed_or_missing_byte_of_the_data_is_found(
    written: tuple[Path, dict[str, np.ndarray | bytes]],
) -> None:
    prefix, _ = written
    path = Path(f"{prefix}.data-00000-of-00001")
    good = path.read_bytes()
    for at in (0, 150, 305):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(FormatError, match="damaged"):
            TensorBundle(prefix).text(GRAPH)
    path.write_bytes(good[:-1])
    with pytest.raises(FormatError, match="cut off: text should end at byte"):
        TensorBundle(prefix).text("text")
    path.write_bytes(good[:-9] + bytes(9))
    with pytest.raises(FormatError, match="damaged"):
        TensorBundle(prefix).text("text")
    path.unlink()
    with pytest.raises(FormatError, match=r"data-00000-of-00001: cannot be read"):
        TensorBundle(prefix).tensor("net/half")


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "x", {"w": np.ones(10, np.float32)})
    path = Path(f"{prefix}.data-00000-of-00001")
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(FormatError, match="damaged: the checksum of w is wrong"):
        TensorBundle(prefix).tensor("w")


def test_cut_index(written: tuple[Path, dict[str, np.ndarray | bytes]]) -> None:
    path = Path(f"{written[0]}.index")
    good = path.read_bytes()
    for size in (0, 10, 47, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(FormatError, match="not the index of a TensorFlow checkpoint"):
            TensorBundle(written[0])


def test_compressed_blocks_are_refused() -> None:
    with pytest.raises(FormatError, match="is compressed"):
        read_table(table({b"a": b"1"}, compression=1), "t")


def test_blocks_that_lie() -> None:
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    far = (number(2**40) + number(10) + number(0) + number(0)).ljust(40, b"\0") + magic
    with pytest.raises(FormatError, match="reaches beyond the end of the file"):
        read_table(far, "t")
    for content, message in (
        (b"\0\0\0", "a block is too short"),
        (struct.pack("<I", 9), "a block is too short"),
        (bytes([5, 1, 1]) + b"kv" + struct.pack("<II", 0, 1), "an entry reaches beyond its block"),
        (bytes([0, 1, 99]) + b"kv" + struct.pack("<II", 0, 1), "an entry reaches beyond its block"),
    ):
        sealed = content + b"\0"
        block = sealed + struct.pack("<I", _mask(oracle_crc(sealed)))
        foot = (2 * (number(0) + number(len(content)))).ljust(40, b"\0") + magic
        with pytest.raises(FormatError, match=message):
            read_table(block + foot, "t")


def _mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (entry(1, (3,), 0, 8, 0), r"w states shape \(3,\) and 8 bytes"),
        (entry(1, (2,), 0, 8, 0, field(7, b"")), "w is stored in partitions"),
        (entry(23, (2,), 0, 8, 0), "w is of TensorFlow type 23"),
        (field(1, b"x"), "a number is not one"),
        (field(2, 3), "a message is a number"),
        (entry(1, (2**31, 2**31), 0, 2**64 - 4, 0), "a number is not one, or negative"),
        (b"\xff", "ends within a number"),
    ],
)
def test_entries_that_cannot_be_read(tmp_path: Path, value: bytes, message: str) -> None:
    (tmp_path / "x.index").write_bytes(table({b"": header(), b"w": value}))
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(8))
    with pytest.raises(FormatError, match=message):
        TensorBundle(tmp_path / "x").tensor("w")


def test_headers(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    path.write_bytes(table({b"w": b""}))
    with pytest.raises(FormatError, match="its header is missing"):
        TensorBundle(tmp_path / "x")
    path.write_bytes(table({b"": header(endianness=1)}))
    with pytest.raises(FormatError, match="big-endian"):
        TensorBundle(tmp_path / "x")


def test_shards(tmp_path: Path) -> None:
    data = np.arange(3, dtype=np.float32).tobytes()
    second = entry(1, (3,), 0, 12, _mask(oracle_crc(data)), field(3, 1))
    (tmp_path / "x.index").write_bytes(table({b"": header(shards=2), b"w": second}))
    (tmp_path / "x.data-00001-of-00002").write_bytes(data)
    np.testing.assert_array_equal(TensorBundle(tmp_path / "x").tensor("w"), [0, 1, 2])


def test_names_that_are_not_there(written: tuple[Path, dict[str, np.ndarray | bytes]]) -> None:
    bundle = TensorBundle(written[0])
    with pytest.raises(FormatError, match="has no variable nothing"):
        bundle.tensor("nothing")
    with pytest.raises(FormatError, match="net/half is not one string"):
        bundle.text("net/half")
    assert "net/half" in bundle
    assert "nothing" not in bundle


def test_where_a_model_lies(written: tuple[Path, dict[str, np.ndarray | bytes]], tmp_path: Path) -> None:
    prefix, _ = written
    for source in (tmp_path / "model", tmp_path / "model" / "variables", prefix, f"{prefix}.index"):
        assert bundle_prefix(source) == prefix
    with pytest.raises(FormatError, match="no TensorFlow model here"):
        bundle_prefix(tmp_path)


# ----------------------------------------------------------------------------------------------- the object graph


def test_paths_of_a_graph() -> None:
    graph = ObjectGraph(
        object_graph({"model/net/a": "A", "model/net/b/c": "C", "model/flag": None, "net/z": "Z"}), "g"
    )
    root = graph.find(("net", "flag"))
    assert root is not None
    assert graph.key(root, "net/a") == "A"
    assert graph.key(root, "net/b/c") == "C"
    assert graph.key(root, "net/b") is None
    assert graph.key(root, "net/q") is None
    assert graph.child(root, "flag") is not None
    assert graph.find(("nothing",)) is None
    assert ObjectGraph(b"", "g").find(("net",)) is None


def test_a_graph_may_have_circles() -> None:
    loop = field(1, field(1, field(2, b"self")))
    assert ObjectGraph(loop, "g").find(("other",)) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (field(1, field(1, field(1, 5) + field(2, b"x"))), "refers to an object that is not there"),
        (field(1, 3), "a number where a name or message should be"),
        (field(1, field(1, field(1, b"x"))), "an object's number is not one"),
        (field(1, field(2, field(1, 4))), "a number where a name"),
    ],
)
def test_damaged_graphs(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        ObjectGraph(data, "g")
