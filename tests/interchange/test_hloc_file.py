from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DelfEngineWarning, FormatError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.interchange import export_features, read_hloc
from helpers import raises, random_features

h5py = pytest.importorskip("h5py")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "features.h5"


def other_extractor(path: Path, name: str = "a.jpg", **changes: Any) -> Path:
    """Write what hloc does for an extractor without scales, in half precision and any order; None leaves out."""
    values: dict[str, Any] = {
        "keypoints": np.array([[1, 2], [3, 4], [5, 6]], np.float16),
        "descriptors": np.eye(4, 3, dtype=np.float16),
        "scores": np.array([0.25, 1, 0.5], np.float16),
        "image_size": np.array([20, 10]),
        **changes,
    }
    with h5py.File(str(path), "a", libver="latest") as handle:
        group = handle.create_group(name)
        for key, value in values.items():
            if value is not None:
                group.create_dataset(key, data=value)
        if values["keypoints"] is not None:
            group["keypoints"].attrs["uncertainty"] = 1.5
    return path


# ------------------------------------------------------------------------------------------------------- writing


def test_layout_as_hloc_reads_it(file: Path, rng: np.random.Generator) -> None:
    features = random_features(rng, 7)
    assert export_features("hloc", file, [("db/Zürich 東京/a.jpg", features)]) == 1
    with h5py.File(file, "r", libver="latest") as handle:
        group = handle["db/Zürich 東京/a.jpg"]
        assert set(group) == {"keypoints", "descriptors", "scores", "scales", "image_size"}
        assert {key: (group[key].shape, group[key].dtype.str) for key in group} == {
            "keypoints": ((7, 2), "<f4"),
            "descriptors": ((40, 7), "<f4"),
            "scores": ((7,), "<f4"),
            "scales": ((7,), "<f4"),
            "image_size": ((2,), "<i8"),
        }
        np.testing.assert_array_equal(group["keypoints"][()], features.keypoints)
        np.testing.assert_array_equal(group["descriptors"][()], features.descriptors.T)
        np.testing.assert_array_equal(group["image_size"][()], [640, 480])
        assert "uncertainty" not in group["keypoints"].attrs  # hloc takes 1 then


names = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=3,
).map("/".join)


@settings(max_examples=30)
@given(st.lists(names, unique=True, max_size=4), st.integers(0, 2**32), st.booleans())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, ids: list[str], seed: int, half: bool) -> None:
    rng = np.random.default_rng(seed)
    parts = {"keypoints", "descriptors", "scores", "scales", "image_size"}
    if any(parts & set(name.split("/")) for name in ids):
        return
    items = {name: random_features(rng, int(rng.integers(0, 4)), int(rng.integers(1, 9))) for name in ids}
    path = tmp_path_factory.mktemp("round") / "x.h5"
    assert export_features("hloc", path, items.items(), half=half) == len(items)
    back = dict(read_hloc(path))
    assert set(back) == set(items)
    for name, features in back.items():
        if half:
            assert features.image_size == items[name].image_size
            for key in ("keypoints", "scales"):
                np.testing.assert_array_equal(getattr(features, key), getattr(items[name], key))
            for key in ("scores", "descriptors"):
                np.testing.assert_allclose(getattr(features, key), getattr(items[name], key), atol=2e-3, rtol=1e-3)
        else:
            assert features == items[name]
    assert [name for name, _ in read_hloc(path, reversed(ids))] == ids[::-1]


def test_no_image_and_no_feature_and_huge_values(file: Path) -> None:
    assert export_features("hloc", file, []) == 0
    assert list(read_hloc(file)) == []
    huge = LocalFeatures(np.float32([[3e38, -3e38]]), [1e-38], [3e38], np.float32([[1]]), (2**40, 1))  # type: ignore[arg-type]
    none = LocalFeatures.empty((5, 6), 128)
    assert export_features("hloc", file, [("huge", huge), ("none", none)], replace=True) == 2
    assert dict(read_hloc(file)) == {"huge": huge, "none": none}
    with raises(FormatError, "'huge'", "65504"):
        export_features("hloc", file, [("none", none), ("huge", huge)], half=True, replace=True)
    assert len(list(read_hloc(file))) == 2


def test_a_name_that_is_a_folder_of_others(file: Path, rng: np.random.Generator) -> None:
    items = {"a/b": random_features(rng, 2), "a": random_features(rng, 3), "a/b/c": random_features(rng, 1)}
    export_features("hloc", file, items.items())
    assert dict(read_hloc(file)) == items
    with raises(FormatError, str(file)):
        export_features("hloc", file, [(name, items["a"]) for name in ("a", "a/keypoints")], replace=True)
    assert len(list(read_hloc(file))) == 3


def test_a_name_that_is_not_utf_8_is_left_out(file: Path, rng: np.random.Generator) -> None:
    one = random_features(rng, 2)
    with pytest.warns(DelfEngineWarning, match=r"'x\\udc80'"):
        assert export_features("hloc", file, [("x\udc80", one), ("y", one)]) == 1
    assert dict(read_hloc(file)) == {"y": one}


def test_one_image_at_a_time_and_all_or_none(file: Path, rng: np.random.Generator) -> None:
    one = random_features(rng, 3)

    def items(fail: bool) -> Iterator[tuple[str, LocalFeatures]]:
        for i in range(5):
            assert not file.exists()
            yield str(i), one
        if fail:
            raise KeyError("from the caller")

    with raises(KeyError, "from the caller"):
        export_features("hloc", file, items(True))
    assert list(file.parent.iterdir()) == []
    assert export_features("hloc", file, items(False)) == 5
    with raises(FormatError, str(file)):
        export_features("hloc", file, [])
    with raises(FormatError, str(file.parent)):
        export_features("hloc", file.parent, [], replace=True)
    (file.parent / "plain").write_text("x")
    with raises(FormatError, str(file.parent)):
        export_features("hloc", file.parent / "plain" / "x.h5", [])
    reader = read_hloc(file)
    assert next(reader) == ("0", one)
    reader.close()  # type: ignore[attr-defined]
    assert export_features("hloc", file, [("/abs/./a.jpg", one), ("../b.jpg", one)], replace=True) == 2
    assert [name for name, _ in read_hloc(file)] == ["abs/a.jpg", "b.jpg"]
    assert sorted(p.name for p in file.parent.iterdir()) == ["features.h5", "plain"]


# ------------------------------------------------------------------------------------------------------- reading


def test_a_file_of_another_extractor(file: Path) -> None:
    other_extractor(file, "x/a.jpg")
    other_extractor(file, "x/b.jpg", scores=None, image_size=None, oris=np.zeros(3))
    (_, a), (_, b) = read_hloc(file)
    assert a.scores.tolist() == [1, 0.5, 0.25]
    assert a.keypoints.tolist() == [[3, 4], [5, 6], [1, 2]]
    np.testing.assert_array_equal(a.descriptors, np.eye(4)[[1, 2, 0]])
    assert (a.scales.tolist(), a.image_size) == ([1, 1, 1], (20, 10))
    assert b.scores.tolist() == [1, 1, 1]
    assert b.keypoints.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert b.image_size == (6, 7)
    assert [name for name, _ in read_hloc(file, ["/x/b.jpg"])] == ["/x/b.jpg"]
    with raises(UnknownIdError, "'x/c.jpg'"):
        read_hloc(file, ["x/a.jpg", "x/c.jpg"])
    with raises(ConfigError, "names"):
        read_hloc(file, "x/a.jpg")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"descriptors": None}, "descriptors"),
        ({"descriptors": np.diag([1.0, 2.0, 3.0])}, "descriptors"),
        ({"descriptors": np.eye(3, 4)}, "transposed"),
        ({"descriptors": np.eye(5, 4)}, "(5, 4)"),
        ({"descriptors": np.empty((0, 3))}, "descriptors"),
        ({"keypoints": np.zeros(3)}, "keypoints"),
        ({"keypoints": np.zeros((3, 3))}, "keypoints"),
        ({"keypoints": np.array([[b"x", b"y"]] * 3)}, "keypoints"),
        ({"keypoints": h5py.Empty("f4")}, "keypoints"),
        ({"keypoints": np.full((3, 2), np.nan)}, "keypoints"),
        ({"scores": np.zeros(2)}, "scores"),
        ({"scores": np.array([1, np.nan, 2])}, "scores"),
        ({"scales": np.zeros(3)}, "scales"),
        ({"scales": np.zeros((3, 1))}, "scales"),
        ({"image_size": np.array([5])}, "image_size"),
        ({"image_size": np.array([np.inf, 5])}, "image_size"),
        ({"image_size": np.array([0, 5])}, "image_size"),
    ],
)
def test_images_that_are_not_as_described(file: Path, changes: dict[str, Any], field: str) -> None:
    other_extractor(file, "stretched", descriptors=np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(next(read_hloc(file, normalise=True))[1].descriptors, np.eye(3)[[1, 2, 0]])
    other_extractor(file, **changes)
    with raises(FormatError, f"{file}: 'a.jpg': ", field):
        list(read_hloc(file, ["a.jpg"]))


def test_files_of_another_kind(file: Path) -> None:
    file.write_bytes(b"no HDF5")
    with raises(FormatError, str(file)):
        read_hloc(file)
    file.unlink()
    other_extractor(file, keypoints=None, descriptors=None, scores=None, global_descriptor=np.ones(9))
    with raises(FormatError, str(file)):
        read_hloc(file)


def test_cut_and_changed_files_raise_nothing_else(tmp_path: Path, rng: np.random.Generator) -> None:
    good = tmp_path / "good.h5"
    export_features("hloc", good, [("a/b.jpg", random_features(rng, 2, 3))])
    data = good.read_bytes()
    path = tmp_path / "bad.h5"
    for end in [*range(300), *range(300, len(data), 61)]:
        path.write_bytes(data[:end])
        with raises(FormatError, "bad.h5"):
            list(read_hloc(path))
    for at in rng.integers(0, len(data), 200).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :])
        with suppress(FormatError):
            list(read_hloc(path))


def test_without_h5py(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with raises(ConfigError, "delf"):
        export_features("delf", file, [], half=True)
    for action in (lambda: read_hloc(file), lambda: export_features("hloc", file, [])):
        with raises(ConfigError, "delf-engine[hdf5]"):
            action()
    assert os.listdir(file.parent) == []
