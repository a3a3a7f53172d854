from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from delf_engine.errors import DataError, DelfEngineWarning, ImageError
from delf_engine.images import files, find_images, load_image, reading
from helpers import raises


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_find_images_nested_sorted_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "z/c.webp", "m/d.jpeg", ".hidden.jpg", ".cache/e.jpg", "notes.txt", "jpg")
    with pytest.warns(DelfEngineWarning) as caught:
        found = find_images([tmp_path])
    assert len(caught) == 1
    assert all(fact in str(caught[0].message) for fact in ("2 files", "1 without ending", "1 .txt"))
    assert [os.path.relpath(f, tmp_path) for f in found] == ["a.PNG", "b.jpg", "m/d.jpeg", "z/c.webp"]
    assert all(isinstance(f, str) for f in found)


def test_every_kind_that_pillow_reads_is_taken_and_what_may_be_one_is_named(tmp_path: Path) -> None:
    taken = ["a.avif", "b.jfif", "c.jp2", "d.jpe", "e.tga", "f.TIF", "g.psd", "h.qoi", "i.mpo", "j.j2k"]
    other = ["raw.cr2", "drawing.svg", "list.csv", "text.pdf", "film.mpg"]
    touch(tmp_path, *taken, *other)
    with pytest.warns(DelfEngineWarning) as caught:
        assert [Path(f).name for f in find_images([tmp_path])] == sorted(taken)
    assert len(caught) == 1
    assert all(f"1 {Path(name).suffix}" in str(caught[0].message) for name in other)


def test_what_is_no_picture_is_passed_over_without_a_warning(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "list.csv", "truth.txt", "labels.json", "all.zip", "film.mp4", "talk.mp3")
    assert find_images([tmp_path]) == [str(tmp_path / "a.jpg")]


def test_photographs_of_phones_are_taken_or_what_they_need_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "b.HEIC")
    if files.with_heif():
        assert len(find_images([tmp_path])) == 2
    monkeypatch.setattr(files, "image_suffixes", lambda: frozenset({".jpg"}))
    with pytest.warns(DelfEngineWarning) as caught:
        assert find_images([tmp_path]) == [str(tmp_path / "a.jpg")]
    assert all(fact in str(caught[0].message) for fact in (str(tmp_path), "1 .heic", "delf-engine[heif]"))
    (tmp_path / "b.HEIC").write_text("no image")
    monkeypatch.setattr(reading, "with_heif", lambda: False)
    with raises(ImageError, "b.HEIC", "delf-engine[heif]"):
        load_image(tmp_path / "b.HEIC")
    (tmp_path / "a.jpg").unlink()
    with raises(DataError, "1 .heic", "delf-engine[heif]"):
        find_images([tmp_path])


def test_find_images_takes_a_named_file_whatever_its_ending(tmp_path: Path) -> None:
    touch(tmp_path, "photo.dat", ".hidden.jpg")
    named = [str(tmp_path / "photo.dat"), str(tmp_path / ".hidden.jpg")]
    assert find_images(named) == named


def test_find_images_lists_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    monkeypatch.chdir(tmp_path)
    given = ["a.jpg", ".", "./a.jpg", "sub/../a.jpg", str(tmp_path / "sub"), tmp_path / "a.jpg", "sub/"]
    assert find_images(given) == ["a.jpg", "sub/b.jpg"]


def test_find_images_does_not_follow_links_round_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.jpg")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with pytest.warns(DelfEngineWarning, match=os.path.join("sub", "loop")):
        found = find_images([tmp_path])
    assert [os.path.relpath(f, tmp_path) for f in found] == ["loop.jpg", "sub/a.jpg"]
    with raises(ImageError, "loop.jpg"):
        load_image(found[0])


@pytest.mark.parametrize("names", [(), ("readme.txt",), (".hidden/a.jpg",)])
def test_find_images_in_a_folder_without(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with raises(DataError, str(tmp_path)):
        find_images([tmp_path])


def test_find_images_missing(tmp_path: Path) -> None:
    for name in ("gone", "gone.jpg", "x" * 300):
        with raises(DataError, name):
            find_images([tmp_path / name])
    with raises(DataError):
        find_images([""])  # which a Path takes for the current folder
    assert find_images([]) == []


def test_find_images_passes_over_pipes(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert find_images([tmp_path]) == [str(tmp_path / "a.jpg")]


def test_find_images_warns_of_a_folder_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def guarded(path: Any = ".") -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.warns(DelfEngineWarning, match="locked"):
        assert find_images([tmp_path]) == [str(tmp_path / "a.jpg")]
