"""The stand-in for a revisited set: read by the evaluation, exact, always the same bits, resumed after a kill."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.revisited.synthetic import GEOMETRY, SUMMARY, Options, Record, StandIn, make, relations, shown
from delf_engine.errors import ConfigError, DataError, FormatError, ImageError, MismatchError
from delf_engine.evaluation import evaluate_setups, load_ground_truth
from delf_engine.images import load_image
from forkserver import Child
from helpers import raises, random_photo, write_image

SMALL = Options(images=60, queries=9, seed=3, side=96)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return make(tmp_path_factory.mktemp("stand-in") / "set", "small", SMALL, workers=1)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def records(folder: Path) -> dict[str, Record]:
    lines = (folder / GEOMETRY).read_text().splitlines()
    return {record.name: record for record in map(Record.from_json, lines)}


def test_the_layout_is_read_back_by_the_evaluation(small: StandIn) -> None:
    truth = load_ground_truth(small.ground_truth)
    assert (small.ground_truth.name, len(truth.names), len(truth)) == ("gnd_small.pkl", 60, 9)
    pictures = {path.stem: load_image(path).shape for path in small.pictures.iterdir()}
    assert pictures == dict.fromkeys((*truth.names, *truth.query_names), (96, 96, 3))
    assert {path.name for path in small.pictures.parent.iterdir()} == {"jpg", "gnd_small.pkl", GEOMETRY, SUMMARY}
    kinds = [record.kind for record in records(small.pictures.parent).values() if record.kind != "query"]
    assert (kinds.count("landmark"), kinds != sorted(kinds)) == (15, True)  # their order says nothing
    for box, easy, hard, junk in zip(truth.boxes, truth.easy, truth.hard, truth.junk, strict=True):
        assert (box >= 0).all()
        assert (box <= 95).all()
        assert (box[2:] - box[:2] > 30).all()
        assert len(easy) + len(hard) + len(junk) > 0
        assert all("landmark" in truth.names[i] for i in (*easy, *hard, *junk))
    perfect = [np.concatenate([e, h]) for e, h in zip(truth.easy, truth.hard, strict=True)]
    rankings = [np.concatenate([first, np.setdiff1d(np.arange(60), first)]) for first in perfect]
    assert evaluate_setups(rankings, truth)["medium"].mean_ap == 100


def test_a_marked_pixel_is_where_the_homography_says(tmp_path: Path) -> None:
    """A dot on a large photograph, which is made smaller before views are taken of it."""
    dot = (620.0, 340.0)
    photo = np.full((900, 1300, 3), 40, np.uint8)
    cv2.circle(photo, (int(dot[0]), int(dot[1])), 9, (255, 255, 255), -1)
    path = write_image(tmp_path / "dot.png", photo)
    made = make(tmp_path / "set", "dot", Options(images=40, queries=4, side=200), [path], workers=1)
    seen = 0
    for record in records(made.pictures.parent).values():
        if record.photo != 0:
            continue
        at, inside = (array[0, 0] for array in shown(record.homography[None], np.array([dot]), 200))
        picture = load_image(made.pictures / f"{record.name}.jpg").mean(2)
        bright = picture - np.median(picture)
        if not inside or not (np.abs(at - 100) < 75).all() or bright.max() < 60:
            continue
        rows, columns = np.nonzero(bright > bright.max() / 2)
        assert np.hypot(columns.mean() - at[0], rows.mean() - at[1]) < 1.2, record.name
        seen += 1
    assert seen >= 6


def test_how_much_a_view_changed_says_what_it_is() -> None:
    def record(*changes: np.ndarray) -> Record:
        return Record("x", "landmark", 0, 0, np.linalg.multi_dot([np.eye(3), np.eye(3), *changes]), "")

    def moved(x: float) -> np.ndarray:
        return np.array([[1, 0, x], [0, 1, 0], [0, 0, 1.0]])

    turn = np.array([[0, -1, 99], [1, 0, 0], [0, 0, 1.0]])
    query = record()
    box = (10.0, 10.0, 90.0, 90.0)
    others = {
        "the same": (record(), "easy"),
        "a quarter turn": (record(turn), "easy"),
        "half in sight": (record(moved(50)), "hard"),
        "a sliver": (record(moved(75)), "junk"),
        "out of sight": (record(moved(95)), None),
        "half as large": (record(np.diag([0.5, 0.5, 1])), "hard"),
        "a quarter as large": (record(np.diag([0.25, 0.25, 1])), "junk"),
        "stretched": (record(np.diag([1, 0.5, 1])), "hard"),
        "stretched much": (record(np.diag([1, 0.2, 1])), "junk"),
    }
    found = relations(query, [other for other, _ in others.values()], box, 100)
    assert dict(zip(others, found, strict=True)) == {name: kind for name, (_, kind) in others.items()}
    assert relations(query, [], box, 100) == []


def test_workers_change_nothing_and_seeds_and_photographs_do(small: StandIn, tmp_path: Path) -> None:
    again = make(tmp_path / "again", "small", SMALL, workers=3)
    assert content(again.pictures.parent) == content(small.pictures.parent)
    other = make(tmp_path / "other", "small", Options(60, 9, 4, 96), workers=1)
    assert not content(other.pictures).items() & content(small.pictures).items()
    rng = np.random.default_rng(0)
    photos = [write_image(tmp_path / f"{i}.png", random_photo(rng, 90, 80)) for i in range(16)]
    mine = make(tmp_path / "mine", "small", SMALL, photos, workers=2)
    kinds = {record.photo: record.kind for record in records(mine.pictures.parent).values()}
    assert [kinds[photo] == "other" for photo in range(16)] == [False] * 14 + [True] * 2


def test_a_killed_call_goes_on_where_it_was(small: StandIn, tmp_path: Path) -> None:
    """Killed at a random moment, twice: no picture is ever half written, and the end is the same."""
    folder = tmp_path / "set"
    code = (
        "import sys; from pathlib import Path; from benchmarks.revisited.synthetic import Options, make; "
        "make(Path(sys.argv[1]), 'small', Options(60, 9, 3, 96), workers=1)"
    )
    whole = content(small.pictures.parent)
    for least in (1, 40):
        process = Child(code, folder)
        end = time.monotonic() + 60
        while len(list(folder.glob("jpg/*.jpg"))) < least and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.kill()
        process.wait()
        for path in folder.glob("jpg/*.jpg"):
            assert path.read_bytes() == whole[path.name]
    seen: list[int] = []
    made = make(folder, "small", SMALL, workers=1, progress=lambda done, total: seen.append(done))
    assert seen[-1] == 69
    assert seen[0] + made.made == 69
    for path in folder.rglob(".*.tmp"):  # what a kill left is nobody's picture
        path.unlink()
    assert content(folder) == whole
    assert make(folder, "small", SMALL).made == 0


def test_folders_and_photographs_that_do_not_fit_are_refused(small: StandIn, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=str(small.pictures.parent)):
        make(small.pictures.parent, "small", Options(61, 9, 3, 96))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=str(tmp_path)):
        make(tmp_path, "small", SMALL)
    with raises(DataError, "mine.txt"):
        make(tmp_path / "mine.txt" / "set", "small", SMALL)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / SUMMARY).write_text(json.dumps({"format": 1}))
    with pytest.raises(FormatError, match=SUMMARY):
        make(tmp_path / "set", "small", SMALL)
    with pytest.raises(DataError):
        make(tmp_path / "none", "small", SMALL, [])
    tiny = write_image(tmp_path / "tiny.png", np.zeros((20, 90, 3), np.uint8))
    with raises(ImageError, "tiny.png"):
        make(tmp_path / "none", "small", SMALL, [tiny])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (1, 1, -1), (1, 1, 0, 63), (True, 1), (1.5, 1)], ids=str)
def test_options_out_of_range(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        Options(*wrong)
