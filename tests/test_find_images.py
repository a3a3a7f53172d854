from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from delf_engine.errors import DataError, DelfEngineWarning, ImageError
from delf_engine.images import find_images, load_image
from helpers import raises


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_find_images_nested_sorted_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "z/c.webp", "m/d.jpeg", ".hidden.jpg", ".cache/e.jpg", "notes.txt", "jpg")
    found = find_images([tmp_path])
    assert [os.path.relpath(f, tmp_path) for f in found] == ["a.PNG", "b.jpg", "m/d.jpeg", "z/c.webp"]
    assert all(isinstance(f, str) for f in found)


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
