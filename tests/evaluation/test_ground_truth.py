from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import DataError, FormatError
from delf_engine.evaluation import SETUPS, GroundTruth, load_ground_truth, restrict

# --------------------------------------------------------------------------------------------- the ground truth


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("a", "b", "a")}, "names: 'a' stands twice"),
        ({"names": "abc"}, "names must be a list of names"),
        ({"names": (1, 2, 3)}, "names must be a list of names"),
        ({"query_names": ("q", "r")}, "boxes must be four numbers for each of the 2"),
        ({"boxes": [[0, 0, 1]]}, "boxes must be four numbers"),
        ({"boxes": [[0, 0, 1, np.nan]]}, "boxes contain NaN"),
        ({"easy": ([0], [1])}, "easy must have one list for each of the 1"),
        ({"easy": ([3],)}, "query q: index 3 is no image of a gallery of 3"),
        ({"junk": ([-1],)}, "index -1"),
        ({"junk": ([0],)}, "query q: image 0 stands in it 2 times"),
        ({"hard": ([1, 1],)}, "image 1 stands in it 2 times"),
        ({"hard": ([0.5],)}, "hard must be one-dimensional integer"),
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
        (["a", "x"], ["q0"], "'x' is not among the gallery"),
        (["a"], ["q9"], "'q9' is not among the queries"),
        (["a", "a"], ["q0"], "names: 'a' stands twice"),
        (["a"], ["q0", "q0"], "query_names: 'q0' stands twice"),
        ("abc", ["q0"], "names must be a list of names"),
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
    with pytest.raises(FormatError, match=r"evil\.pkl: .*system, and only plain values are allowed"):
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
    with pytest.raises(FormatError, match="only plain values are allowed"):
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
    with pytest.raises(FormatError, match=r"odd\.pkl: "):
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
    with pytest.raises(FormatError, match="value number 2147483647 in 9 bytes"):
        load_ground_truth(saved(tmp_path / "gnd.pkl", content))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.pkl"):
        load_ground_truth(tmp_path / "gone.pkl")
    with pytest.raises(FormatError):
        load_ground_truth(tmp_path)


def test_the_official_files(data: Path) -> None:
    oxford = load_ground_truth(data / "revisited" / "gnd_roxford5k.pkl")
    paris = load_ground_truth(data / "revisited" / "gnd_rparis6k.pkl")
    assert (len(oxford), len(oxford.names)) == (70, 4993)
    assert (len(paris), len(paris.names)) == (70, 6322)
    evaluated = {setup: sum(len(p) > 0 for p in oxford.positives_of(setup)) for setup in SETUPS}
    assert evaluated == {"easy": 68, "medium": 70, "hard": 70}
