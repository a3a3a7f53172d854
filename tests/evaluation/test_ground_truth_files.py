from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, load_ground_truth, save_ground_truth


def plain(truth: GroundTruth) -> dict[str, Any]:
    """The official layout, one loop at a time."""
    queries = []
    for i in range(len(truth)):
        lists = {field: [int(v) for v in getattr(truth, field)[i]] for field in ("easy", "hard", "junk")}
        queries.append({"bbx": [float(v) for v in truth.boxes[i]], **lists})
    return {"imlist": list(truth.names), "qimlist": list(truth.query_names), "gnd": queries}


@st.composite
def truths(draw: st.DrawFn) -> GroundTruth:
    names = draw(st.lists(st.text(max_size=6), unique=True, max_size=8))
    queries = draw(st.lists(st.text(max_size=6), unique=True, max_size=4))
    number = st.floats(-1e12, 1e12)
    boxes = draw(st.lists(st.tuples(number, number, number, number), min_size=len(queries), max_size=len(queries)))
    lists: dict[str, list[np.ndarray]] = {"easy": [], "hard": [], "junk": []}
    for _ in queries:
        of = draw(st.lists(st.sampled_from([None, *lists]), min_size=len(names), max_size=len(names)))
        for field, each in lists.items():
            each.append(np.array([i for i, found in enumerate(of) if found == field], np.int64))
    return GroundTruth(tuple(names), tuple(queries), np.array(boxes).reshape(-1, 4), *map(tuple, lists.values()))


def only_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(only_plain(part) for pair in value.items() for part in pair)
    return all(map(only_plain, value)) if type(value) is list else type(value) in (str, int, float)


@settings(max_examples=20)
@given(truths())
def test_what_is_written_loads_back_equal(tmp_path_factory: pytest.TempPathFactory, truth: GroundTruth) -> None:
    folder = tmp_path_factory.mktemp("truth")
    save_ground_truth(folder / "gnd.pkl", truth)
    data = (folder / "gnd.pkl").read_bytes()
    content = pickle.loads(data)  # noqa: S301 - as the published code does, on a file of our own
    assert content == plain(truth)
    assert only_plain(content)
    assert plain(load_ground_truth(folder / "gnd.pkl")) == plain(truth)
    assert [path.name for path in folder.iterdir()] == ["gnd.pkl"]


def test_an_official_file_is_written_as_it_was_read(data: Path, tmp_path: Path) -> None:
    official = data / "revisited" / "gnd_roxford5k.pkl"
    save_ground_truth(tmp_path / "copy.pkl", load_ground_truth(official))
    copy, original = (pickle.loads(p.read_bytes()) for p in (tmp_path / "copy.pkl", official))  # noqa: S301
    assert copy == original


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    truth = GroundTruth(("a",), ("q",), np.zeros((1, 4)), (np.array([0]),), (np.array([]),), (np.array([]),))
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing" / "gnd.pkl", tmp_path / "file" / "gnd.pkl"):
        with pytest.raises(DataError, match=r"gnd\.pkl.*make room"):
            save_ground_truth(path, truth)
    folder = tmp_path / "folder.pkl"
    folder.mkdir()
    with pytest.raises(DataError, match=r"folder\.pkl"):
        save_ground_truth(folder, truth)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.pkl"]
