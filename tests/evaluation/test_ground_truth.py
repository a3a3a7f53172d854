from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import DataError, FormatError
from delf_engine.evaluation import SETUPS, GroundTruth, load_ground_truth, restrict, save_ground_truth
from helpers import raises

# --------------------------------------------------------------------------------------------- the ground truth


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("a", "b", "a")}, "names.*'a'"),
        ({"names": "abc"}, "names"),
        ({"names": (1, 2, 3)}, "names"),
        ({"query_names": ("q", "r")}, "boxes.*2"),
        ({"boxes": [[0, 0, 1]]}, "boxes"),
        ({"boxes": [[0, 0, 1, np.nan]]}, "boxes.*NaN"),
        ({"easy": ([0], [1])}, "easy.*1"),
        ({"easy": ([3],)}, "query q: index 3"),
        ({"junk": ([-1],)}, "index -1"),
        ({"junk": ([0],)}, "query q: image 0.*2 times"),
        ({"hard": ([1, 1],)}, "image 1.*2 times"),
        ({"hard": ([0.5],)}, "hard"),
    ],
    ids=str,
)
def test_what_is_no_ground_truth(changes: dict[str, Any], message: str) -> None:
    good = {
        "names": ("a", "b", "c"),
        "query_names": ("q",),
        "boxes": [[0, 0, 1, 1]],
        "easy": ([0],),
        "hard": ([1],),
        "junk": ([2],),
    }
    GroundTruth(**good)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        GroundTruth(**{**good, **changes})  # type: ignore[arg-type]


def test_restrict(truth: GroundTruth) -> None:
    part = restrict(truth, ["h", "d", "b", "f", "a"], ["q1", "q0"])
    assert part.names == ("h", "d", "b", "f", "a")
    assert part.query_names == ("q1", "q0")
    assert part.boxes.tolist() == [[1, 1, 2, 2.5], [0, 0, 5, 5]]
    assert [e.tolist() for e in part.easy] == [[], [2, 4]]
    assert [h.tolist() for h in part.hard] == [[0], []]
    assert [j.tolist() for j in part.junk] == [[], [1]]
    everything = restrict(truth, truth.names, truth.query_names)
    assert all(np.array_equal(a, b) for a, b in zip(everything.easy, truth.easy, strict=True))


@pytest.mark.parametrize(
    ("names", "queries", "message"),
    [
        (["a", "x"], ["q0"], "'x'.*gallery"),
        (["a"], ["q9"], "'q9'.*queries"),
        (["a", "a"], ["q0"], "names.*'a'"),
        (["a"], ["q0", "q0"], "query_names.*'q0'"),
        ("abc", ["q0"], "names"),
    ],
)
def test_restrict_to_what_is_not_there(truth: GroundTruth, names: Any, queries: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        restrict(truth, names, queries)


# --------------------------------------------------------------------------------------------------- the files


def official_like(**changes: Any) -> dict[str, Any]:
    query = {"bbx": [1, 2.5, 30, 40], "easy": [0], "hard": [1], "junk": [2]}
    return {"imlist": ["a", "b", "c"], "qimlist": ["q"], "gnd": [query], **changes}


def saved(path: Path, content: Any) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_load_ground_truth(tmp_path: Path, protocol: int) -> None:
    truth = load_ground_truth(saved(tmp_path / "gnd.pkl", pickle.dumps(official_like(), protocol)))
    assert (truth.names, truth.query_names) == (("a", "b", "c"), ("q",))
    assert truth.boxes.tolist() == [[1, 2.5, 30, 40]]
    assert [int(lists[0][0]) for lists in (truth.easy, truth.hard, truth.junk)] == [0, 1, 2]


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "was-here"
    content = pickle.dumps(official_like(imlist=Malicious(mark)), protocol)
    with raises(FormatError, "evil.pkl"):
        load_ground_truth(saved(tmp_path / "evil.pkl", content))
    assert not mark.exists()
    pickle.loads(content)  # noqa: S301  # the same bytes do run it when they are trusted
    assert mark.exists()


@pytest.mark.parametrize(
    "asked",
    [Path("x"), np.zeros(3), len, io.BytesIO(b""), Exception("x"), {1, 2}],
    ids=lambda value: type(value).__name__,
)
def test_nothing_but_plain_values(tmp_path: Path, asked: Any) -> None:
    content = pickle.dumps({"imlist": asked}, 2)
    with raises(FormatError, "gnd.pkl"):
        load_ground_truth(saved(tmp_path / "gnd.pkl", content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps(official_like())[:-40],
        [],
        3,
        {"gnd": []},
        official_like(imlist=["a", "a", "c"]),
        official_like(imlist=["a"]),
        official_like(qimlist=[]),
        official_like(gnd=[{"bbx": [1, 2, 3, 4]}]),
        official_like(gnd=[{"bbx": [1, 2, 3], "easy": [], "hard": [], "junk": []}]),
        official_like(gnd=None),
    ],
    ids=range(12),
)
def test_files_that_are_no_ground_truth(tmp_path: Path, content: Any) -> None:
    with raises(FormatError, "odd.pkl"):
        load_ground_truth(saved(tmp_path / "odd.pkl", content))


def test_damaged_files_are_a_format_error_or_a_ground_truth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = pickle.dumps(official_like(), 2)
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            load_ground_truth(saved(tmp_path / "gnd.pkl", bytes(damaged)))
        except FormatError:
            continue


def test_a_damaged_memo_does_not_take_the_machines_memory(tmp_path: Path) -> None:
    content = b"\x80\x02]r\xff\xff\xff\x7f."  # an empty list, to be remembered as number 2,147,483,647
    with raises(FormatError, "2147483647"):
        load_ground_truth(saved(tmp_path / "gnd.pkl", content))


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pkl", tmp_path):
        with raises(FormatError, str(path)):
            load_ground_truth(path)


def test_the_official_files(data: Path) -> None:
    oxford = load_ground_truth(data / "revisited" / "gnd_roxford5k.pkl")
    paris = load_ground_truth(data / "revisited" / "gnd_rparis6k.pkl")
    assert (len(oxford), len(oxford.names)) == (70, 4993)
    assert (len(paris), len(paris.names)) == (70, 6322)
    evaluated = {setup: sum(len(p) > 0 for p in oxford.positives_of(setup)) for setup in SETUPS}
    assert evaluated == {"easy": 68, "medium": 70, "hard": 70}


# -------------------------------------------------------------------------------------------------- written files


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
        with raises(DataError, "gnd.pkl"):
            save_ground_truth(path, truth)
    folder = tmp_path / "folder.pkl"
    folder.mkdir()
    with raises(DataError, "folder.pkl"):
        save_ground_truth(folder, truth)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.pkl"]
