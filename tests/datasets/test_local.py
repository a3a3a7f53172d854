from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.toys import AT_ONCE, TRUTH, jpeg, truth_file
from delf_engine.datasets import KNOWN, Dataset, Definition, data_folder, get, locate, missing_images
from delf_engine.datasets.local import read_names
from delf_engine.errors import DataError, FormatError
from delf_engine.evaluation import GroundTruth, load_ground_truth


def test_where_data_sets_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DELF_ENGINE_DATA", "DELF_ENGINE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert data_folder() == Path("~/.local/share/delf-engine/data").expanduser()
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert data_folder() == Path("/xdg/delf-engine/data")
    monkeypatch.setattr("sys.platform", "darwin")
    assert data_folder() == Path("~/Library/Application Support/delf-engine/data").expanduser()
    monkeypatch.setenv("DELF_ENGINE_HOME", "/home")
    assert data_folder() == Path("/home/data")
    monkeypatch.setenv("DELF_ENGINE_DATA", "~/sets")
    assert data_folder() == Path("~/sets").expanduser()
    assert data_folder(tmp_path) == tmp_path


def test_locate(toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"toy is not there: no .*jpg; download it with: delf-engine data get toy, or"
    ):
        locate("toy", tmp_path)
    get(toy, tmp_path, transfer=AT_ONCE)
    monkeypatch.setenv("DELF_ENGINE_DATA", str(tmp_path))
    found = locate("toy")
    assert (found.name, found.folder, found.images) == ("toy", tmp_path / "toy", tmp_path / "toy" / "jpg")
    assert found.names == tuple(f"toy_{i}" for i in range(8))
    assert found.ground_truth.query_names == ("toy_6", "toy_7")
    assert found.image("toy_3") == found.image("toy_3.jpg") == tmp_path / "toy" / "jpg" / "toy_3.jpg"
    assert locate(str(tmp_path / "toy")) == found
    with pytest.raises(DataError, match="there is no data set 'toys'"):
        locate("toys")


def test_a_set_that_was_put_there_by_hand(toy: Definition, tmp_path: Path) -> None:
    (tmp_path / "toy" / "jpg").mkdir(parents=True)
    (tmp_path / "toy" / "gnd_other.pkl").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"no .*gnd_toy\.pkl \(gnd_other\.pkl is there, the ground truth of another"
    ):
        locate("toy", tmp_path)
    (tmp_path / "toy" / "gnd_toy.pkl").write_bytes(TRUTH)
    found = locate("toy", tmp_path)
    assert (found.parts, found.received) == ((), None)
    assert found.missing() == list(found.names)


def test_the_ground_truth_of_another_set(toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = get(toy, tmp_path, transfer=AT_ONCE)
    monkeypatch.setitem(KNOWN, "toy2", replace(toy, name="toy2", folder="toy2", ground_truth="gnd_toy.pkl"))
    monkeypatch.setitem(KNOWN, "toy", replace(toy, files=()))
    with pytest.raises(DataError, match=r"gnd_toy\.pkl: is the ground truth of toy2, not of toy"):
        locate("toy", tmp_path).ground_truth  # noqa: B018
    assert found.ground_truth_file is not None
    found.ground_truth_file.write_bytes(truth_file(["toy_1"], ["toy_2"]))
    with pytest.raises(
        DataError, match=r"has 1 images and 1 queries, toy has 6 and 2; it is the ground truth of an"
    ):
        locate("toy", tmp_path).ground_truth  # noqa: B018


def test_the_official_ground_truths_are_told_apart(data: Path, tmp_path: Path) -> None:
    (tmp_path / "roxford5k" / "jpg").mkdir(parents=True)
    place = tmp_path / "roxford5k" / "gnd_roxford5k.pkl"
    shutil.copy(data / "revisited" / "gnd_rparis6k.pkl", place)
    with pytest.raises(DataError, match="is the ground truth of rparis6k, not of roxford5k"):
        locate("roxford5k", tmp_path).names  # noqa: B018
    place.chmod(0o600)
    shutil.copy(data / "revisited" / "gnd_roxford5k.pkl", place)
    assert len(locate("roxford5k", tmp_path).missing()) == 5063


def test_paris_at_hand_is_a_part_of_the_whole(data: Path) -> None:
    truth = load_ground_truth(data / "revisited" / "gnd_rparis6k.pkl")
    missing = missing_images(truth, data / "paris")
    assert len(missing) == 6392 - 250
    there = {photo.stem for photo in (data / "paris").iterdir()}
    assert missing == [name for name in (*truth.names, *truth.query_names) if name not in there]


def test_open_a_folder_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one ground truth gnd_\*\.pkl was expected in this folder, found none"):
        Dataset.open(tmp_path)
    (tmp_path / "gnd_scene.pkl").write_bytes(truth_file(["a", "b.png", "c/d"], ["q"]))
    with pytest.raises(DataError, match=r"no folder jpg with the images beside gnd_scene\.pkl"):
        Dataset.open(tmp_path)
    for name in ("a.jpg", "b.png", "c/d.jpg"):
        path = tmp_path / "jpg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(0))
    found = locate(str(tmp_path))
    assert (found.name, found.definition, found.parts, found.received) == ("scene", None, (), None)
    assert found.names == ("a", "b.png", "c/d", "q")
    assert found.missing() == missing_images(found.ground_truth, found.images) == ["q"]
    (tmp_path / "gnd_other.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"found gnd_other\.pkl, gnd_scene\.pkl"):
        Dataset.open(tmp_path)


def test_sets_without_a_ground_truth(letters: Definition, tmp_path: Path) -> None:
    found = get(letters, tmp_path, transfer=AT_ONCE)
    with pytest.raises(DataError, match="letters has no ground truth of the revisited protocol"):
        found.ground_truth  # noqa: B018
    bare = Dataset("bare", tmp_path, tmp_path)
    with pytest.raises(DataError, match="nothing says which images there should be"):
        bare.names  # noqa: B018


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", ".", "..", "a\0b"])
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    truth = GroundTruth((name,), (), [], (), (), ())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is no name of an image: it would lead out of its folder"):
        missing_images(truth, tmp_path)
    with pytest.raises(DataError, match="is no name of an image"):
        Dataset("x", tmp_path, tmp_path).image(name)


def test_missing_images_of_no_folder(tmp_path: Path) -> None:
    truth = GroundTruth(("a",), (), [], (), (), ())  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"gone: no such folder of images"):
        missing_images(truth, tmp_path / "gone")


@given(
    names=st.sets(st.text("abc.", min_size=1, max_size=4).filter(lambda n: n.strip(".")), max_size=8),
    data=st.data(),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_missing_images_against_an_oracle(tmp_path: Path, names: set[str], data: st.DataObject) -> None:
    listed = sorted(names)
    there = data.draw(st.sets(st.sampled_from(listed))) if listed else set()
    folder = tmp_path / "jpg"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in there:
        (folder / f"{name}.jpg").write_bytes(b"x")
    cut = len(listed) // 2
    empty = [()] * (len(listed) - cut)
    boxes = [[0, 0, 1, 1]] * (len(listed) - cut)
    truth = GroundTruth(tuple(listed[:cut]), tuple(listed[cut:]), boxes, empty, empty, empty)  # type: ignore[arg-type]
    assert missing_images(truth, folder) == [name for name in listed if name not in there]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "", "no image in this list"),
        ("x.txt", "a\nb\na\n", "'a' stands in it twice"),
        ("x.txt", "a\njpg/a\n", "'a' stands in it twice"),
        ("x.csv", "", "has no column id"),
        ("x.csv", "name\na\n", "has no column id"),
        ("x.csv", "id\n", "no image in this list"),
        ("x.txt", b"\xff\xfe", "cannot be read"),
        ("gone", None, "cannot be read"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError, match=message):
        read_names(tmp_path / name)


def test_lists(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"./jpg/a/1.jpg\r\nb/2.jpg\n\n jpg/c.jpg")
    assert read_names(tmp_path / "x.txt") == ("a/1.jpg", "b/2.jpg", "c.jpg")
    (tmp_path / "x.csv").write_text("id,landmark_id\na,1\nb,2\n")
    assert read_names(tmp_path / "x.csv") == ("a", "b")
