from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.toys import AT_ONCE, IMAGES, TRUTH, jpeg, truth_file
from delf_engine.datasets import KNOWN, Check, Checked, Definition, check, get
from delf_engine.errors import DataError
from file_server import FileServer


@pytest.fixture
def here(toy: Definition, tmp_path: Path) -> Path:
    """The toys, whole and recorded; the folder of the set."""
    return get(toy, tmp_path, transfer=AT_ONCE).folder


def wrong(found: Checked) -> dict[str, Check]:
    return {check.what: check for check in found.checks if not check.ok}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_set_in_order(here: Path, deep: bool, workers: int) -> None:
    seen: list[tuple[int, int]] = []
    found = check("toy", here.parent, deep=deep, workers=workers, progress=lambda *a: seen.append(a))
    assert found.ok
    assert seen == [(8, 8)]
    told = {check.what: check.found for check in found.checks}
    assert told == {
        "gnd_toy.pkl": "SHA-256 as published",
        "ground truth": "2 queries, 6 images",
        "parts": "2 of 2 downloaded and unpacked",
        "images": "all 8 are there",
        "content": "all 8 images decoded" if deep else "all 8 images begin and end as they should",
        **({"hashes": "all of 8 as they were unpacked"} if deep else {}),
    }
    assert found.to_dict()["checks"][0] == {
        "what": "gnd_toy.pkl",
        "ok": True,
        "found": "SHA-256 as published",
        "names": [],
    }
    assert found == check("toy", here.parent, deep=deep, workers=workers)


def test_missing_and_unexpected_files(here: Path) -> None:
    (here / "jpg" / "toy_2.jpg").rename(here / "jpg" / "toy_two.jpg")
    (here / "jpg" / "sub").mkdir()
    (here / "jpg" / "sub" / "notes.txt").write_text("")
    (here / "jpg" / ".hidden").write_text("")
    found = wrong(check("toy", here.parent))
    assert found["images"].found == "1 of 8 images are not there"
    assert found["images"].names == ("toy_2.jpg",)
    assert found["other files"].names == ("sub/notes.txt", "toy_two.jpg")
    assert set(found) == {"images", "other files"}


def test_what_is_known_to_be_damaged_is_no_fault(here: Path) -> None:
    (here / "jpg" / "bad.jpg").write_bytes(b"<html>")
    found = check("toy", here.parent, deep=True)
    assert found.ok
    assert {c.what: c.names for c in found.checks}["damaged as published"] == ("bad.jpg",)


@pytest.mark.parametrize("deep", [False, True])
def test_empty_and_damaged_images(here: Path, deep: bool) -> None:
    whole = IMAGES["toy_1.jpg"]
    (here / "jpg" / "toy_0.jpg").write_bytes(b"")
    (here / "jpg" / "toy_1.jpg").write_bytes(whole[: len(whole) // 2])
    (here / "jpg" / "toy_2.jpg").write_bytes(b"<html>302 Found</html>")
    shutil.copy(here / "jpg" / "toy_4.jpg", here / "jpg" / "toy_3.jpg")
    found = wrong(check("toy", here.parent, deep=deep))
    assert found["empty"].names == ("toy_0.jpg",)
    if deep:
        assert found["hashes"].names == ("toy_1.jpg", "toy_2.jpg", "toy_3.jpg")
        (here / "data.json").unlink()  # without a record, decoding is what is left
        found = wrong(check("toy", here.parent, deep=True))
    assert [name.partition(":")[0] for name in found["damaged"].names] == ["toy_1.jpg", "toy_2.jpg"]
    assert "not an image of a known format" in found["damaged"].names[1]


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(here: Path) -> None:
    with (here / "jpg" / "toy_0.jpg").open("ab") as file:
        file.write(bytes(9000))
    assert "damaged" not in wrong(check("toy", here.parent))


def test_only_a_deep_check_sees_a_changed_pixel(here: Path) -> None:
    (here / "jpg" / "toy_0.jpg").write_bytes(jpeg(99))
    assert check("toy", here.parent).ok
    assert wrong(check("toy", here.parent, deep=True))["hashes"].names == ("toy_0.jpg",)


def test_files_that_are_not_the_published_ones(here: Path, letters: Definition) -> None:
    (here / "gnd_toy.pkl").write_bytes(truth_file(["toy_1"], []))
    found = wrong(check("toy", here.parent))
    assert found["gnd_toy.pkl"].found.startswith("SHA-256 ")
    assert "published" in found["gnd_toy.pkl"].found
    assert "has 1 images and 0 queries, toy has 6 and 2" in found["ground truth"].found
    assert "nothing to compare them with" in found["names"].found
    (here / "gnd_toy.pkl").write_bytes(b"none")
    assert "cannot be read as a ground truth" in wrong(check("toy", here.parent))["ground truth"].found
    (here / "gnd_toy.pkl").unlink()
    assert wrong(check("toy", here.parent))["gnd_toy.pkl"].found == "missing"

    listing = get(letters, here.parent, transfer=AT_ONCE).folder / "metadata" / "index.csv"
    assert check("letters", here.parent, deep=True).ok
    listing.write_text(listing.read_text().replace("00cdef", "0zcdef") + "\n")
    found = wrong(check("letters", here.parent))
    assert "none is published" in found["metadata/index.csv"].found
    assert found["ground truth"].names == ("00cdef",)
    assert (found["images"].names, found["other files"].names) == (("0/z/c/0zcdef.jpg",), ("0/0/c/00cdef.jpg",))
    listing.write_text("id\n00cdef\n")
    assert wrong(check("letters", here.parent))["list of images"].found == (
        "metadata/index.csv names 1 images, 9 were expected"
    )


@pytest.mark.parametrize("content", ["", "id,images\n", "id,images,Usage\na,b\n", "id,images,Usage\na,b,c,d\n"])
def test_a_solution_that_is_none(letters: Definition, tmp_path: Path, content: str) -> None:
    found = get(letters, tmp_path, transfer=AT_ONCE)
    (found.folder / "truth" / "solution.csv").write_text(content)
    assert "solution.csv" in wrong(check("letters", tmp_path))["ground truth"].found


def test_queries_are_compared_with_the_list_of_queries(letters: Definition, tmp_path: Path) -> None:
    found = get(letters, tmp_path, transfer=AT_ONCE)
    (found.folder / "index").rename(found.folder / "test")
    queries = replace(letters, images="test")
    assert wrong(check(queries, tmp_path))["ground truth"].names == ("q1", "q2")


def test_a_part_of_a_set_is_measured_by_itself(tree: Definition, tmp_path: Path) -> None:
    get(tree, tmp_path, parts=(2,), transfer=AT_ONCE)
    found = check("tree", tmp_path, deep=True)
    assert found.ok
    told = {check.what: check.found for check in found.checks}
    assert told["parts"] == "1 of 2 downloaded and unpacked"
    assert told["images"] == "all 2 are there"


def test_images_of_another_set(here: Path, toy: Definition) -> None:
    shutil.rmtree(here / "jpg")
    (here / "jpg").mkdir()
    (here / "jpg" / "oxford_1.jpg").write_bytes(jpeg(0))
    found = wrong(check("toy", here.parent))
    assert "is " in found["images and ground truth"].found
    assert found["images"].names == tuple(sorted(IMAGES))


def test_a_second_ground_truth(here: Path) -> None:
    (here / "gnd_other.pkl").write_bytes(TRUTH)
    assert wrong(check("toy", here.parent))["ground truth"].names == ("gnd_other.pkl",)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    for name in ("a", "q"):
        (tmp_path / "jpg" / f"{name}.jpg").write_bytes(jpeg(0))
    (tmp_path / "gnd_own.pkl").write_bytes(truth_file(["a"], ["q"]))
    found = check(str(tmp_path), deep=True)
    assert found.ok
    assert [c.what for c in found.checks] == ["ground truth", "images", "content"]
    (tmp_path / "gnd_own.pkl").write_bytes(truth_file([], []))
    found = check(str(tmp_path))
    assert wrong(found)["other files"].names == ("a.jpg", "q.jpg")


def test_what_is_not_there(toy: Definition, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"toy is not there: no folder .*toy; download it with: delf-engine data get"
    ):
        check("toy", tmp_path)
    with pytest.raises(DataError, match="there is no data set"):
        check("none", tmp_path)
    (tmp_path / "toy").mkdir()
    found = wrong(check("toy", tmp_path))
    assert set(found) == {"gnd_toy.pkl", "ground truth", "names"}


def test_the_official_ground_truth_of_the_other_set(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rparis6k"
    (folder / "jpg").mkdir(parents=True)
    for photo in sorted((data / "paris").iterdir())[:5]:
        (folder / "jpg" / photo.name).symlink_to(photo)
    shutil.copyfile(data / "revisited" / "gnd_roxford5k.pkl", folder / "gnd_rparis6k.pkl")
    found = wrong(check("rparis6k", tmp_path))
    assert "is the ground truth of roxford5k, not of rparis6k" in found["ground truth"].found
    shutil.copyfile(data / "revisited" / "gnd_rparis6k.pkl", folder / "gnd_rparis6k.pkl")
    found = wrong(check("rparis6k", tmp_path, deep=True))
    assert found["images"].found == "6,387 of 6,392 images are not there"
    assert len(found["images"].names) == 6387
    assert "other files" not in found
    assert "damaged" not in found


def test_an_interrupted_download_is_said(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    server.break_after = [100_000, 300, 0, 0, 0]
    with pytest.raises(DataError, match="300 bytes are kept"):
        get(toy, tmp_path, transfer=AT_ONCE)
    found = wrong(check("toy", tmp_path))
    assert (found["downloads"].found, found["downloads"].names) == (
        "interrupted; data get goes on from there",
        ("toy_1.tgz",),
    )
    assert "toy" in KNOWN
