from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from delf_engine import find_copies
from delf_engine.copies import Copies, Copy, dismiss, write_copies_report
from delf_engine.copies import find as stages
from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.extraction import Extractor
from helpers import planes_decide, raises, random_photo, write_image, write_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_model(tmp_path_factory.mktemp("model"))
    planes_decide().save(path.with_suffix(".calibration.json"))
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, what became of it, and two others; ``aside.png`` shows the same wall behind other things."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("copies") / "photos"
    photo, other = random_photo(rng, 420, 300), random_photo(rng, 420, 300)
    write_image(folder / "photo.png", photo)
    shutil.copy(folder / "photo.png", folder / "exact.png")
    write_image(folder / "small.jpg", cv2.resize(photo, (210, 150), interpolation=cv2.INTER_AREA), quality=60)
    write_image(folder / "turned.png", np.ascontiguousarray(np.rot90(photo)))
    write_image(folder / "crop.png", photo[40:200, 100:330])
    page = other.copy()
    page[50:200, 30:240] = cv2.resize(photo, (210, 150), interpolation=cv2.INTER_AREA)
    write_image(folder / "page.png", page)
    near = cv2.GaussianBlur(rng.normal(size=(300, 420)), (0, 0), 40) > 0
    aside = np.where(near[..., None], np.roll(photo, 25, axis=1), photo)
    write_image(
        folder / "aside.png", np.clip(0.8 * aside + rng.normal(0, 20, aside.shape), 0, 255).astype(np.uint8)
    )
    write_image(folder / "lone.png", random_photo(rng, 420, 300))
    return folder


@pytest.fixture(scope="session")
def found(folder: Path, model: Path) -> Copies:
    return find_copies(folder, model=model, engine=folder.parent / "engine", workers=1)


def by_name(found: Copies) -> dict[tuple[str, str], Copy]:
    return {(os.path.basename(copy.a), os.path.basename(copy.b)): copy for copy in found.copies}


def test_each_copy_is_of_its_kind_and_where_it_is(found: Copies) -> None:
    copies = by_name(found)
    assert {pair: copy.kind for pair, copy in copies.items()} == {
        ("exact.png", "photo.png"): "exact",
        ("exact.png", "small.jpg"): "copy",
        ("exact.png", "turned.png"): "copy",
        ("exact.png", "crop.png"): "crop",
        ("page.png", "exact.png"): "embedded",
        ("page.png", "crop.png"): "embedded",
    }
    np.testing.assert_allclose(copies["exact.png", "crop.png"].box_a, (100, 40, 330, 200), atol=1.5)
    np.testing.assert_allclose(copies["page.png", "exact.png"].box_a, (30, 50, 240, 200), atol=1.5)
    np.testing.assert_allclose(copies["exact.png", "turned.png"].box_b, (0, 0, 300, 420), atol=1.5)
    assert [len(names) for names in found.clusters] == [6]
    listed = {os.path.basename(name): os.path.basename(kept) for name, kept in found.superfluous("largest")}
    assert len(listed) == 4  # all but the page, and one of three of the same size
    assert listed.keys() >= {"small.jpg", "crop.png"}
    assert "page.png" not in listed


def test_any_number_of_workers_and_the_engine_that_was_kept_give_the_same(
    folder: Path, model: Path, found: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Extractor, "extract_many", None)  # any use would fail
    assert find_copies(folder, engine=folder.parent / "engine", workers=3) == found


def test_pairs_that_are_no_copies_stay_out(folder: Path, model: Path, found: Copies, tmp_path: Path) -> None:
    dismiss(tmp_path / "not.jsonl", [folder / "exact.png", folder / "crop.png"])
    again = find_copies(folder, engine=folder.parent / "engine", dismissed=tmp_path / "not.jsonl")
    assert set(by_name(found)) - set(by_name(again)) == {("exact.png", "crop.png")}
    # What is no near copy of its original any more is looked for by itself.
    dismiss(tmp_path / "not.jsonl", [folder / "exact.png", folder / "small.jpg"])
    alone = find_copies(folder, model=model, engine=tmp_path / "engine", dismissed=tmp_path / "not.jsonl")
    assert set(by_name(found)) - set(by_name(alone)) == {("exact.png", "crop.png"), ("exact.png", "small.jpg")}
    assert any("small.jpg" in pair for pair in by_name(alone))


def test_the_page_holds_every_pair(found: Copies, tmp_path: Path) -> None:
    size = write_copies_report(tmp_path / "copies.html", found)
    page = (tmp_path / "copies.html").read_text(encoding="utf-8")
    assert size == (tmp_path / "copies.html").stat().st_size
    assert page.count("data:image/jpeg;base64,") == 2 * len(found.copies)
    assert all(os.path.basename(name) in page for name in found.clusters[0])
    gone = Copies(
        {"gone.png": (9, 9)}, (Copy("exact", "gone.png", "gone.png", 1.0),), (("bad.jpg", "no <image>"),)
    )
    write_copies_report(tmp_path / "gone.html", gone)
    assert "no &lt;image&gt;" in (tmp_path / "gone.html").read_text(encoding="utf-8")


def test_a_crop_of_what_a_caption_hides_is_one_of_a_near_copy(rng: np.random.Generator, tmp_path: Path) -> None:
    photo = random_photo(rng, 420, 300)
    captioned = photo.copy()
    captioned[105:185, 145:265] = rng.integers(0, 256, (80, 120, 3))
    a = str(write_image(tmp_path / "a.png", captioned))
    b = str(write_image(tmp_path / "b.png", photo))
    c = str(write_image(tmp_path / "c.png", photo[100:190, 140:270]))
    job = stages._Job(set(), None, 1, lambda *_: None)
    known, _ = job.read([a, b, c])
    copies, leaders = job.grouped(known)
    assert [(copy.kind, copy.a, copy.b) for copy in copies] == [("copy", a, b)]
    assert [photo.path for photo in leaders] == [a, c]
    start = np.array([[1, 0, -140], [0, 1, -100], [0, 0, 1.0]])
    for crop in (job._compared(a, c, start), job._compared(c, a, np.linalg.inv(start))):
        assert crop is not None
        assert (crop.kind, crop.a, crop.b) == ("crop", b, c)


def test_an_overlap_names_copies_and_places_across(folder: Path, model: Path, tmp_path: Path) -> None:
    for name in ("crop.png", "aside.png", "small.jpg", "lone.png"):
        (tmp_path / "test").mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / "test" / name)
    shutil.copy(folder / "crop.png", tmp_path / "test" / "again.png")
    (tmp_path / "train").mkdir()
    for name in ("photo.png", "exact.png", "page.png"):
        shutil.copy(folder / name, tmp_path / "train" / name)
    found = find_copies(tmp_path / "test", within=tmp_path / "train", model=model)
    kinds = {pair: copy.kind for pair, copy in by_name(found).items()}
    assert kinds["exact.png", "small.jpg"] == "copy"
    assert kinds["exact.png", "again.png"] == kinds["exact.png", "crop.png"] == "crop"
    assert kinds["exact.png", "aside.png"] == "place"
    assert not any("lone.png" in pair for pair in kinds)
    assert ("exact.png", "photo.png") not in kinds  # both to train on
    assert len(found.tested) == 5
    with raises(DataError, "crop.png"):
        find_copies(tmp_path / "test", within=[tmp_path / "train", tmp_path / "test" / "crop.png"], model=model)


def test_thousands_of_exact_copies_are_looked_at_once(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "working_engine", None)  # any use would fail
    first = write_image(tmp_path / "0.png", random_photo(rng, 40, 30))
    for number in range(1, 2000):
        os.link(first, tmp_path / f"{number}.png")
    looks = []
    read = stages.read_grey
    monkeypatch.setattr(stages, "read_grey", lambda *of: looks.append(of) or read(*of))
    found = find_copies(tmp_path)
    assert len(looks) == 1
    assert [len(names) for names in found.clusters] == [2000]
    assert len(found.superfluous("first")) == 1999


def test_near_copies_are_each_compared_with_one(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "working_engine", None)
    photo = random_photo(rng, 200, 150)
    for number in range(80):
        write_image(tmp_path / f"{number:02}.jpg", photo, quality=20 + number)
    looks = []
    compare = stages.agreement
    monkeypatch.setattr(stages, "agreement", lambda *of: looks.append(of) or compare(*of))
    found = find_copies(tmp_path)
    assert len(looks) == len(found.copies) == 79
    assert {os.path.basename(copy.a) for copy in found.copies} == {"00.jpg"}


def test_photographs_that_cannot_be_read_or_compared(
    rng: np.random.Generator, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "photos" / "dot.png", np.zeros((1, 1, 3), np.uint8))
    monkeypatch.setattr(stages, "working_engine", None)
    assert find_copies(tmp_path / "photos").copies == ()  # one photograph has none
    monkeypatch.undo()
    write_image(tmp_path / "photos" / "white.png", np.full((90, 120, 3), 255, np.uint8))
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    os.symlink(tmp_path / "nowhere.jpg", tmp_path / "photos" / "gone.jpg")
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "photos" / "pipe.jpg")
    write_image(tmp_path / "photos" / "large.png", random_photo(rng, 300, 200))
    found = find_copies(tmp_path / "photos", model=model, max_pixels=50_000)
    assert {os.path.basename(name) for name, _ in found.failed} == {
        "bad.jpg",
        "empty.jpg",
        "gone.jpg",
        "large.png",
        "pipe.jpg",
    }
    assert found.copies == ()
    assert len(found.photographs) == 2


def test_all_kinds_of_files_are_compared_and_blank_ones_are_copies_by_their_bytes_only(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "LEAST", 10_000)  # whole ones: no model is needed
    photo = Image.fromarray(random_photo(rng, 200, 150))
    for name in ("a/photo.png", "b/photo.png"):  # the same name twice
        (tmp_path / name).parent.mkdir()
        photo.save(tmp_path / name)
    photo.convert("CMYK").save(tmp_path / "a" / "cmyk.jpg", quality=95)
    photo.save(tmp_path / "a" / "cut.jpg", quality=95)
    (tmp_path / "a" / "cut.jpg").write_bytes((tmp_path / "a" / "cut.jpg").read_bytes()[:4000])
    for number, size in enumerate([(200, 150), (200, 151), (300, 200), (1, 1)]):
        for ending in ("png", "jpg"):
            Image.new("RGB", size, "white").save(tmp_path / "b" / f"white{number}.{ending}")
    shutil.copy(tmp_path / "b" / "white0.png", tmp_path / "b" / "white9.png")
    os.symlink(tmp_path / "a" / "cmyk.jpg", tmp_path / "a" / "also.jpg")
    os.symlink(tmp_path / "b", tmp_path / "c")
    found = find_copies([tmp_path / name for name in "cab"])
    assert {
        (copy.kind, *(os.path.relpath(name, tmp_path) for name in (copy.a, copy.b))) for copy in found.copies
    } == {
        ("exact", "a/photo.png", "b/photo.png"),
        ("copy", "a/cmyk.jpg", "a/photo.png"),
        ("exact", "b/white0.png", "b/white9.png"),
    }
    assert [os.path.basename(name) for name, _ in found.failed] == ["cut.jpg"]
    assert len(found.photographs) == 12  # neither a link nor what is cut off


def test_what_was_interrupted_goes_on(
    folder: Path, model: Path, found: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(stage: str, *_: int) -> None:
        if stage == "verifying":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_copies(folder, model=model, engine=tmp_path / "engine", progress=interrupt)
    monkeypatch.setattr(Extractor, "extract_many", None)  # any use would fail
    assert find_copies(folder, engine=tmp_path / "engine") == found


def test_what_cannot_work_is_said_before_the_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with raises(DataError, "none"):
        find_copies(tmp_path / "none")
    with raises(DataError, "missing"):
        find_copies(tmp_path / "missing")
    with raises(ConfigError, "per_photo", "0"):
        find_copies(folder, per_photo=0)
    with raises(ConfigError, "-1"):
        find_copies(folder, workers=-1)
    with raises(FormatError, "not.jsonl"):
        find_copies(folder, dismissed=tmp_path / "not.jsonl")
    with raises(FormatError, str(folder)):
        find_copies([], engine=folder)
    assert find_copies([]).copies == ()
