from __future__ import annotations

import errno
import json
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from delf_engine.cli import app
from delf_engine.errors import ConfigError, DataError, FormatError, MismatchError
from delf_engine.evaluation import load_ground_truth
from delf_engine.images import load_image
from delf_engine.synthesis import Synthesized, homography_between, load_geometry, synthesize
from synthesis.small import SMALL


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "synthesis.json"  # which holds the time that it took
    }


# -------------------------------------------------------------------------------------------------- the layout


def test_the_layout_is_that_of_roxford(small: Synthesized) -> None:
    truth, geometry = load_ground_truth(small.ground_truth), load_geometry(small.folder)
    assert small.ground_truth.name == "gnd_synthetic5k.pkl"
    assert (len(truth.names), len(truth)) == (30, 4)
    assert not set(truth.names) & set(truth.query_names)
    names = {path.name for path in (small.folder / "jpg").iterdir()}
    assert names == {f"{name}.jpg" for name in (*truth.names, *truth.query_names)}
    assert sorted(path.name for path in small.folder.iterdir()) == [
        "geometry.jsonl",
        "gnd_synthetic5k.pkl",
        "jpg",
        "synthesis.json",
    ]
    for name in (*truth.names, *truth.query_names):
        height, width = load_image(small.folder / "jpg" / f"{name}.jpg").shape[:2]
        assert (width, height) == geometry[name].size
        assert max(width, height) <= 160
    kinds = [geometry[name].kind for name in truth.names]
    assert {kind: kinds.count(kind) for kind in kinds} == {"gallery": 8, "town": 18, "scene": 4}
    assert kinds != sorted(kinds)  # the order of the gallery says nothing


def test_the_summary_says_how_it_was_made(small: Synthesized) -> None:
    summary = json.loads((small.folder / "synthesis.json").read_text())
    assert summary["complete"]
    assert summary["options"] == {**SMALL, "seed": 0}
    assert summary["sha256"] == small.sha256
    assert summary["counts"] == small.counts == small.to_dict()["counts"]
    geometry = load_geometry(small.folder)
    for record in geometry.values():
        for name, face in record.faces.items():
            described = summary["landmarks"][record.landmark]["faces"][name]
            columns = np.column_stack(
                [described["right"], described["down"], np.array(described["corner"]) - record.camera.centre]
            )
            expected = record.camera.intrinsics @ record.camera.rotation @ columns
            np.testing.assert_allclose(face.homography, expected, rtol=1e-12)


def test_pictures_have_light_and_structure(small: Synthesized) -> None:
    for path in (small.folder / "jpg").iterdir():
        image = load_image(path).astype(float)
        assert 8 < image.mean() < 245, path
        assert image.std() > 5, path


# -------------------------------------------------------------------------------------------------- homography


def test_a_homography_moves_the_picture_of_a_face(tmp_path: Path) -> None:
    """What one photograph shows of a face is where the homography says in another: they look alike there."""
    made = synthesize(tmp_path / "set", images=26, queries=1, landmarks=1, longer_side=320, seed=4, workers=1)
    views = [r for r in load_geometry(made.folder).values() if r.landmark == 0 and r.clear]
    right, wrong = [], []
    for i, a in enumerate(views):
        for b in views[i + 1 :]:
            for face in set(a.faces) & set(b.faces):
                if min(a.faces[face].share, b.faces[face].share) < 0.9 or "roof" in face:
                    continue
                between = homography_between(a, b, face)
                there_and_back = homography_between(b, a, face) @ between
                np.testing.assert_allclose(there_and_back / there_and_back[2, 2], np.eye(3), atol=1e-6)
                pictures = [cv2.imread(str(made.folder / "jpg" / f"{r.name}.jpg"), 0) for r in (a, b)]
                mask = np.zeros(b.size[::-1], np.uint8)
                width, height = face_size(made, face)
                corners = np.array([[(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)]]) * (width, height)
                outline = cv2.perspectiveTransform(corners, b.faces[face].homography)[0]
                cv2.fillConvexPoly(mask, np.rint(outline).astype(np.int32), 1)
                if mask.sum() < 900:
                    continue
                for shift, out in ((0, right), (5, wrong)):
                    moved = np.array([[1, 0, shift], [0, 1, shift], [0, 0, 1]]) @ between
                    warped = cv2.warpPerspective(pictures[0], moved, b.size)
                    out.append(np.corrcoef(warped[mask > 0], pictures[1][mask > 0])[0, 1])
    assert len(right) > 5
    assert np.median(right) > 0.75
    assert np.median(right) > np.median(wrong) + 0.3


def face_size(made: Synthesized, face: str) -> tuple[float, float]:
    described = json.loads((made.folder / "synthesis.json").read_text())["landmarks"][0]["faces"][face]
    width, height = np.max(described["outline"], axis=0)
    return float(width), float(height)


def test_a_homography_needs_a_face_that_both_show(small: Synthesized) -> None:
    geometry = load_geometry(small.folder)
    first = geometry["landmark0000_query000"]
    with pytest.raises(DataError, match="show no landmark in common"):
        homography_between(first, geometry["landmark0001_query000"], "main-front")
    with pytest.raises(DataError, match="show no landmark in common"):
        homography_between(geometry["scene_000000"], geometry["scene_000000"], "main-front")
    with pytest.raises(DataError, match=r"landmark0000_query000 does not show face 'cellar'.*it shows "):
        homography_between(first, first, "cellar")


def test_damaged_geometry_is_told(small: Synthesized, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="run `delf-engine data synthesize` first"):
        load_geometry(tmp_path)
    text = (small.folder / "geometry.jsonl").read_text()
    for damaged in (
        text.replace('"size"', '"sise"', 1),
        text[:-40],
        "[]\n",
        '{"name":3}\n',
        text.replace("[[", "[", 1),
    ):
        (tmp_path / "geometry.jsonl").write_text(damaged)
        with pytest.raises(FormatError, match=r"geometry\.jsonl, line \d+: is no record"):
            load_geometry(tmp_path)


# ---------------------------------------------------------------------------------------- the same bits, always


def test_two_workers_and_one_write_the_same_bits(small: Synthesized, tmp_path: Path) -> None:
    other = synthesize(tmp_path / "set", workers=2, **SMALL)
    assert content(other.folder) == content(small.folder)
    assert other.sha256 == small.sha256


def test_another_seed_gives_other_landmarks(small: Synthesized, tmp_path: Path) -> None:
    other = synthesize(tmp_path / "set", images=1, queries=1, landmarks=1, longer_side=160, seed=1, workers=1)
    a, b = (load_geometry(made.folder)["landmark0000_query000"] for made in (small, other))
    assert a.sha256 != b.sha256
    described = [json.loads((m.folder / "synthesis.json").read_text())["landmarks"][0] for m in (small, other)]
    assert described[0] != described[1]


class Killed(BaseException):
    pass


def test_a_call_that_was_stopped_goes_on(small: Synthesized, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 34
        if done >= 12:
            raise Killed

    folder = tmp_path / "set"
    with pytest.raises(Killed):
        synthesize(folder, workers=1, progress=stop, **SMALL)
    assert not json.loads((folder / "synthesis.json").read_text())["complete"]
    assert not list(folder.glob("gnd_*"))
    (folder / "jpg" / "landmark0001_000002.jpg").write_bytes(b"half of a file")  # never finished
    seen: list[int] = []
    made = synthesize(folder, workers=1, progress=lambda done, total: seen.append(done), **SMALL)
    assert 0 < made.rendered < 34
    assert seen[0] + made.rendered == seen[-1] == 34
    assert content(folder) == content(small.folder)


def test_what_is_damaged_afterwards_is_rendered_again(small: Synthesized, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(small.folder, folder)
    assert synthesize(folder, workers=1, **SMALL).rendered == 0
    photo = folder / "jpg" / "scene_000001.jpg"
    photo.write_bytes(photo.read_bytes()[:-1])
    assert 0 < synthesize(folder, workers=1, **SMALL).rendered < 34
    assert content(folder) == content(small.folder)


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "images must be a whole number from 1"),
        ({"images": 10**9}, "images must be"),
        ({"queries": -1}, "queries must be"),
        ({"queries": 2.5}, r"queries must be .*, got 2\.5"),
        ({"landmarks": 0}, "landmarks must be"),
        ({"landmarks": True}, "landmarks must be"),
        ({"longer_side": 8}, "longer_side must be a whole number from 64 to 4096"),
        ({"seed": -1}, "seed must be"),
        ({"workers": 0}, "workers must be"),
        ({"name": "a/b"}, "name must be part of a file's name"),
        ({"name": ""}, "name must be part"),
        ({"name": ".."}, "name must be part"),
    ],
    ids=str,
)
def test_absurd_options(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path / "set", **{**SMALL, **changes})
    assert not (tmp_path / "set").exists()


def test_a_folder_of_other_options_is_refused(small: Synthesized) -> None:
    before = content(small.folder)
    with pytest.raises(MismatchError, match=r"holds a set with images 30 \(now 31\), seed 0 \(now 7\); use these"):
        synthesize(small.folder, **{**SMALL, "images": 31, "seed": 7})
    with pytest.raises(MismatchError, match="name 'synthetic5k'"):
        synthesize(small.folder, name="other", **SMALL)
    assert content(small.folder) == before


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        synthesize(tmp_path, **SMALL)
    with pytest.raises(DataError, match="is a file; name a folder"):
        synthesize(tmp_path / "photo.jpg", **SMALL)
    with pytest.raises(DataError, match="cannot be written: Not a directory"):
        synthesize(tmp_path / "photo.jpg" / "set", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "synthesis.json").write_text("{}")
    with pytest.raises(FormatError, match="is damaged"):
        synthesize(tmp_path / "set", **SMALL)


def test_a_disk_without_room_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(DataError, match="MB are needed and 0 MB are free; make room"):
        synthesize(tmp_path / "set", **SMALL)
    assert not list((tmp_path / "set" / "jpg").iterdir())


def test_a_disk_that_fills_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.parent.name == "jpg" and len(list(path.parent.iterdir())) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return written(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match="the disk is full; make room and run again: what is written is kept"):
            synthesize(tmp_path / "set", images=2, queries=1, landmarks=1, longer_side=160, workers=1)
    assert not [p for p in (tmp_path / "set").rglob("*") if p.name.endswith(".tmp")]
    assert synthesize(tmp_path / "set", images=2, queries=1, landmarks=1, longer_side=160, workers=1).rendered >= 1


# -------------------------------------------------------------------------------------------------- the command


def test_the_command(tmp_path: Path) -> None:
    few = {"--images": "2", "--queries": "1", "--landmarks": "1", "--longer-side": "160", "--name": "tiny"}
    options = [part for pair in {**few, "--workers": "1"}.items() for part in pair]
    result = CliRunner().invoke(app, ["data", "synthesize", str(tmp_path / "set"), *options, "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["rendered"] == 3
    assert len(load_ground_truth(values["ground_truth"])) == 1
    result = CliRunner().invoke(app, ["data", "synthesize", str(tmp_path / "set"), *options])
    assert "2 images and 1 queries in" in result.stdout
    assert re.search(r"\b0 rendered in", result.stdout)
    assert values["sha256"] in result.stdout
    result = CliRunner().invoke(app, ["data", "synthesize", str(tmp_path / "set"), *options, "--seed", "9"])
    assert isinstance(result.exception, MismatchError)
