from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delf_engine.errors import DataError, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange import export_features, read_delf
from delf_engine.interchange.delf_file import serialise_delf
from delf_engine.interchange.export import relative_name
from delf_engine.interchange.messages import DelfFeatures
from helpers import raises
from interchange.protobuf_bytes import field as block
from interchange.protobuf_bytes import number, parsed, real, serialise_datum

# Two features of two dimensions, written by hand after feature.proto and datum.proto.
GOLDEN = bytes.fromhex(
    "0a 2c"  # DelfFeatures.feature, a message of 44 bytes
    "0a 11"  # DelfFeature.descriptor, a message of 17 bytes
    "0a 03"  # DatumProto.shape, 3 bytes
    "0a 01 02"  # DatumShape.dim, packed, 1 byte: 2
    "12 0a"  # DatumProto.float_list, 10 bytes
    "0a 08"  # FloatList.value, packed, 8 bytes
    "00 00 80 3f"  # 1.0
    "00 00 00 00"  # 0.0
    "15 00 00 20 41"  # x = 10.0
    "1d 00 00 a0 40"  # y = 5.0
    "25 00 00 00 40"  # scale = 2.0
    "2d 00 00 00 00"  # orientation = 0.0: set, so written
    "35 00 00 40 3f"  # strength = 0.75
    "0a 2c"  # the next feature
    "0a 11 0a 03 0a 01 02 12 0a 0a 08"
    "00 00 00 00"  # 0.0
    "00 00 80 bf"  # -1.0
    "15 00 00 00 00"  # x = 0.0: set, so written
    "1d 00 00 00 bf"  # y = -0.5
    "25 f3 04 b5 3f"  # scale = 1.4142135
    "2d 00 00 00 00"
    "35 00 00 00 00"  # strength = 0.0
)
FEATURES = LocalFeatures(
    keypoints=np.array([[10, 5], [0, -0.5]], np.float32),
    scales=np.array([2, 2**0.5], np.float32),
    scores=np.array([0.75, 0], np.float32),
    descriptors=np.array([[1, 0], [0, -1]], np.float32),
    image_size=(11, 6),
)


def datum(values: list[float]) -> bytes:
    return serialise_datum(np.array(values, np.float32))


def feature(values: list[float], x: float, y: float, scale: float, strength: float) -> bytes:
    parts = [block(1, datum(values)), real(2, x), real(3, y), real(4, scale), real(5, 0.0), real(6, strength)]
    return block(1, b"".join(parts))


@st.composite
def many_features(draw: st.DrawFn) -> LocalFeatures:
    n, dim = draw(st.integers(0, 6)), draw(st.integers(1, 200))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    positive = st.floats(2**-100, 2**100, width=32)
    size = (draw(st.integers(1, 2**40)), draw(st.integers(1, 2**40)))
    axes = draw(st.lists(st.integers(0, dim - 1), min_size=n, max_size=n))
    return LocalFeatures(
        keypoints=draw(hnp.arrays(np.float32, (n, 2), elements=finite)),
        scales=draw(hnp.arrays(np.float32, n, elements=positive)),
        scores=np.sort(draw(hnp.arrays(np.float32, n, elements=finite)))[::-1],
        descriptors=np.eye(dim, dtype=np.float32)[axes] * draw(st.sampled_from([1, -1, 0.99])),
        image_size=size,
    )


def parse_delf(data: bytes, **options: Any) -> LocalFeatures:
    return parsed(read_delf, data, **options)


def bits(array: npt.NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(array).tobytes()


# ------------------------------------------------------------------------------------------------------- writing


def test_bytes_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a" / "photo.jpg.delf"
    export_features("delf", tmp_path / "a", [("photo.jpg", FEATURES)])
    assert path.read_bytes() == GOLDEN
    assert read_delf(path) == FEATURES
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


@given(many_features())
def test_round_trip_keeps_every_bit(features: LocalFeatures) -> None:
    data = serialise_delf(features)
    back = parse_delf(data, image_size=features.image_size, dim=features.dim)
    assert (len(back), back.dim, back.image_size) == (len(features), features.dim, features.image_size)
    for name in ("keypoints", "scales", "scores", "descriptors"):
        assert bits(getattr(back, name)) == bits(getattr(features, name))
    # What protobuf, which the writer does not use for each feature, reads and writes.
    message = DelfFeatures.FromString(data)
    assert message.SerializeToString() == data
    for i, one in enumerate(message.feature):
        assert [one.x, one.y] == features.keypoints[i].tolist()
        assert (one.scale, one.orientation, one.strength) == (features.scales[i], 0.0, features.scores[i])
        assert list(one.descriptor.float_list.value) == features.descriptors[i].tolist()


# ------------------------------------------------------------------------------------------------------- reading


def test_an_empty_file_is_an_image_without_features(tmp_path: Path) -> None:
    export_features("delf", tmp_path, [("x", LocalFeatures.empty((3, 4)))])
    assert (tmp_path / "x.delf").read_bytes() == b""
    assert read_delf(tmp_path / "x.delf") == LocalFeatures.empty((1, 1), 40)
    assert read_delf(tmp_path / "x.delf", image_size=(3, 4), dim=7) == LocalFeatures.empty((3, 4), 7)


def test_features_are_sorted_and_equal_scores_keep_their_order() -> None:
    data = b"".join(feature([1.0], x, 0, 1, s) for x, s in ((1, 0.5), (2, 0.9), (3, 0.5), (4, 0.9), (5, 0.1)))
    back = parse_delf(data)
    assert back.keypoints[:, 0].tolist() == [2, 4, 1, 3, 5]
    np.testing.assert_allclose(back.scores, [0.9, 0.9, 0.5, 0.5, 0.1])
    assert back.image_size == (6, 1)


@pytest.mark.parametrize(
    ("x", "y", "size"),
    [(0.0, 0.0, (1, 1)), (0.5, 10.0, (1, 11)), (10.5, 10.6, (11, 12)), (-3.0, -0.5, (1, 1)), (2.0**60, 0, None)],
)
def test_the_smallest_size_holds_the_pixels(x: float, y: float, size: tuple[int, int] | None) -> None:
    assert parse_delf(feature([1.0], x, y, 1, 1)).image_size == (size or (2**60, 1))


def test_any_order_not_packed_in_pieces_and_unknown_fields() -> None:
    loose = block(1, number(8) + number(2)) + block(2, real(1, 0.6) + real(1, -0.8))  # dim and values one by one
    first = block(2, block(1, struct.pack("<f", 0.6))) + block(9, b"new")
    second = block(2, real(1, -0.8)) + block(1, block(1, number(2)))
    x_twice = real(2, 99.0) + real(4, 2.0) + real(2, 7.0)  # the last one counts
    numbers = real(6, 0.5) + x_twice + number(12 * 8) + number(300) + real(3, 4.0)
    data = (
        block(1, numbers + block(1, loose))
        + real(5, 1.0)
        + block(1, block(1, first) + numbers + number(11 * 8 + 1) + bytes(8) + block(1, second))
    )
    back = parse_delf(data)
    assert parse_delf(GOLDEN + block(7, b""), image_size=(11, 6)) == FEATURES
    np.testing.assert_array_equal(back.descriptors, np.float32([[0.6, -0.8]] * 2))
    np.testing.assert_array_equal(back.keypoints, [[7, 4]] * 2)
    np.testing.assert_array_equal(back.scales, [2, 2])
    np.testing.assert_array_equal(back.scores, [0.5, 0.5])


def test_numbers_left_out_are_zero() -> None:
    back = parse_delf(block(1, block(1, datum([1.0])) + real(4, 1.0)))
    assert (back.keypoints.tolist(), back.scores.tolist()) == ([[0, 0]], [0])
    with raises(FormatError, "scales"):
        parse_delf(block(1, block(1, datum([1.0]))))


def test_descriptors_that_are_not_of_unit_length() -> None:
    data = feature([1.01, 0], 0, 0, 1, 2) + feature([0, 3], 0, 0, 1, 1)
    with raises(FormatError, "here: ", "row 1"):
        parse_delf(data)
    np.testing.assert_array_equal(parse_delf(data, normalise=True).descriptors, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(parse_delf(data[: len(data) // 2]).descriptors, np.float32([[1.01, 0]]))
    with raises(FormatError, "descriptor 0"):
        parse_delf(feature([0, 0], 0, 0, 1, 1), normalise=True)


def test_every_cut_is_a_shorter_file_or_a_clear_error(tmp_path: Path) -> None:
    size = len(GOLDEN) // 2
    path = tmp_path / "cut.delf"
    for end in range(1, len(GOLDEN)):
        path.write_bytes(GOLDEN[:end])
        if end == size:
            assert len(read_delf(path)) == 1
            continue
        with raises(FormatError, "cut.delf:"):
            read_delf(path)


@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 255))
def test_every_changed_byte_is_a_file_or_a_clear_error(at: int, value: int) -> None:
    with suppress(FormatError):
        parse_delf(GOLDEN[:at] + bytes([value]) + GOLDEN[at + 1 :])


@given(st.binary(max_size=80))
def test_any_bytes_are_features_or_a_clear_error(data: bytes) -> None:
    with suppress(FormatError):
        parse_delf(data)
    with suppress(FormatError):
        parse_delf(block(1, block(1, data) + real(4, 1.0)))


@pytest.mark.parametrize(
    "data",
    [
        number(8) + number(3),  # a number for a feature
        block(2, b"x"),  # no feature
        block(1, b""),  # a feature without descriptor
        feature([1], 0, 0, 1, 1) + feature([1, 0], 0, 0, 1, 1),  # of two dimensions
        block(1, number(8) + number(3)),  # a number for a descriptor
        block(1, block(1, block(1, block(1, b"\x01\x02")) + block(2, block(1, bytes(8))))),  # of shape (1, 2)
        feature([], 0, 0, 1, 1),
        feature([1], np.nan, 0, 1, 1),
        feature([1], np.inf, 0, 1, 1),
        feature([1], 0, 0, -1, 1),
        feature([1], 0, 0, 1, np.nan) + feature([1], 0, 0, 1, 1),
    ],
)
def test_hostile_bytes(data: bytes) -> None:
    with raises(FormatError, "here: "):
        parse_delf(data)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with raises(FormatError, "no.delf"):
        read_delf(tmp_path / "no.delf")
    (tmp_path / "file").write_text("x")
    (tmp_path / "out" / "b.delf").mkdir(parents=True)
    for folder, name in (("file/out", "a"), ("out", "b"), ("out", "x" * 300)):
        with raises(FormatError, str(tmp_path / folder)):
            export_features("delf", tmp_path / folder, [(name, FEATURES)], replace=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.delf"]


# ------------------------------------------------------------------------------------------------ folders of them


def test_a_folder_of_files(tmp_path: Path) -> None:
    target = tmp_path / "out"
    items = [
        ("a/Zürich 東京.jpg", FEATURES),
        ("/abs/b.png", LocalFeatures.empty((1, 1), 2)),
        ("../../c", FEATURES),
    ]
    assert export_features("delf", target, items) == 3
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["out/a/Zürich 東京.jpg.delf", "out/abs/b.png.delf", "out/c.delf"]
    assert read_delf(target / "a" / "Zürich 東京.jpg.delf") == FEATURES


def test_a_folder_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with raises(FormatError, str(tmp_path)):
        export_features("delf", tmp_path, [("a", FEATURES)])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert export_features("delf", tmp_path, [("a", FEATURES)], replace=True) == 1
    assert export_features("delf", tmp_path, [("a", LocalFeatures.empty((1, 1)))], replace=True) == 1
    assert (tmp_path / "a.delf").read_bytes() == b""
    assert (tmp_path / "mine.txt").read_text() == "x"
    with raises(FormatError, "mine.txt"):
        export_features("delf", tmp_path / "mine.txt", [], replace=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export_features("delf", empty, []) == 0


@pytest.mark.parametrize(
    ("names", "fact"),
    [
        (["a", "x/../a"], "'x/../a'"),
        (["a", "a"], "'a'"),
        ([".."], "'..'"),
        ([""], "''"),
        (["/"], "'/'"),
        (["a\0b"], "x00"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, names: list[str], fact: str) -> None:
    with raises(DataError, fact):
        export_features("delf", tmp_path / "out", [(name, FEATURES) for name in names])


@given(st.text(min_size=1, max_size=30) | st.text("./a", min_size=1, max_size=12))
def test_no_name_leaves_the_folder(name: str) -> None:
    with suppress(DataError):
        path = relative_name(name)
        assert not path.startswith("/")
        assert not {"..", ".", ""} & set(path.split("/"))
        assert relative_name(path) == path
